//! The types that data sets, heads, evaluators and pictures share.
//!
//! ```text
//!               ┌─ LabelMap (one class index a pixel, or IGNORE_LABEL) ──> segmentation loss, mIoU
//! a data set ───┤
//!               └─ Instance (box, class, InstanceMask) ──> detection losses
//! a detector ────> Detection (box, class, score, Rle) ──> average precision, pictures
//! ```
//!
//! [`words`] puts numbers into sentences, and [`setting`] has the ranges of settings and the error of a setting outside its range.
//!
//! Everything here is plain data. This crate knows no network, no tensor and no file; readers and writers of files are in
//! `vision-datasets`. The one heavy dependency is hotcoco, which rasterises polygons and codes compressed runs exactly as pycocotools
//! does: targets of the mask head and average precision depend on every pixel, so a second implementation would only be a second
//! source of errors.
//!
//! Conventions: sizes are `[height, width]` in pixels; boxes are `[x0, y0, x1, y1]` in pixels, with `x1` and `y1` outside the object;
//! maps are row-major; runs go down the columns, as in COCO.

mod bit_mask;
mod class_list;
mod class_order;
mod instance;
mod instance_mask;
mod label_map;
mod rle;
pub mod setting;
pub mod words;

pub use bit_mask::BitMask;
pub use class_list::ClassList;
pub use class_order::ClassOrder;
pub use instance::{Detection, Instance};
pub use instance_mask::{InstanceMask, MaskPatch, nearest_positions};
pub use label_map::{IGNORE_LABEL, LabelMap};
pub use rle::{MaskError, Rle, Segmentation};
pub use setting::SettingError;
