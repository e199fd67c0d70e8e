//! LayerNorm over the channels of channels-last data (`torch.nn.LayerNorm`, and the official `LayerNorm2d`, which permutes to this layout
//! and back).
//!
//! ```text
//! y = weight * n + bias,  n = (x - mean) / sqrt(var + eps)
//! ```
//! with mean and biased variance over the last axis. Backward, with `g` the gradient of `y` times `weight` and means over the last axis:
//!
//! ```text
//! dx = (g - mean(g) - n * mean(g n)) / sqrt(var + eps),  dweight = sum(dy n),  dbias = sum(dy)
//! ```

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod reference;
#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
use burn::prelude::*;

use crate::arguments::assert_vector;
use crate::device::has_kernel;
use crate::operation::operation;
use crate::precision::{in_float32, is_narrow};

operation! {
    ChannelNormOps::channel_norm => ChannelNormGradOps::channel_norm_backward -> ChannelNormGrads (ChannelNormGradsMetadata) by ChannelNormNode,
    [3] x, weight, bias; eps: f32
    => x of x.clone()
}

/// Normalises the last axis of `x: [.., channels]` to mean 0 and variance 1, then scales by `weight: [channels]` and shifts by
/// `bias: [channels]` where given.
///
/// # Panics
/// When `weight` or `bias` does not have `channels` values.
pub fn channel_norm<const D: usize>(x: Tensor<D>, weight: Option<Tensor<1>>, bias: Option<Tensor<1>>, eps: f64) -> Tensor<D> {
    let channels = x.dims()[D - 1];
    assert_vector("channel_norm", "weight", weight.as_ref(), channels);
    assert_vector("channel_norm", "bias", bias.as_ref(), channels);
    if is_narrow(&x) {
        return in_float32(x, |x| channel_norm(x, weight, bias, eps));
    }
    if !has_kernel(&x) {
        return reference::channel_norm(x, weight, bias, eps);
    }
    let device = x.device();
    let weight = weight.unwrap_or_else(|| Tensor::ones([channels], &device));
    let bias = bias.unwrap_or_else(|| Tensor::zeros([channels], &device));
    Tensor::from_dispatch(<Dispatch as ChannelNormOps>::channel_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        eps as f32,
    ))
}
