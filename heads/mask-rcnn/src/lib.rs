//! Mask R-CNN (He et al. 2017) with a feature pyramid on any backbone, as mmdetection 3.3.0 defines it.
//!
//! ```text
//! image ── backbone ──> [stride 4, 8, 16, 32] ── neck (Fpn) ──> [stride 4, 8, 16, 32, 64]
//!                                                                  │
//!                                  rpn_head ──> objectness, deltas ──> proposals ── RoIAlign
//!                                                                  │                  ├─ bbox_head ──> classes, boxes ── NMS ─┐
//!                                                                  │                  └─ mask_head ──> 28x28 masks <──────────┘
//!                                                                  └──────────────────────────────────────── pasted into the photo
//! ```
//!
//! * [`MaskRcnnConfig`] and [`MaskRcnn`]: the model. [`Detector::loss`](vmamba_detection::Detector::loss) trains it,
//!   [`Detector::predict`](vmamba_detection::Detector::predict) gives boxes and masks in pixels of the photo.
//! * [`MaskRcnnConfig::init_from`] starts training from a checkpoint, [`MaskRcnnConfig::load`] loads a trained model.
//! * [`official_key`]: parameter names of mmdetection checkpoints.
//!
//! The parts are in [`vmamba_detection`].
//!
//! ```no_run
//! use burn::prelude::*;
//! use mask_rcnn::MaskRcnnConfig;
//! use vmamba::zoo::BackboneConfig;
//! use vmamba_detection::{Detector, ImageInfo};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::flex();
//! let config = MaskRcnnConfig::on(BackboneConfig::named("vmamba_tiny_s1l8")?, 80);
//! let (model, report) = config.load("mask_rcnn_vmamba_tiny.pth", &device)?;
//! println!("{report}");
//! let infos = [ImageInfo::new([480, 640], [800, 1067])];
//! for object in model.predict(Tensor::zeros([1, 3, 800, 1088], &device), &infos)?.concat() {
//!     println!("class {} at {:?}, {:.2}", object.category, object.bbox, object.score);
//! }
//! # Ok(())
//! # }
//! ```

mod complexity;
mod config;
mod load;
mod model;
mod roi_head;

pub use config::{HeadsConfig, MaskRcnnConfig};
pub use load::{is_checkpoint, num_classes};
pub use model::MaskRcnn;
pub use roi_head::{RoiHead, RoiLoss};
pub use vmamba_detection::official_key;
