//! Dense convolution of channels-last data: the stem and the downsampling layers of VMamba, and all of the heads.
//!
//! On the CPU a convolution is a matrix product that reads the pixels where they lie (`direct.rs`), or sixteen smaller ones of
//! transformed tiles (`winograd.rs`) for 3x3 kernels of stride 1.

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod direct;
mod patches;
mod reference;
#[cfg(test)]
mod tests;
mod winograd;

use burn::backend::Dispatch;
use burn::backend::tensor::FloatTensor;
use burn::prelude::*;

use crate::flex::has_kernel;
use crate::fused::Fused;
use crate::matmul::Pointwise;
use crate::operation::operation;
use crate::precision::{in_float32, is_narrow, rounded};

operation! {
    ConvOps::convolve => ConvGradOps::convolve_backward -> ConvGrads (ConvGradsMetadata) by ConvNode,
    [3] x, weight, bias; window: Window, biased: bool
    => x of { let _ = (bias, biased); window.output(x, weight) }
}

/// The convolution of inference, with all that is done to its results.
#[burn::backend::backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait FusedConvOps: burn::backend::Backend {
    /// `parts` tells which of scale, bias and residual are meant.
    #[fusion(dtype = x, shape = { let _ = (scale, bias, residual, parts, activation); window.output(x, weight) })]
    #[allow(clippy::too_many_arguments)]
    fn convolve_fused(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        window: Window,
        parts: [bool; 3],
        activation: Pointwise,
    ) -> FloatTensor<Self>;
}

/// A window that slides over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Steps between windows, vertically and horizontally.
    pub stride: [usize; 2],
    /// Rows of zeros above and below, columns of zeros left and right.
    pub padding: [usize; 2],
}

impl Window {
    /// Number of windows along each axis of an image of `height` by `width`; what does not fill a window is dropped.
    fn count(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let along = |extent: usize, axis: usize| {
            (extent + 2 * self.padding[axis]).checked_sub(self.kernel[axis]).map_or(0, |rest| rest / self.stride[axis] + 1)
        };
        [along(height, 0), along(width, 1)]
    }

    /// Shape of the result for an input and a weight of these shapes.
    #[cfg(feature = "fusion")]
    fn output(&self, x: &Shape, weight: &Shape) -> Shape {
        let [rows, columns] = self.count([x[1], x[2]]);
        Shape::from([x[0], rows, columns, weight[0]])
    }
}

/// Convolves `x: [batch, height, width, in]` with `weight: [out, in, kernel height, kernel width]` (the layout of `torch.nn.Conv2d`)
/// and adds `bias: [out]` where given. Returns `[batch, height', width', out]` with
/// `height' = (height + 2 padding - kernel) / stride + 1`, rounded down.
///
/// # Panics
/// When the channel counts differ, a stride is 0, or the kernel is larger than the padded image.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, stride: [usize; 2], padding: [usize; 2]) -> Tensor<4> {
    let window = Window::of(&x, &weight, stride, padding);
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

/// [`conv2d`] and what follows it, see [`Fused`]. The residual has the shape of the result.
///
/// # Panics
/// As [`conv2d`], and when a part of `fused` does not fit the result.
pub fn conv2d_fused(x: Tensor<4>, weight: Tensor<4>, fused: Fused<4>, stride: [usize; 2], padding: [usize; 2]) -> Tensor<4> {
    let window = Window::of(&x, &weight, stride, padding);
    if is_narrow(&x) {
        let weight = rounded(weight, x.dtype());
        return in_float32(x, |x| conv2d_fused(x, weight, fused.widened(), stride, padding));
    }
    if !fused.applies(&x) {
        return fused.compose(|bias| conv2d(x, weight, bias, stride, padding));
    }
    let (parts, [scale, bias, residual], activation) = fused.into_parts(&x.device());
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedConvOps>::convolve_fused(x, weight, scale, bias, residual, window, parts, activation))
}

impl Window {
    /// The window of a convolution whose sizes fit.
    fn of(x: &Tensor<4>, weight: &Tensor<4>, stride: [usize; 2], padding: [usize; 2]) -> Self {
        let [_, height, width, channels] = x.dims();
        let [_, inner, kernel_height, kernel_width] = weight.dims();
        assert_eq!(channels, inner, "conv2d: the input has {channels} channels, the weight expects {inner}");
        assert!(stride[0] > 0 && stride[1] > 0, "conv2d: a stride of 0 never moves");
        let window = Self { kernel: [kernel_height, kernel_width], stride, padding };
        let [rows, columns] = window.count([height, width]);
        assert!(
            rows > 0 && columns > 0,
            "conv2d: an image of {height} x {width} with padding {padding:?} is smaller than the kernel {kernel_height} x {kernel_width}"
        );
        window
    }
}
