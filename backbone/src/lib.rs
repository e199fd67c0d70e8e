//! VMamba as a backbone: from an image to a feature pyramid.
//!
//! ```text
//! Preset / VmambaConfig ── init ──> Vmamba ── forward_features ──> [stride 4, 8, 16, 32], NCHW      (FeaturePyramid)
//!          │                └─────> VmambaClassifier ── forward ──> logits
//!          └── complexity ──> parameters and FLOPs by operation, from the configuration alone
//! ```
//!
//! * [`vmamba`]: the model: every official option ([`VmambaConfig`]), the published models ([`Preset`]), SS2D and its blocks.
//! * [`FeaturePyramid`]: the contract between any backbone and any head.
//! * [`checkpoint`]: official and own weights, read without running their code, loaded strictly, saved atomically.
//! * [`complexity`]: parameters and FLOPs by the official counting.
//! * [`analysis`]: looks inside: which patches a patch draws from.
//! * [`baselines`]: the networks that VMamba is compared with, each with classifier and weights people have.
//! * [`zoo`]: all of them by name, behind one configuration and one type.
//! * [`layers`]: what several models share.
//!
//! ```no_run
//! use burn::prelude::*;
//! use vmamba::{FeaturePyramid, Preset, VmambaConfig};
//!
//! let device = Device::flex();
//! let backbone = VmambaConfig::preset(Preset::VmambaTinyS1l8).init(&device);
//! let images = Tensor::<4>::zeros([1, 3, 224, 224], &device);
//! for (feature, stride) in backbone.forward_features(images).iter().zip(backbone.strides()) {
//!     println!("stride {stride}: {:?}", feature.dims());
//! }
//! ```

pub mod analysis;
pub mod baselines;
pub mod checkpoint;
pub mod complexity;
mod feature_pyramid;
pub mod layers;
pub mod vmamba;
pub mod zoo;

pub use feature_pyramid::FeaturePyramid;
pub use vmamba::{
    ConfigError, Dims, DownsampleVersion, DtRank, ForwardType, NormLayout, OfficialConfig, PatchEmbedVersion, Preset, SsmInit, Vmamba,
    VmambaClassifier, VmambaConfig, official_key,
};
