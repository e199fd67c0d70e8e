//! UperNet (Xiao et al., "Unified Perceptual Parsing for Scene Understanding") on any backbone, as mmsegmentation 1.2.2 defines it.
//!
//! ```text
//! image ── backbone ──> [stride 4, 8, 16, 32] ─┬─> decode_head     UperHead: pyramid pooling, FPN, fusion ──> logits at stride 4
//!                                              └─> auxiliary_head  FcnHead on stride 16, in training only
//! ```
//!
//! * [`UperNetConfig`] and [`UperNet`]: the model; [`UperNet::loss`] for training.
//! * [`inference`]: whole-image and sliding-window prediction, test-time augmentation, label maps.
//! * [`official_key`]: parameter names of mmsegmentation checkpoints.
//!
//! ```no_run
//! use burn::prelude::*;
//! use upernet::UperNetConfig;
//! use vmamba::{Preset, VmambaConfig};
//!
//! let device = Device::flex();
//! let model = UperNetConfig::new(VmambaConfig::preset(Preset::VmambaTinyS1l8), 150).init(&device);
//! let logits = model.forward(Tensor::zeros([1, 3, 512, 512], &device));
//! assert_eq!(logits.dims(), [1, 150, 128, 128]);
//! ```

mod complexity;
mod config;
mod conv_module;
mod fcn_head;
pub mod inference;
mod key_map;
mod loss;
mod model;
mod pyramid_pooling;
mod uper_head;

pub use config::{FcnHeadConfig, UperHeadConfig, UperNetConfig, UperNetConfigError};
pub use conv_module::{ConvModule, Dropout2d};
pub use fcn_head::FcnHead;
pub use key_map::official_key;
pub use loss::{IGNORE_INDEX, SegmentationLoss};
pub use model::UperNet;
pub use pyramid_pooling::PyramidPooling;
pub use uper_head::UperHead;
