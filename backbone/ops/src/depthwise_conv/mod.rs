//! Depthwise convolution of channels-last data with stride 1 and "same" zero padding
//! (`torch.nn.Conv2d(C, C, k, padding=k // 2, groups=C)`): the 3x3 convolution of every VSS block.
//!
//! ```text
//! y[r, c] = bias + sum_{i, j} weight[i, j] x[r + i - k/2, c + j - k/2]        for every channel
//! ```
//! Backward, the gradient of the input is the same convolution with the kernel rotated by 180 degrees; that of a weight is the sum over all
//! pixels of the gradient times the pixel under the tap, and that of the bias the sum of the gradient.

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod reference;
#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
use burn::backend::tensor::FloatTensor;
use burn::prelude::*;

use crate::arguments::assert_vector;
use crate::device::has_kernel;
use crate::epilogue::Pointwise;
use crate::operation::operation;
use crate::precision::{in_float32, is_narrow};

operation! {
    DepthwiseConvOps::depthwise_conv => DepthwiseConvGradOps::depthwise_conv_backward -> DepthwiseConvGrads (DepthwiseConvGradsMetadata) by DepthwiseConvNode,
    [3] x, weight, bias
    => x of x.clone()
}

/// The convolution in inference, with an activation in the same pass.
#[burn::backend::backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait FusedDepthwiseConvOps: burn::backend::Backend {
    /// `activation(convolution + bias)`.
    #[fusion(dtype = x, shape = { let _ = (weight, bias, activation); x.clone() })]
    fn depthwise_conv_fused(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Pointwise,
    ) -> FloatTensor<Self>;
}

/// Convolves every channel of `x: [batch, height, width, channels]` with its own kernel, `weight: [channels, 1, k, k]`, and adds
/// `bias: [channels]` where given. The output has the shape of `x`.
///
/// # Panics
/// When the kernel is not square with an odd side, or the channel counts of `x`, `weight` and `bias` differ.
pub fn depthwise_conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    let channels = check(&x, &weight, bias.as_ref());
    if is_narrow(&x) {
        return in_float32(x, |x| depthwise_conv2d(x, weight, bias));
    }
    if !has_kernel(&x) {
        return reference::depthwise_conv2d(x, weight, bias);
    }
    let bias = bias.unwrap_or_else(|| Tensor::zeros([channels], &x.device()));
    Tensor::from_dispatch(<Dispatch as DepthwiseConvOps>::depthwise_conv(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()))
}

/// [`depthwise_conv2d`] followed by an activation. Without gradients both are one pass over memory.
///
/// # Panics
/// Like [`depthwise_conv2d`].
pub fn depthwise_conv2d_fused(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, activation: Pointwise) -> Tensor<4> {
    let channels = check(&x, &weight, bias.as_ref());
    if is_narrow(&x) {
        return in_float32(x, |x| depthwise_conv2d_fused(x, weight, bias, activation));
    }
    if !has_kernel(&x) || x.device().is_autodiff() {
        return activation.apply(depthwise_conv2d(x, weight, bias));
    }
    let bias = bias.unwrap_or_else(|| Tensor::zeros([channels], &x.device()));
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedDepthwiseConvOps>::depthwise_conv_fused(x, weight, bias, activation))
}

/// Checks weight and bias and returns the number of channels.
fn check(x: &Tensor<4>, weight: &Tensor<4>, bias: Option<&Tensor<1>>) -> usize {
    let channels = x.dims()[3];
    let [kernels, one, k, k_width] = weight.dims();
    assert!(k == k_width && k % 2 == 1, "depthwise_conv2d: the kernel must be square and odd, got {k} x {k_width}");
    assert!(kernels == channels && one == 1, "depthwise_conv2d: the weight must be [{channels}, 1, k, k], got {:?}", weight.dims());
    assert_vector("depthwise_conv2d", "bias", bias, channels);
    channels
}
