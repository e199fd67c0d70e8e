//! Targets of the mask head: the mask of the object inside the RoI, resampled to the size of the head's output (mmdetection's
//! `BitmapMasks.crop_and_resize`: RoIAlign of the bitmap with a shift of half a pixel, then a threshold of one half).

use vision_ops::Roi;
use vmamba_types::MaskPatch;

use crate::detector::ImageTruth;
use crate::roi_sampling::{PLACEHOLDER, RoiSample};

/// The positive RoIs of a batch with the targets of their masks. There is always at least one RoI.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskBatch {
    /// The RoIs whose object has a mask, image by image; a placeholder when there is none.
    pub rois: Vec<Roi>,
    /// Class index of each RoI.
    pub classes: Vec<usize>,
    /// Target of each RoI, `side * side` values 0 or 1; empty when there is only the placeholder.
    pub targets: Vec<f32>,
}

impl MaskBatch {
    /// Joins the samples of the images. `canvas` is the size `[height, width]` of the batch in pixels, since masks are padded like images;
    /// `side` is the side of the masks.
    pub fn new(samples: &[RoiSample], truth: &[ImageTruth], canvas: [usize; 2], side: usize) -> Self {
        let mut batch = Self { rois: Vec::new(), classes: Vec::new(), targets: Vec::new() };
        for (image, (sample, truth)) in samples.iter().zip(truth).enumerate() {
            let mut patches: Vec<Option<MaskPatch>> = vec![None; truth.instances.len()];
            for (&bbox, &object) in sample.rois.iter().zip(&sample.objects) {
                let Some(instance) = truth.instances.get(object) else { continue };
                let Some(mask) = &instance.mask else { continue };
                let patch = patches[object].get_or_insert_with(|| {
                    let mut patch = mask.patch();
                    patch.canvas = canvas;
                    patch
                });
                batch.rois.push(Roi { image, bbox });
                batch.classes.push(instance.category);
                batch.targets.extend(mask_target(patch, bbox, side));
            }
        }
        if batch.rois.is_empty() {
            batch.rois.push(PLACEHOLDER);
            batch.classes.push(0);
        }
        batch
    }
}

/// The mask inside a RoI `[x0, y0, x1, y1]`, in pixels of the canvas of the mask, as `side * side` values 0 or 1, row-major.
///
/// The operations come in the order of mmcv's RoIAlign: for boxes on whole pixels the average is often exactly one half, and then the order
/// decides.
pub fn mask_target(mask: &MaskPatch, [x0, y0, x1, y1]: [f32; 4], side: usize) -> Vec<f32> {
    let [canvas_height, canvas_width] = mask.canvas;
    let (start_x, start_y) = (x0 - 0.5, y0 - 0.5);
    let (roi_width, roi_height) = (x1 - 0.5 - start_x, y1 - 0.5 - start_y);
    let rows = taps(start_y, roi_height, side, canvas_height);
    let columns = taps(start_x, roi_width, side, canvas_width);
    let bit = |y: usize, x: usize| match (y.checked_sub(mask.top), x.checked_sub(mask.left)) {
        (Some(y), Some(x)) if y < mask.height && x < mask.width => f32::from(mask.bits[y * mask.width + x]),
        _ => 0.0,
    };
    let count = (rows.per_bin * columns.per_bin).max(1) as f32;
    let mut target = Vec::with_capacity(side * side);
    for bin_y in 0..side {
        for bin_x in 0..side {
            let mut sum = 0.0;
            for row in rows.of_bin(bin_y) {
                for column in columns.of_bin(bin_x) {
                    if let (Some(row), Some(column)) = (row, column) {
                        let (hy, hx) = (1.0 - row.weight, 1.0 - column.weight);
                        sum += hy * hx * bit(row.low, column.low)
                            + hy * column.weight * bit(row.low, column.high)
                            + row.weight * hx * bit(row.high, column.low)
                            + row.weight * column.weight * bit(row.high, column.high);
                    }
                }
            }
            target.push(if sum / count >= 0.5 { 1.0 } else { 0.0 });
        }
    }
    target
}

/// The two pixels that a sample interpolates along one axis, and the weight of the second.
#[derive(Clone, Copy)]
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

/// The samples of all bins along one axis; `None` for a sample outside the canvas.
struct Taps {
    taps: Vec<Option<Tap>>,
    per_bin: usize,
}

impl Taps {
    fn of_bin(&self, bin: usize) -> &[Option<Tap>] {
        &self.taps[bin * self.per_bin..][..self.per_bin]
    }
}

fn taps(start: f32, length: f32, bins: usize, canvas: usize) -> Taps {
    let bin = length / bins as f32;
    // A box without extent has no sample.
    let per_bin = (length / bins as f32).ceil().max(0.0) as usize;
    let tap = |index: usize| {
        let (bin_index, sample) = (index / per_bin, index % per_bin);
        let position = start + bin_index as f32 * bin + (sample as f32 + 0.5) * bin / per_bin as f32;
        if !(-1.0..=canvas as f32).contains(&position) || canvas == 0 {
            return None;
        }
        let position = position.max(0.0);
        let low = position as usize;
        Some(if low >= canvas - 1 {
            Tap { low: canvas - 1, high: canvas - 1, weight: 0.0 }
        } else {
            Tap { low, high: low + 1, weight: position - low as f32 }
        })
    };
    Taps { taps: (0..bins * per_bin).map(tap).collect(), per_bin }
}
