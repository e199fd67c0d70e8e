//! The convolution by Burn's own channels-first operation.

use burn::prelude::*;
use burn::tensor::module;
use burn::tensor::ops::ConvOptions;

use super::window::Window;

pub(crate) fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, window: Window) -> Tensor<4> {
    let (weight, bias) = (weight.cast(x.dtype()), bias.map(|bias| bias.cast(x.dtype())));
    let options = ConvOptions::new(window.stride, window.padding, [1, 1], 1);
    module::conv2d(x.permute([0, 3, 1, 2]), weight, bias, options).permute([0, 2, 3, 1])
}
