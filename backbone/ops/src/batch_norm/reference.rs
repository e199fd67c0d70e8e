//! Batch norm composed of Burn's operations.

use burn::prelude::*;
use burn::tensor::DType;

use super::BatchNormed;

pub(crate) fn batch_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> BatchNormed<D> {
    let (shape, dtype) = (x.dims(), x.dtype());
    let channels = shape[D - 1];
    let x: Tensor<2> = x.cast(DType::F32).reshape([-1, channels as i32]);
    let mean = x.clone().mean_dim(0);
    let centred = x - mean.clone();
    let variance = centred.clone().square().mean_dim(0);
    let y = centred / (variance.clone() + eps).sqrt() * weight.unsqueeze() + bias.unsqueeze();
    let [mean, variance] = [mean, variance].map(|moment| moment.reshape([channels]).detach());
    BatchNormed { output: y.reshape(shape).cast(dtype), mean, variance }
}
