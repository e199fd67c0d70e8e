//! Batch norm in training, on channels-last data (`torch.nn.BatchNorm2d` in training mode).
//!
//! ```text
//! y = weight * n + bias,  n = (x - mean) / sqrt(var + eps)
//! ```
//! with mean and biased variance over all axes but the last. Backward, with `g` the gradient of `y` and means over the same axes:
//!
//! ```text
//! dx = weight / sqrt(var + eps) * (g - mean(g) - n * mean(g n)),  dweight = sum(g n),  dbias = sum(g)
//! ```

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod reference;
#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
use burn::backend::tensor::FloatTensor;
use burn::prelude::*;
use burn::tensor::DType;

use crate::arguments::assert_vector;
use crate::device::has_kernel;
use crate::operation::operation;
use crate::precision::is_narrow;

operation! {
    BatchNormOps::normalise_batch => BatchNormGradOps::normalise_batch_backward -> BatchNormGrads (BatchNormGradsMetadata) by BatchNormNode,
    [4] x, weight, bias, moments; eps: f32
    => x of { let _ = (weight, bias, moments, eps); x.clone() }
}

/// Mean and variance of a batch. This operation needs no gradient: that of [`BatchNormOps`] includes the paths through mean and variance.
#[burn::backend::backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait MomentsOps: burn::backend::Backend {
    /// Means and biased variances of the channels (the last axis), `[2, channels]`, in the type of `like`.
    #[fusion(dtype = like, shape = { let _ = like; Shape::from([2, x[x.num_dims() - 1]]) })]
    fn moments(x: FloatTensor<Self>, like: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The result of [`batch_norm`].
#[derive(Clone, Debug)]
pub struct BatchNormed<const D: usize> {
    /// The normalised input, in its shape and type.
    pub output: Tensor<D>,
    /// The mean of every channel, `[channels]`, float32, detached.
    pub mean: Tensor<1>,
    /// The biased variance of every channel, `[channels]`, float32, detached.
    pub variance: Tensor<1>,
}

/// Normalises every channel of `x: [.., channels]` to mean 0 and variance 1 over the batch, then scales by `weight: [channels]` and shifts
/// by `bias: [channels]`. Gradients include the paths through mean and variance.
///
/// # Panics
/// When `weight` or `bias` does not have `channels` values.
pub fn batch_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> BatchNormed<D> {
    let channels = x.dims()[D - 1];
    assert_vector("batch_norm", "weight", Some(&weight), channels);
    assert_vector("batch_norm", "bias", Some(&bias), channels);
    if is_narrow(&x) {
        let dtype = x.dtype();
        let normed = batch_norm(x.cast(DType::F32), weight, bias, eps);
        return BatchNormed { output: normed.output.cast(dtype), ..normed };
    }
    if !has_kernel(&x) {
        return reference::batch_norm(x, weight, bias, eps);
    }
    let tracked = x.device().is_autodiff();
    let [plain, like] = if tracked {
        [x.clone().inner().into_dispatch(), weight.clone().inner().into_dispatch()]
    } else {
        [x.clone().into_dispatch(), weight.clone().into_dispatch()]
    };
    let moments = Tensor::<2>::from_dispatch(<Dispatch as MomentsOps>::moments(plain, like));
    let moments = if tracked { Tensor::from_inner(moments) } else { moments };
    let output = <Dispatch as BatchNormOps>::normalise_batch(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        moments.clone().into_dispatch(),
        eps as f32,
    );
    let [mean, variance] = [0, 1].map(|row| moments.clone().narrow(0, row, 1).reshape([channels]));
    BatchNormed { output: Tensor::from_dispatch(output), mean, variance }
}
