//! Depthwise convolution of channels-last data with stride 1 and "same" zero padding, the 3x3 convolution inside every VSS block
//! (`torch.nn.Conv2d(C, C, k, padding=k // 2, groups=C)`).

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
use burn::prelude::*;

use crate::flex::is_native;
use crate::operation::operation;

operation! {
    DepthwiseConvOps::depthwise_conv => DepthwiseConvGradOps::depthwise_conv_backward -> DepthwiseConvGrads by DepthwiseConvNode,
    [3] x, weight, bias
}

/// Convolves every channel of `x: [batch, height, width, channels]` with its own kernel, `weight: [channels, 1, k, k]`, and adds
/// `bias: [channels]` where given. The output has the shape of `x`.
///
/// # Panics
/// When the kernel is not square with an odd side or the channel counts differ.
pub fn depthwise_conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    let channels = x.dims()[3];
    let [kernels, one, k, k_width] = weight.dims();
    assert!(k == k_width && k % 2 == 1, "depthwise_conv2d: the kernel must be square and odd, got {k} x {k_width}");
    assert!(kernels == channels && one == 1, "depthwise_conv2d: weight must be [{channels}, 1, k, k]");
    if !is_native(&x) {
        return reference::depthwise_conv2d(x, weight, bias);
    }
    let bias = bias.unwrap_or_else(|| Tensor::zeros([channels], &x.device()));
    Tensor::from_dispatch(<Dispatch as DepthwiseConvOps>::depthwise_conv(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()))
}
