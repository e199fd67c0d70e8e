//! The projection composed of Burn's operations.

use burn::prelude::*;

pub(crate) fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let (weight, bias) = (weight.cast(x.dtype()), bias.map(|bias| bias.cast(x.dtype())));
    let mut shape = x.dims();
    let [out_features, in_features] = weight.dims();
    let rows: usize = shape[..D - 1].iter().product();
    shape[D - 1] = out_features;
    let y = x.reshape([rows, in_features]).matmul(weight.transpose());
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
    .reshape(shape)
}
