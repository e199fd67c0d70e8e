//! The settings of an evaluation.

use serde::Serialize;

/// The kind of IoU that decides whether a detection matches an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IouType {
    /// IoU of the boxes.
    Bbox,
    /// IoU of the masks.
    Segm,
}

impl IouType {
    /// `bbox` or `segm`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bbox => "bbox",
            Self::Segm => "segm",
        }
    }
}

/// The settings of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalConfig {
    /// Boxes or masks.
    pub iou_type: IouType,
    /// Three limits of the number of detections for an image and category; those with the highest scores count.
    pub max_dets: [usize; 3],
    /// IoU thresholds; a detection matches an object when their IoU is at least the threshold.
    pub iou_thresholds: Vec<f64>,
    /// Recalls at which the precision is sampled.
    pub recall_thresholds: Vec<f64>,
    /// Lower and upper bounds of the areas of all, small, medium and large objects, in pixels.
    pub areas: [[f64; 2]; 4],
    /// Whether a match needs the right category.
    pub use_categories: bool,
    /// Images to evaluate; `None` for all.
    pub image_ids: Option<Vec<i64>>,
    /// Categories to evaluate; `None` for all.
    pub category_ids: Option<Vec<i64>>,
}

impl EvalConfig {
    /// pycocotools' settings.
    pub fn new(iou_type: IouType) -> Self {
        let (small, large) = (32.0 * 32.0, 96.0 * 96.0);
        Self {
            iou_type,
            max_dets: [1, 10, 100],
            iou_thresholds: linspace(0.5, 0.95, 10),
            recall_thresholds: linspace(0.0, 1.0, 101),
            areas: [[0.0, 1e10], [0.0, small], [small, large], [large, 1e10]],
            use_categories: true,
            image_ids: None,
            category_ids: None,
        }
    }

    /// mmdetection's settings: AP counts 100 detections of an image, AP50, AP75 and AP by size count 1000, and the recalls are those for
    /// 100, 300 and 1000.
    pub fn mmdetection(iou_type: IouType) -> Self {
        Self { max_dets: [100, 300, 1000], ..Self::new(iou_type) }
    }
}

/// numpy's `linspace`.
fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let step = (stop - start) / (count - 1) as f64;
    (0..count).map(|i| if i + 1 == count { stop } else { i as f64 * step + start }).collect()
}
