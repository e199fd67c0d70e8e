//! From the outputs of the heads to detections in pixels of the files.

use burn::prelude::*;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vision_ops::{batched_nms, paste_mask};
use vmamba_types::{Detection, Rle};

use crate::detector::ImageInfo;

/// Which boxes and pixels count as detections. The defaults are those of the published COCO models.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TestConfig {
    /// The probability of a detection must be above this.
    pub score_threshold: f32,
    /// NMS drops the box of the lower score when the IoU of two boxes of one class is above this.
    pub nms_threshold: f32,
    /// Largest number of detections of an image.
    pub max_per_image: usize,
    /// A pixel belongs to the mask when its probability is at least this.
    pub mask_threshold: f32,
}

impl Default for TestConfig {
    fn default() -> Self {
        Self { score_threshold: 0.05, nms_threshold: 0.5, max_per_image: 100, mask_threshold: 0.5 }
    }
}

/// A box with its class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredBox {
    /// `[x0, y0, x1, y1]` in pixels of the network's input.
    pub bbox: [f32; 4],
    /// Probability.
    pub score: f32,
    /// Class index.
    pub category: usize,
}

/// Indices of the candidates that survive NMS within their class, by descending score, at most `max_per_image` (mmdetection's
/// `multiclass_nms` after its score threshold).
pub fn multiclass_nms(candidates: &[ScoredBox], config: &TestConfig) -> Vec<usize> {
    let boxes: Vec<[f32; 4]> = candidates.iter().map(|found| found.bbox).collect();
    let scores: Vec<f32> = candidates.iter().map(|found| found.score).collect();
    let groups: Vec<usize> = candidates.iter().map(|found| found.category).collect();
    let mut kept = batched_nms(&boxes, &scores, &groups, config.nms_threshold);
    kept.truncate(config.max_per_image);
    kept
}

/// Scales boxes to the files and pastes their masks. `boxes` are the boxes of every image; `probabilities: [boxes, side, side]` holds the
/// mask of each, image by image; `infos` describes the images.
pub fn paste_masks(probabilities: Tensor<3>, boxes: &[Vec<ScoredBox>], infos: &[ImageInfo], mask_threshold: f32) -> Vec<Vec<Detection>> {
    let [_, side, _] = probabilities.dims();
    let probabilities: Vec<f32> = probabilities.into_data().iter::<f32>().collect();
    let of_image = |((index, own), info): ((usize, &Vec<ScoredBox>), &ImageInfo)| {
        let before: usize = boxes.iter().take(index).map(Vec::len).sum();
        let paste = |(place, found): (usize, &ScoredBox)| {
            let mask = probabilities.get((before + place) * side * side..)?.get(..side * side)?;
            let bbox: [f32; 4] = std::array::from_fn(|i| found.bbox[i] / info.scale[i % 2]);
            let counts = paste_mask(mask, side, bbox, info.original, mask_threshold);
            let mask = Some(Rle { size: info.original, counts });
            Some(Detection { bbox, score: found.score, category: found.category, mask })
        };
        own.par_iter().enumerate().filter_map(paste).collect()
    };
    boxes.par_iter().enumerate().zip(infos.par_iter()).map(of_image).collect()
}
