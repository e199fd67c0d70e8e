//! UperNet (Xiao et al., "Unified Perceptual Parsing for Scene Understanding") on any backbone, as mmsegmentation 1.2.2 defines it.
//!
//! ```text
//! image ── backbone ──> [stride 4, 8, 16, 32] ─┬─> decode_head     UperHead: pyramid pooling, FPN, fusion ──> logits at stride 4
//!                                              └─> auxiliary_head  FcnHead on stride 16, in training only
//! ```
//!
//! * [`UperNetConfig`] and [`UperNet`]: the model.
//! * [`UperNetConfig::init_from`] starts training from a checkpoint, [`UperNetConfig::load`] loads a trained model.
//! * [`Segmentor`]: the contract with a trainer and a predictor, for UperNet and for segmentors from outside.
//! * [`inference`]: whole-image and sliding-window prediction, test-time augmentation and label maps with any [`Segmentor`].
//! * [`official_key`]: parameter names of mmsegmentation checkpoints.
//!
//! ```no_run
//! use burn::prelude::*;
//! use upernet::{Segmentor, UperNetConfig};
//! use vmamba::zoo::BackboneConfig;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::flex();
//! let config = UperNetConfig::on(BackboneConfig::named("vmamba_tiny_s1l8")?, 150);
//! let (model, report) = config.load("upernet_vssm_4xb4-160k_ade20k-512x512_tiny.pth", &device)?;
//! println!("{report}");
//! let logits = model.forward(Tensor::zeros([1, 3, 512, 512], &device));
//! assert_eq!(logits.dims(), [1, 150, 128, 128]);
//! # Ok(())
//! # }
//! ```

mod complexity;
mod config;
mod conv_module;
mod fcn_head;
pub mod inference;
mod key_map;
mod load;
mod loss;
mod model;
mod pyramid_pooling;
mod segmentor;
mod uper_head;

pub use config::{FcnHeadConfig, UperHeadConfig, UperNetConfig, UperNetConfigError};
pub use conv_module::{ConvModule, Dropout2d};
pub use fcn_head::FcnHead;
pub use key_map::official_key;
pub use load::{UperNetLoadError, is_checkpoint};
pub use loss::loss_and_accuracy;
pub use model::UperNet;
pub use pyramid_pooling::PyramidPooling;
pub use segmentor::{IGNORE_INDEX, SegmentationLoss, Segmentor};
pub use uper_head::UperHead;
