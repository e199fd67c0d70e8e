//! The networks that VMamba is compared with. A family is a file and a folder:
//!
//! | file | contents |
//! |---|---|
//! | `swin.rs` | the model, from the block to the classifier |
//! | `swin/config.rs` | its options, published sizes and cost |
//! | `swin/family.rs` | everything that the rest of the toolkit asks about it, see [`Family`](crate::Family) |
//! | `swin/key_map.rs` | the keys of its parameters in the checkpoints of each implementation |
//!
//! Every family has the following items, here with Swin's names:
//!
//! | item | contents |
//! |---|---|
//! | `SwinConfig` | every option, `tiny()`, `small()`, `base()`, `validate`, `try_init`, `try_init_classifier` |
//! | `SwinConfig::complexity`, `classifier_complexity` | parameters and FLOPs for an image size |
//! | `Swin` | the backbone, a [`FeaturePyramid`](crate::FeaturePyramid), with a norm on every level where the published detectors have one |
//! | `SwinClassifier` | images to logits |
//! | `swin::key` | the key in the reference implementation for a parameter's path in our module |
//! | `swin::rename` | the key in the reference implementation for a key of another (torchvision, timm), see [`LoadOptions::rename`](crate::checkpoint::LoadOptions::rename) |
//!
//! Inside the models, maps are channels last. Activations are float32 or bf16; operations that the reference computes in float32 are float32
//! here too.

pub mod convnext;
pub mod deit;
pub mod hivit;
pub mod resnet;
pub mod s4nd;
pub mod s4nd_convnext;
pub mod swin;
pub mod vim;
pub mod xcit;

pub use convnext::{Convnext, ConvnextClassifier, ConvnextConfig};
pub use deit::{Deit, DeitClassifier, DeitConfig};
pub use hivit::{Hivit, HivitClassifier, HivitConfig};
pub use resnet::{Resnet, ResnetClassifier, ResnetConfig};
pub use s4nd_convnext::{S4ndConvnext, S4ndConvnextClassifier, S4ndConvnextConfig, S4ndDownsampling};
pub use swin::{Swin, SwinClassifier, SwinConfig, WindowSize};
pub use vim::{Vim, VimClassifier, VimConfig};
pub use xcit::{Xcit, XcitClassifier, XcitConfig};
