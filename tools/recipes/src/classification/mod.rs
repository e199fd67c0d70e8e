//! Accuracy of classifiers on folders of images, one folder for each class. [`vmamba::zoo::load_classifier`] loads them.
//!
//! ```text
//! ImageFolder ── Prefetch (ClassificationPipeline) ── batches ─┬─ Classifier::forward ──> ClassificationReport
//!                                                              └─ Classifier::features ── linear_tuning ──> TuningReport
//! ```

mod config;
mod evaluate;
pub mod linear_tuning;
mod report;

pub use config::model_config;
pub use evaluate::{Feed, Interrupted, check_classes, evaluate_classifier};
pub use report::{ClassAccuracy, ClassificationReport, Skipped};
