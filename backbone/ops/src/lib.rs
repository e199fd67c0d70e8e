//! Custom operations of the toolkit, each with a native CPU kernel, an obvious reference and a hand-written backward.
//!
//! One operation is one folder: `mod.rs` holds the public function with its formula and source, `reference.rs` the plain-tensor
//! version, `cpu.rs` the native kernel (parallel, vectorised for the processor it runs on), `cube.rs` the kernel for GPUs and `tests.rs`
//! the evidence.
//!
//! On the CPU backend the native kernels run, and on CUDA and Vulkan (features `cuda` and `vulkan`) those written in CubeCL, under autodiff
//! as well. On every other backend the plain-tensor reference runs on that device. All kernels compute in float32; those of the CPU
//! give the same bits whatever the number of threads, and on GPUs that holds for all but Burn's matrix products, convolutions and sums.
//!
//! Activations are float32 or bf16, and results have their type; weights are float32 in either case. On the CPU bf16 is rounded to at the
//! end of every operation, without being faster.
//!
//! | operation | layout | used for |
//! |---|---|---|
//! | [`selective_scan_2d`] | `[batch, height, width, channels]` | the four-route scan of SS2D |
//! | [`selective_scan`] | `[batch, channels, length]` | the one-dimensional scan of Mamba |
//! | [`cross_scan()`], [`cross_merge`] | `[batch, channels, height, width]` | the routes made visible |
//! | [`gelu`], [`silu`], [`softplus`] | any | activations |
//! | [`channel_norm()`] | `[.., channels]` | LayerNorm over channels |
//! | [`batch_norm()`] | `[.., channels]` | BatchNorm in training |
//! | [`linear()`], [`mlp`], [`conv2d()`], [`depthwise_conv2d`] | `[batch, height, width, channels]` | projections and convolutions |
//! | [`linear_fused`], [`conv2d_fused`], [`depthwise_conv2d_fused`] | `[batch, height, width, channels]` | the same with scale, bias, residual and activation in the same pass, see [`Fused`] |
//! | [`matmul()`] | `[.., rows, columns]` | attention |
//! | [`resize_bilinear`], [`argmax_resized`], [`softmax_channels`], [`cross_entropy_map`] | `[batch, channels, height, width]` | segmentation heads |
//! | [`roi_align()`] | `[batch, channels, height, width]` | features of boxes |
//! | [`nms()`], [`batched_nms`], [`paste_mask()`] | plain numbers | boxes and masks behind the network |

mod activation;
mod batch_norm;
mod catalogue;
mod channel_norm;
mod conv2d;
mod cpu;
mod cross_scan;
#[cfg(feature = "cube")]
mod cube;
mod depthwise_conv;
mod device;
mod epilogue;
mod linear;
mod matmul;
mod nms;
mod operation;
mod paste_mask;
mod precision;
mod resize;
mod roi_align;
mod route;
mod selective_scan;
mod selective_scan_2d;
mod softmax;
#[cfg(test)]
mod testing;

pub use activation::{gelu, silu, softplus};
pub use batch_norm::{BatchNormed, batch_norm};
pub use catalogue::Operation;
pub use channel_norm::channel_norm;
pub use conv2d::{conv2d, conv2d_fused};
pub use cross_scan::{ScanPattern, cross_merge, cross_scan};
pub use depthwise_conv::{depthwise_conv2d, depthwise_conv2d_fused};
pub use epilogue::{Epilogue, EpilogueParts, Fused, Pointwise};
pub use linear::{linear, linear_fused, mlp};
pub use matmul::matmul;
pub use nms::{batched_nms, batched_nms_on, nms};
pub use paste_mask::paste_mask;
pub use precision::{Float32Products, float32_products, has_tf32, keeps_float32, set_float32_products};
pub use resize::{argmax_resized, resize_bilinear};
pub use roi_align::{Roi, RoiSampling, roi_align};
pub use route::Route;
pub use selective_scan::selective_scan;
pub use selective_scan_2d::selective_scan_2d;
pub use softmax::{argmax_channels, cross_entropy_map, softmax_channels};
