//! Dense convolution of channels-last data (`torch.nn.Conv2d` with `groups=1`): the stem and the downsampling layers of VMamba, and the
//! heads.
//!
//! ```text
//! y[r, c, o] = bias[o] + sum_{i, j, k} weight[o, k, i, j] x[r stride + i - padding, c stride + j - padding, k]
//! ```
//! Backward, the gradient of the input is the transposed convolution of the output's gradient; that of the weight is the product of the
//! output's gradient with the input's patches, and that of the bias the sum of the output's gradient.
//!
//! On the CPU a convolution is a matrix product that reads pixels in place (`cpu/direct.rs`) or, for 3x3 kernels of stride 1 with many
//! channels, sixteen products of transformed tiles (`cpu/winograd.rs`).

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod reference;
#[cfg(test)]
mod tests;
mod window;

use burn::backend::Dispatch;
use burn::backend::tensor::FloatTensor;
use burn::prelude::*;

use crate::arguments::assert_vector;
use crate::device::has_kernel;
use crate::epilogue::{EpilogueParts, Fused};
use crate::operation::operation;
use crate::precision::{in_float32, is_narrow, rounded};
use window::Window;

operation! {
    ConvOps::convolve => ConvGradOps::convolve_backward -> ConvGrads (ConvGradsMetadata) by ConvNode,
    [3] x, weight, bias; window: Window, biased: bool
    => x of { let _ = (bias, biased); Shape::from(window.output(x.dims(), weight.dims())) }
}

/// The convolution in inference, with the epilogue in the same pass. Placeholders stand for missing scales, biases and residuals.
#[burn::backend::backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait FusedConvOps: burn::backend::Backend {
    /// `epilogue(convolution)`; `parts` tells which of scale, bias and residual are present.
    #[fusion(dtype = x, shape = { let _ = (scale, bias, residual, parts); Shape::from(window.output(x.dims(), weight.dims())) })]
    fn convolve_fused(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        window: Window,
        parts: EpilogueParts,
    ) -> FloatTensor<Self>;
}

/// Convolves `x: [batch, height, width, in]` with `weight: [out, in, kernel height, kernel width]` (the layout of `torch.nn.Conv2d`)
/// and adds `bias: [out]` where given. Returns `[batch, height', width', out]` with
/// `height' = (height + 2 padding - kernel) / stride + 1`, rounded down.
///
/// # Panics
/// When the channel counts differ, the bias does not have `out` values, a stride is 0, or the kernel is larger than the padded image.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, stride: [usize; 2], padding: [usize; 2]) -> Tensor<4> {
    let window = Window::of(&x, &weight, stride, padding);
    assert_vector("conv2d", "bias", bias.as_ref(), weight.dims()[0]);
    if is_narrow(&x) {
        let weight = rounded(weight, x.dtype());
        return in_float32(x, |x| conv2d(x, weight, bias, stride, padding));
    }
    if !has_kernel(&x) {
        return reference::conv2d(x, weight, bias, window);
    }
    let biased = bias.is_some();
    let bias = bias.unwrap_or_else(|| Tensor::zeros([1], &x.device()));
    let y = <Dispatch as ConvOps>::convolve(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), window, biased);
    Tensor::from_dispatch(y)
}

/// [`conv2d`] with an epilogue, `activation(scale * convolution + bias + residual)`, see [`Fused`].
///
/// # Panics
/// Like [`conv2d`], and when the scale, the bias or the residual does not fit the result.
pub fn conv2d_fused(x: Tensor<4>, weight: Tensor<4>, fused: Fused<4>, stride: [usize; 2], padding: [usize; 2]) -> Tensor<4> {
    let window = Window::of(&x, &weight, stride, padding);
    fused.check("conv2d_fused", window.output(x.dims(), weight.dims()));
    if is_narrow(&x) {
        let weight = rounded(weight, x.dtype());
        return in_float32(x, |x| conv2d_fused(x, weight, fused.widened(), stride, padding));
    }
    if !Fused::runs_in_kernel(&x) {
        return fused.compose(|bias| conv2d(x, weight, bias, stride, padding));
    }
    let (parts, [scale, bias, residual]) = fused.into_arguments(&x.device());
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedConvOps>::convolve_fused(x, weight, scale, bias, residual, window, parts))
}
