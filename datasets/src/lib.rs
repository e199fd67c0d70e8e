//! Data sets for detection, segmentation and classification: reading, transforming, loading, evaluating, checking. Knows no network.
//!
//! ```text
//! COCO annotations ────────────┐
//! folder of the ADE20K layout ─┤   DetectionDataset      training pipeline ── loader ──> batches ──> losses
//! built-in scenes ─────────────┼── SegmentationDataset ──┤
//! a data set of your own ──────┘        │                test pipeline ── Prefetch ──> network inputs ──> predictions
//!                                       ├─ check: what is wrong before training                               │
//!                                       └─ ground truth ──> evaluators: average precision, mIoU <─────────────┘
//! ```
//!
//! * [`sample`]: the traits of a data set and their samples; start here for a data set of your own.
//! * [`coco`]: COCO annotations, results, average precision.
//! * [`ade20k`]: folders of images and label maps, mIoU by mmsegmentation's conventions.
//! * [`imagenet`]: one folder of images for each class.
//! * [`scenes`]: labelled images painted on demand, for demos and tests.
//! * [`transforms`]: resize as OpenCV and Pillow do it, crop, flip, colour, normalisation.
//! * [`loader`]: prefetching threads; the batches depend on the seed, not on the number of workers.
//! * [`relabelled`]: data whose classes have another order than a model's.
//! * [`check`]: everything that is wrong with a data set, before training.
//! * [`image_io`], [`class_list`], [`json`]: image, label map, class list and JSON files.
//! * [`photos`]: which files of a folder are photos.
//! * [`ground_truth`]: annotations in the form that the evaluator compares with detections.
//!
//! Modules import each other in one direction only:
//!
//! ```text
//! vmamba-types ← error ← files, folders, json, image_io, photos, class_list, ground_truth ← sample ← transforms ← loader
//!                                                                       ↑
//!                                                coco, ade20k, imagenet, scenes, relabelled, check
//! ```
//!
//! Labels, boxes, masks and class lists themselves are types of `vmamba-types`, which the heads share.

pub mod ade20k;
pub mod check;
pub mod class_list;
pub mod coco;
mod error;
mod files;
mod folders;
pub mod ground_truth;
pub mod image_io;
pub mod imagenet;
pub mod json;
pub mod loader;
pub mod memory;
pub mod photos;
pub mod relabelled;
pub mod sample;
pub mod scenes;
pub mod transforms;

pub use error::{AnnotationProblem, DataError};
