//! VMamba as a backbone: from an image to a feature pyramid.
//!
//! ```text
//! Preset / VmambaConfig ── init ──> Vmamba ── forward_features ──> [stride 4, 8, 16, 32], NCHW      (FeaturePyramid)
//!          │                └─────> VmambaClassifier ── forward ──> logits
//!          └── complexity ──> parameters and FLOPs by operation, from the configuration alone
//! ```
//!
//! * [`vmamba`]: the model, with every official option ([`VmambaConfig`]), the published models ([`Preset`]), SS2D and its blocks.
//! * [`FeaturePyramid`]: the contract between any backbone and any head.
//! * [`checkpoint`]: reads official and own weights without running the code in them, loads them strictly, saves them atomically.
//! * [`complexity`]: counts parameters and FLOPs as the official code does.
//! * [`analysis`]: effective receptive fields, activation maps and attention maps.
//! * [`LastMap`]: a network as a chain of steps from the images to its last feature map.
//! * [`baselines`]: the networks that VMamba is compared with, as backbones and classifiers that load the published weights.
//! * [`family`]: the contract that VMamba and every baseline implement.
//! * [`ParameterGroups`]: weight decay and layer-wise learning rates by parameter.
//! * [`zoo`]: all models by name, behind one configuration and one type.
//! * [`layers`]: the layers that several models share.
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
pub mod family;
mod feature_pyramid;
mod finite;
mod last_map;
pub mod layers;
mod limits;
mod parameter_groups;
pub mod vmamba;
pub mod zoo;

pub use family::Family;
pub use feature_pyramid::FeaturePyramid;
pub use finite::{NotFinite, is_finite, require_finite};
pub use last_map::{Chain, LastMap};
pub use parameter_groups::{DecayExceptions, DecayRule, LayerGrouping, ParameterGroups, Place, SWIN_EXCEPTIONS, VIT_EXCEPTIONS};
pub use vmamba::{
    ConfigError, Dims, DownsampleVersion, DtRank, ForwardType, NormLayout, OfficialConfig, PatchEmbedVersion, Preset, SsmInit, Vmamba,
    VmambaClassifier, VmambaConfig, official_key,
};
