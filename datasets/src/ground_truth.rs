//! The ground truth of a detection data set, in COCO's terms: what the evaluator compares detections with.

use std::collections::BTreeSet;

use vmamba_types::{ClassList, Instance, Segmentation};

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageEntry {
    /// Its id, at least 0.
    pub id: i64,
    /// Its file, relative to the folder of images.
    pub file_name: String,
    /// `[height, width]` in pixels.
    pub size: [usize; 2],
}

/// A category.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CategoryEntry {
    /// Its id, at least 0.
    pub id: i64,
    /// Its name. Several categories may have one name; the id tells them apart.
    pub name: String,
    /// The name of the group it belongs to, if the file gives one.
    pub supercategory: Option<String>,
}

impl CategoryEntry {
    /// A category without a group.
    pub fn new(id: i64, name: impl Into<String>) -> Self {
        Self { id, name: name.into(), supercategory: None }
    }
}

/// An object, or a crowd region.
#[derive(Clone, Debug, PartialEq)]
pub struct AnnotationEntry {
    /// Its id, at least 0.
    pub id: i64,
    /// Id of its image.
    pub image_id: i64,
    /// Id of its category.
    pub category_id: i64,
    /// `[x, y, width, height]` in pixels of the image.
    pub bbox: [f64; 4],
    /// Annotated area in pixels; it decides whether the object counts as small, medium or large.
    pub area: f64,
    /// Whether it is a crowd region.
    pub crowd: bool,
    /// Its mask, if there is one.
    pub segmentation: Option<Segmentation>,
}

/// The annotations that have no mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} of {all} annotations have no mask, first annotation {first}")]
pub struct WithoutMasks {
    /// How many there are.
    pub count: usize,
    /// How many annotations there are in all.
    pub all: usize,
    /// Id of the first.
    pub first: i64,
}

/// Images, categories and annotations. The class index of a category is its place in `categories`.
///
/// [`GroundTruth::read`] and [`GroundTruth::write`] convert from and to COCO's JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroundTruth {
    /// Images.
    pub images: Vec<ImageEntry>,
    /// Categories.
    pub categories: Vec<CategoryEntry>,
    /// Annotations, crowd regions included.
    pub annotations: Vec<AnnotationEntry>,
}

impl GroundTruth {
    /// No image yet; class `k` becomes category `k + 1`.
    pub fn new(classes: &ClassList) -> Self {
        let categories = classes.names.iter().zip(1..).map(|(name, id)| CategoryEntry::new(id, name)).collect();
        Self { categories, ..Self::default() }
    }

    /// The annotations of [`GroundTruth::categories`] that have no mask; `None` when all have one.
    pub fn without_masks(&self) -> Option<WithoutMasks> {
        let categories: BTreeSet<i64> = self.categories.iter().map(|category| category.id).collect();
        let own = || self.annotations.iter().filter(|annotation| categories.contains(&annotation.category_id));
        let mut without = own().filter(|annotation| annotation.segmentation.is_none());
        let first = without.next()?.id;
        Some(WithoutMasks { count: 1 + without.count(), all: own().count(), first })
    }

    /// Whether there is anything to compare detections with: an object that is no crowd region.
    pub fn has_objects(&self) -> bool {
        self.annotations.iter().any(|annotation| !annotation.crowd)
    }

    /// Adds an image with its objects to a ground truth that [`GroundTruth::new`] began. The area of an object is that of its mask, or
    /// of its box when it has no mask.
    pub fn push(&mut self, image: ImageEntry, instances: &[Instance]) {
        for instance in instances {
            let [x0, y0, x1, y1] = instance.bbox.map(f64::from);
            let mask = instance.mask.as_ref().map(vmamba_types::InstanceMask::rle);
            self.annotations.push(AnnotationEntry {
                id: self.annotations.len() as i64 + 1,
                image_id: image.id,
                category_id: instance.category as i64 + 1,
                bbox: [x0, y0, x1 - x0, y1 - y0],
                area: mask.as_ref().map_or((x1 - x0) * (y1 - y0), |mask| mask.area() as f64),
                crowd: instance.crowd,
                segmentation: mask.map(Segmentation::Rle),
            });
        }
        self.images.push(image);
    }
}
