//! The networks that VMamba is compared with: one file a family, from the block to the classifier, with the configurations of its published
//! sizes, its cost, and the spelling of the weights people have.
//!
//! Every family gives the same things, here with Swin's names:
//!
//! | item | what |
//! |---|---|
//! | `SwinConfig` | every option, `tiny()`, `small()`, `base()`, `validate`, `try_init`, `try_init_classifier` |
//! | `SwinConfig::complexity`, `classifier_complexity` | parameters and FLOPs for an image size |
//! | `Swin` | the backbone, a [`FeaturePyramid`](crate::FeaturePyramid), with a norm on every level where the published detectors have one |
//! | `SwinClassifier` | images to logits |
//! | `swin::key` | the key of a parameter by its path in our module, in the spelling of the reference implementation |
//! | `swin::rename` | that key for a key of another spelling (torchvision, timm), see [`LoadOptions::rename`](crate::checkpoint::LoadOptions::rename) |
//!
//! Maps are channels last inside. Activations are float32 or bf16; what the reference computes in float32 stays so.

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
