//! Cascade Mask R-CNN (Cai and Vasconcelos 2019) with a feature pyramid on any backbone, as mmdetection 3.3.0 defines it.
//!
//! ```text
//! image ── backbone ── neck (Fpn) ──> levels ── rpn_head ──> proposals
//!                                       │                        │
//!                                       ├── stage 0: RoIAlign ── bbox_head[0] ──> classes, boxes
//!                                       │                                            │ refined boxes are the RoIs of the next stage
//!                                       ├── stage 1: RoIAlign ── bbox_head[1] ──> classes, boxes
//!                                       │                                            │
//!                                       └── stage 2: RoIAlign ── bbox_head[2] ──> classes, boxes ── mean of the stages' logits ── NMS ─┐
//!                                                                                                                                      │
//!            mean of the stages' mask probabilities <── mask_head[0..3] <── RoIAlign <─────────────────────────────────────────────────┘
//! ```
//!
//! A stage after the first takes the boxes that the previous stage has refined. It assigns them to objects by a higher IoU threshold and
//! encodes boxes with smaller standard deviations.
//!
//! * [`CascadeMaskRcnnConfig`] and [`CascadeMaskRcnn`]: the model. [`Detector::loss`](vmamba_detection::Detector::loss) trains it,
//!   [`Detector::predict`](vmamba_detection::Detector::predict) gives boxes and masks in pixels of the photo.
//! * [`HeadsConfig::published`]: the heads that Swin and ConvNeXt were published with; [`HeadsConfig::shared_2fc`]: the heads of the paper.
//! * [`CascadeMaskRcnnConfig::init_from`] starts training from a checkpoint, [`CascadeMaskRcnnConfig::load`] loads a trained model.
//! * [`official_key`]: parameter names of mmdetection checkpoints.
//!
//! The parts are in [`vmamba_detection`].
//!
//! ```no_run
//! use burn::prelude::*;
//! use vmamba::zoo::BackboneConfig;
//! use vmamba_cascade::CascadeMaskRcnnConfig;
//! use vmamba_detection::{Detector, ImageInfo};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::flex();
//! let config = CascadeMaskRcnnConfig::on(BackboneConfig::named("swin_tiny")?, 80);
//! let (model, report) = config.load("cascade_mask_rcnn_swin_tiny_patch4_window7.pth", &device)?;
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
#[cfg(test)]
mod tests;

pub use config::{CascadeMaskRcnnConfig, HeadsConfig, MaskHeads, StageConfig};
pub use load::{is_checkpoint, num_classes};
pub use model::CascadeMaskRcnn;
pub use roi_head::{CascadeRoiHead, StageLoss};
pub use vmamba_detection::official_key;
