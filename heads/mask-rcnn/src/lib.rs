//! Mask R-CNN (He et al. 2017) with a feature pyramid on any backbone, as mmdetection 3.3.0 defines it.
//!
//! ```text
//! image ── backbone ──> [stride 4, 8, 16, 32] ── neck (Fpn) ──> [stride 4, 8, 16, 32, 64]
//!                                                                  │
//!          anchor_generator ── rpn_head ──> scores, offsets ──> proposals ── roi_extractor (RoIAlign)
//!                                                                  │              ├─ bbox_head ──> classes, boxes ── NMS ─┐
//!                                                                  │              └─ mask_head ──> 28x28 masks <──────────┘
//!                                                                  └──────────────────────────────────── pasted into the photo
//! ```
//!
//! * [`MaskRcnnConfig`] and [`MaskRcnn`]: the model; [`MaskRcnn::loss`] for training, [`MaskRcnn::predict`] for boxes and masks in
//!   pixels of the photo.
//! * [`RandomChoice`], [`Choose`]: which boxes a step is trained on.
//! * [`official_key`]: parameter names of mmdetection checkpoints.
//!
//! ```no_run
//! use burn::prelude::*;
//! use mask_rcnn::{ImageInfo, MaskRcnnConfig};
//! use vmamba::{Preset, VmambaConfig};
//!
//! let device = Device::flex();
//! let model = MaskRcnnConfig::new(VmambaConfig::preset(Preset::VmambaTinyS1l8), 80).init(&device);
//! let infos = [ImageInfo::new([480, 640], [800, 1067])];
//! for object in model.predict(Tensor::zeros([1, 3, 800, 1088], &device), &infos).concat() {
//!     println!("class {} at {:?}, {:.2}", object.category, object.bbox, object.score);
//! }
//! ```

mod anchor_generator;
mod assigner;
mod box_coder;
mod box_head;
mod boxes;
mod complexity;
mod config;
mod fpn;
mod key_map;
pub mod loss;
mod mask_head;
mod mask_target;
mod model;
mod roi_extractor;
mod roi_head;
mod rpn;
mod sampler;
#[cfg(test)]
mod tests;

pub use anchor_generator::{AnchorConfig, AnchorGenerator};
pub use assigner::{Assignment, MaxIouAssigner};
pub use box_coder::BoxCoder;
pub use box_head::{BoxHead, BoxHeadConfig, BoxOutput, ScoredBox, multiclass_nms};
pub use boxes::{giou, iof, iou};
pub use config::{HeadsConfig, MaskRcnnConfig, MaskRcnnConfigError, RoiConfig, RpnConfig, TestConfig};
pub use fpn::{Fpn, FpnConfig, NamedConv};
pub use key_map::official_key;
pub use loss::DetectionLoss;
pub use mask_head::{MaskHead, MaskHeadConfig};
pub use mask_target::mask_target;
pub use model::{ImageInfo, ImageTruth, MaskRcnn, SIZE_DIVISOR};
pub use roi_extractor::{RoiExtractor, roi_level};
pub use roi_head::{RoiHead, RoiLoss, RoiSample, sample_rois};
pub use rpn::{ProposalConfig, Proposals, RpnHead, RpnLoss, RpnOutput, RpnTargets, SampledAnchor, rpn_targets};
pub use sampler::{Choose, RandomChoice, RandomSampler, Sampled};
