//! Bilinear resize of feature maps (`torch.nn.functional.interpolate(mode="bilinear")`), with a backward pass on every backend.
//!
//! An output pixel interpolates between two neighbours along each axis, so the resize is `y = R x C'` with two sparse matrices, and its
//! backward pass is `dx = R' dy C`. The kernels apply the matrices directly. The reference multiplies by the dense matrices, which every
//! backend can differentiate; Burn's own resize has no backward pass on GPUs.

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod reference;
mod taps;
#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
#[cfg(feature = "cube")]
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::prelude::*;

use crate::device::has_kernel;
use crate::operation::operation;
use crate::precision::{in_float32, is_narrow};
use crate::softmax::argmax_channels;

operation! {
    ResizeOps::resize => ResizeGradOps::resize_backward -> ResizeGrads (ResizeGradsMetadata) by ResizeNode,
    [1] x; size: [usize; 2], align_corners: bool
    => x of Shape::from([x[0], x[1], size[0], size[1]])
}

/// [`argmax_resized`] on GPUs.
#[cfg(feature = "cube")]
#[burn::backend::backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait ArgmaxOps: burn::backend::Backend {
    /// `[1, channels, height, width]` to `[1, 1, size[0], size[1]]`.
    #[fusion(dtype = burn::tensor::DType::U32, shape = { let _ = scores; Shape::from([1, 1, size[0], size[1]]) })]
    fn argmax_of_resized(scores: FloatTensor<Self>, size: [usize; 2]) -> IntTensor<Self>;
}

/// Resizes `x: [batch, channels, height, width]` to `[batch, channels, size[0], size[1]]`.
///
/// With `align_corners` the centres of the corner pixels are aligned. Otherwise the outer edges are, and positions before the first centre
/// take the first value, as in PyTorch. A map whose memory is channels last (a permuted view) is not copied, and the memory of its result
/// is channels last too.
///
/// # Panics
/// When the input or the output has no pixels.
pub fn resize_bilinear(x: Tensor<4>, size: [usize; 2], align_corners: bool) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    assert!(height * width * size[0] * size[1] > 0, "resize_bilinear: {height} x {width} to {size:?}: an image has no pixels");
    if [height, width] == size {
        return x;
    }
    if is_narrow(&x) {
        return in_float32(x, |x| resize_bilinear(x, size, align_corners));
    }
    if has_kernel(&x) {
        Tensor::from_dispatch(<Dispatch as ResizeOps>::resize(x.into_dispatch(), size, align_corners))
    } else {
        reference::resize_bilinear(x, size, align_corners)
    }
}

/// The channel with the largest score at every pixel of `scores: [1, channels, height, width]` resized to `size` (with
/// [`resize_bilinear`], corners not aligned): `size[0] * size[1]` indices in raster order. Ties give the lowest index.
///
/// The resized scores are not stored: for 150 classes and a 12-megapixel photo they would take 7 GB.
///
/// # Panics
/// When the batch size is not 1, or the input or the output has no pixels.
pub fn argmax_resized(scores: Tensor<4>, size: [usize; 2]) -> Vec<u32> {
    let [batch, channels, height, width] = scores.dims();
    assert!(batch == 1, "argmax_resized: the batch size must be 1, got {batch}");
    assert!(height * width * size[0] * size[1] > 0, "argmax_resized: {height} x {width} to {size:?}: an image has no pixels");
    if [height, width] == size || !has_kernel(&scores) {
        return argmax_channels(resize_bilinear(scores, size, false));
    }
    #[cfg(feature = "cube")]
    if !crate::device::is_native(&scores) {
        let labels = <Dispatch as ArgmaxOps>::argmax_of_resized(scores.inner().into_dispatch(), size);
        return Tensor::<4, Int>::from_dispatch(labels).into_data().iter::<u32>().collect();
    }
    let data = scores.detach().into_data();
    // The CPU kernels take float32 only.
    match data.as_slice::<f32>() {
        Ok(values) => cpu::argmax_resized(values, [channels, height, width], size),
        Err(_) => cpu::argmax_resized(&data.iter::<f32>().collect::<Vec<_>>(), [channels, height, width], size),
    }
}
