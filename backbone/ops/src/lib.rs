//! The custom operations of the toolkit. Each has a CPU kernel, a GPU kernel, a simple reference and a hand-written backward pass.
//!
//! An operation is a folder: `mod.rs` holds the public function with shapes, formula, source and backward rule; `reference.rs` the
//! plain-tensor version; `cpu.rs` the CPU kernel, parallel and vectorised for the processor it runs on; `cube.rs` the GPU kernel in CubeCL;
//! `tests.rs` the comparison of the kernels with the reference. Kernels share `cpu/` and `cube/`. An operation without a GPU
//! kernel has no `cube.rs`, and [`cross_scan()`] has neither kernels nor a reference. [`Operation::ALL`] lists the operations.
//!
//! Tensors on the CPU (Burn's Flex) run the CPU kernels, those on CUDA and Vulkan (features `cuda` and `vulkan`) the GPU kernels, with and
//! without autodiff. Other backends run the reference. Kernels compute in float32; only matrix products and convolutions of bf16
//! activations on GPUs multiply bf16. Results on the CPU do not depend on the number of threads; on GPUs they are reproducible except for
//! Burn's matrix products, convolutions and sums.
//!
//! Activations are float32 or bf16, and a result has the type of its activations; weights are always float32. On the CPU every operation
//! rounds its result to bf16 at the end, so bf16 is not faster there.
//!
//! | operation | layout | used for |
//! |---|---|---|
//! | [`selective_scan_2d()`] | `[batch, height, width, channels]` | the four-route scan of SS2D |
//! | [`selective_scan()`] | `[batch, channels, length]` | the one-dimensional scan of Mamba |
//! | [`cross_scan()`], [`cross_merge`] | `[batch, channels, height, width]` | scan routes as copies |
//! | [`gelu`], [`silu`], [`softplus`] | any | activations |
//! | [`channel_norm()`] | `[.., channels]` | LayerNorm over channels |
//! | [`batch_norm()`] | `[.., channels]` | BatchNorm in training |
//! | [`linear()`], [`mlp`], [`conv2d()`], [`depthwise_conv2d`] | `[batch, height, width, channels]` | projections and convolutions |
//! | [`linear_fused`], [`conv2d_fused`], [`depthwise_conv2d_fused`] | `[batch, height, width, channels]` | projections and convolutions with an [`Epilogue`] |
//! | [`matmul()`] | `[.., rows, columns]` | attention |
//! | [`resize_bilinear`], [`argmax_resized`], [`argmax_channels`], [`softmax_channels`], [`cross_entropy_map`] | `[batch, channels, height, width]` | segmentation heads |
//! | [`roi_align()`] | `[batch, channels, height, width]` | features of boxes |
//! | [`nms()`], [`batched_nms`], [`batched_nms_on`], [`paste_mask()`] | plain numbers | postprocessing of boxes and masks |

mod activation;
mod arguments;
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
pub use epilogue::{Epilogue, Fused, Pointwise};
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
