//! Layers that several models share: thin modules over `vision_ops`, channels last, with the official parameter names and layouts.
//!
//! Burn's own layers store their weights as `[in, out]`, while checkpoints hold `[out, in]`; and the operations of `vision_ops` are several
//! times faster on the CPU.

mod activation;
mod attention;
mod batch_norm;
mod channel_norm;
mod conv;
mod deconv_pyramid;
mod dense;
mod depthwise_conv;
mod drop_path;
mod init;
mod mlp;
mod norm_kind;
mod table_resize;

pub use activation::Activation;
pub use batch_norm::BatchNorm2d;
pub use channel_norm::ChannelNorm;
pub use conv::{Conv, ConvConfig};
pub use deconv_pyramid::DeconvPyramid;
pub use dense::Dense;
pub use depthwise_conv::DepthwiseConv;
pub use drop_path::DropPath;
pub use mlp::{Mlp, MlpConfig};
pub use norm_kind::{NormKind, trains_batch_norm};
pub use table_resize::TableResize;

pub(crate) use attention::{RelativePositions, attend, attention_weights, heads};
pub(crate) use deconv_pyramid::{deconv_pyramid_key, halved};
pub(crate) use init::uniform_fan_in;
pub(crate) use mlp::halves;
