//! COCO: annotations, data set, results and evaluation.
//!
//! ```text
//! instances.json ── GroundTruth ──┬── CocoDataset + images ──> DetectionSample
//!                                 └── evaluate <── ResultEntry <── Detection      ──> EvalReport: AP, AR, curves
//! ```
//!
//! The matching of detections with the ground truth is hotcoco's; what goes in is checked here first, and the summary is computed here from
//! its precision and recall arrays, so that pycocotools' conventions and mmdetection's limits are one place.

mod annotations;
mod classes;
mod dataset;
mod evaluator;
mod results;

pub use annotations::{AnnotationEntry, CategoryEntry, CocoError, GroundTruth, ImageEntry, Problem};
pub use classes::classes;
pub use dataset::{CocoDataset, CocoOptions, Dropped};
pub use evaluator::{Curve, EvalConfig, EvalReport, IouType, STAT_NAMES, evaluate};
pub use results::{ResultEntry, read_results, to_results, write_results};

/// Intersection over union of every detection with every true box, `[x, y, width, height]` both, row by row; with a crowd, over the area
/// of the detection (pycocotools' `iou`).
pub fn box_iou(detections: &[[f64; 4]], truth: &[[f64; 4]], crowd: &[bool]) -> Vec<f64> {
    hotcoco::primitives::sim::bbox_iou_flat(detections, truth, crowd)
}
