//! Annotated and detected objects.

use crate::{InstanceMask, Rle};

/// An annotated object of an image, or a crowd region.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// `[x0, y0, x1, y1]` in pixels of the image; `x1` and `y1` lie outside the object.
    pub bbox: [f32; 4],
    /// Class index.
    pub category: usize,
    /// Whether this is a crowd region (COCO's `iscrowd`): it is no training target, and a detection inside it is not a false positive.
    pub crowd: bool,
    /// The mask; `None` when only the box was annotated.
    pub mask: Option<InstanceMask>,
}

impl Instance {
    /// An object with a box and no mask.
    pub fn new(bbox: [f32; 4], category: usize) -> Self {
        Self { bbox, category, crowd: false, mask: None }
    }
}

/// An object that a detector found.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// `[x0, y0, x1, y1]` in pixels of the image file.
    pub bbox: [f32; 4],
    /// Probability of the class, 0 to 1.
    pub score: f32,
    /// Class index.
    pub category: usize,
    /// The mask, of the size of the image file; `None` for a detector without a mask head.
    pub mask: Option<Rle>,
}
