//! COCO: annotations, data set, results, evaluation.
//!
//! ```text
//! instances.json ── GroundTruth ──┬── CocoDataset + images ──> DetectionSample ──> detector ──> Detection
//!                                 │                                                            │ to_results
//!                                 └── evaluate <────────────────────────────────────────── ResultEntry
//!                                        └──> EvalReport: AP, AR, precision-recall curves
//! ```
//!
//! Files are read entry by entry (`stream`, `entry`, `segmentation`), and one judge (`judge`, `usage`) says what is wrong with them, for
//! training and for the check of a data set.
//!
//! hotcoco matches detections with the ground truth. This module checks its input, and computes the summary from its precision and
//! recall arrays, so that pycocotools' conventions and mmdetection's limits of detections are in one place.

mod annotation_zero;
mod annotations;
mod classes;
mod config;
mod dataset;
mod entry;
mod error;
mod evaluator;
mod judge;
mod report;
mod results;
pub(crate) mod scan;
mod segmentation;
mod stream;
pub(crate) mod usage;

pub use classes::classes;
pub use config::{EvalConfig, IouType};
pub(crate) use dataset::root_category;
pub use dataset::{CocoDataset, CocoOptions, Dropped};
pub use error::EvalError;
pub use evaluator::evaluate;
pub(crate) use judge::{Judged, extent};
pub use report::{Curve, EvalReport, STAT_NAMES};
pub use results::{ResultEntry, read_results, to_results, write_results};

/// Intersection over union of every detection with every ground truth box, `[detections, truth]`, row-major. Boxes are
/// `[x, y, width, height]`. Against a crowd region the intersection is divided by the area of the detection alone (pycocotools' `iou`).
pub fn box_iou(detections: &[[f64; 4]], truth: &[[f64; 4]], crowd: &[bool]) -> Vec<f64> {
    hotcoco::primitives::sim::bbox_iou_flat(detections, truth, crowd)
}
