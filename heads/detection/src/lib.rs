//! The parts of two-stage detectors, as mmdetection 3.3.0 defines them: everything between a backbone and detections.
//!
//! ```text
//! backbone ──> [stride 4, 8, 16, 32] ── Fpn ──> [stride 4, 8, 16, 32, 64]
//!                                                │
//!                     AnchorGenerator ── RpnHead ┴─> objectness, deltas ──> Proposals
//!                                                                              │
//!   training:   MaxIouAssigner, RandomSampler ──> RoiSample ──> RoiBatch, MaskBatch ──> BoxHead::loss, MaskHead::loss
//!   prediction: RoiExtractor (RoIAlign) ──> BoxHead::detect (NMS) ──> MaskHead ──> paste_masks ──> Detection
//! ```
//!
//! * Every part is a `FooConfig` with an `init` that builds a `Foo` with a `forward`. Parameter fields have the names of mmdetection's
//!   state_dict, so a detector that names its fields `neck`, `rpn_head` and `roi_head` reads mmdetection's files.
//! * [`Detector`] is the contract with a trainer and a predictor. The crates `mask-rcnn` and `vmamba-cascade` implement it with these parts.
//! * Boxes are `[x0, y0, x1, y1]` in pixels; the pixel at `[x1, y1]` is outside the box.

mod anchor_generator;
mod assigner;
mod box_coder;
mod box_head;
mod boxes;
mod complexity;
mod detector;
mod fpn;
mod load;
pub mod losses;
mod mask_head;
mod mask_target;
mod postprocess;
mod ranges;
mod roi_extractor;
mod roi_sampling;
mod rpn;
mod sampler;
#[cfg(test)]
mod tests;

pub use anchor_generator::{AnchorConfig, AnchorGenerator};
pub use assigner::{Assignment, MaxIouAssigner};
pub use box_coder::BoxCoder;
pub use box_head::{BoxHead, BoxHeadConfig, BoxHeadLayers, BoxHeadLoss, BoxLoss, BoxOutput, ConvNorm, SharedConv};
pub use boxes::{giou, iof, iou};
pub use complexity::{BOX_ROIS, MASK_ROIS};
pub use detector::{DetectionLoss, Detector, ImageInfo, ImageTruth};
pub use fpn::{Fpn, FpnConfig, NamedConv};
pub use load::{DetectorConfigError, DetectorKeys, DetectorLoadError, ZooDetector, class_layers, official_key};
pub use losses::DeltaLoss;
pub use mask_head::{MaskHead, MaskHeadConfig, Upsample};
pub use mask_target::{MaskBatch, mask_target};
pub use postprocess::{ScoredBox, TestConfig, multiclass_nms, paste_masks};
pub use ranges::MAX_LOSS_WEIGHT;
pub use roi_extractor::{RoiExtractor, roi_level};
pub use roi_sampling::{RoiBatch, RoiConfig, RoiSample, RoiTarget, rois_of};
pub use rpn::{ProposalConfig, Proposals, RpnConfig, RpnHead, RpnLoss, RpnOutput, RpnTargets, SampledAnchor, observe_proposals};
pub use sampler::{Choose, RandomChoice, RandomSampler, Sampled};
