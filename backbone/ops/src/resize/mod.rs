//! Bilinear resize of feature maps (`torch.nn.functional.interpolate(mode="bilinear")`), with a backward on every backend.
//!
//! Both axes are interpolations between two neighbours, that is multiplications with a sparse matrix: the CPU kernel applies it
//! directly, the reference multiplies with the dense matrix, which differentiates everywhere (Burn's own resize has no backward on its
//! GPU backends).

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod reference;
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

/// What [`argmax_resized`] is on GPUs.
#[cfg(feature = "cube")]
#[burn::backend::backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait ArgmaxOps: burn::backend::Backend {
    /// `[1, channels, height, width]` to `[1, 1, size[0], size[1]]`.
    #[fusion(dtype = burn::tensor::DType::U32, shape = { let _ = scores; Shape::from([1, 1, size[0], size[1]]) })]
    fn argmax_of_resized(scores: FloatTensor<Self>, size: [usize; 2]) -> IntTensor<Self>;
}

/// Resizes `x: [batch, channels, height, width]` to `[batch, channels, size[0], size[1]]`.
///
/// With `align_corners` the centres of the corner pixels keep their place, otherwise the outer edges do and positions before the first
/// centre take the first value, as PyTorch has it. On the CPU a map that lies channels last in memory (a permuted view) gives a result
/// that does so too, without a copy.
///
/// # Panics
/// When the input or the output has no pixel.
pub fn resize_bilinear(x: Tensor<4>, size: [usize; 2], align_corners: bool) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    assert!(height * width * size[0] * size[1] > 0, "resize_bilinear: {height} x {width} to {size:?}: an image without pixels");
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

/// The channel with the largest score at every pixel of `scores: [1, channels, height, width]` resized to `size` (as
/// [`resize_bilinear`] without aligned corners): `size[0] * size[1]` indices in raster order, the first of equal ones.
///
/// The resized scores are never held at once. For 150 classes and a photo of 12 megapixels they would take 7 GB.
///
/// # Panics
/// When there is not exactly one image, or the input or the output has no pixel.
pub fn argmax_resized(scores: Tensor<4>, size: [usize; 2]) -> Vec<u32> {
    let [batch, channels, height, width] = scores.dims();
    assert!(batch == 1, "argmax_resized: one image at a time, got {batch}");
    assert!(height * width * size[0] * size[1] > 0, "argmax_resized: {height} x {width} to {size:?}: an image without pixels");
    if [height, width] == size || !has_kernel(&scores) {
        return argmax_channels(resize_bilinear(scores, size, false));
    }
    #[cfg(feature = "cube")]
    if !crate::device::is_native(&scores) {
        let labels = <Dispatch as ArgmaxOps>::argmax_of_resized(scores.inner().into_dispatch(), size);
        return Tensor::<4, Int>::from_dispatch(labels).into_data().iter::<u32>().collect();
    }
    let data = scores.detach().into_data();
    // Float32 is all the CPU kernels know; anything else is converted.
    match data.as_slice::<f32>() {
        Ok(values) => cpu::argmax_resized(values, [channels, height, width], size),
        Err(_) => cpu::argmax_resized(&data.iter::<f32>().collect::<Vec<_>>(), [channels, height, width], size),
    }
}

/// Where an output position reads: two neighbours and the weight of the second.
#[derive(Clone, Copy, Debug)]
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

/// The taps of one axis.
fn taps(from: usize, to: usize, align_corners: bool) -> Vec<Tap> {
    (0..to)
        .map(|index| {
            let position = if align_corners {
                let scale = if to > 1 { (from - 1) as f32 / (to - 1) as f32 } else { 0.0 };
                index as f32 * scale
            } else {
                // PyTorch computes this in float32.
                let scale = from as f32 / to as f32;
                (scale * (index as f32 + 0.5) - 0.5).max(0.0)
            };
            let low = (position as usize).min(from - 1);
            Tap { low, high: (low + 1).min(from - 1), weight: position - low as f32 }
        })
        .collect()
}
