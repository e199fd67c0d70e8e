//! The convolution by Burn's own channels-first operation.

use burn::prelude::*;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;

pub(crate) fn depthwise_conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    let (weight, bias) = (weight.cast(x.dtype()), bias.map(|bias| bias.cast(x.dtype())));
    let [channels, _, k, _] = weight.dims();
    let y = conv2d(x.permute([0, 3, 1, 2]), weight, bias, ConvOptions::new([1, 1], [k / 2, k / 2], [1, 1], channels));
    y.permute([0, 2, 3, 1])
}
