//! Pyramid pooling (Zhao et al., PSPNet; mmsegmentation's `PPM`).

use burn::prelude::*;
use burn::tensor::module::adaptive_avg_pool2d;
use vision_ops::resize_bilinear;

use crate::conv_module::ConvModule;

/// Averages over grids of several sizes, each projected and brought back to the size of the input.
#[derive(Module, Debug)]
pub struct PyramidPooling {
    pub(crate) branches: Vec<ConvModule>,
    scales: Vec<usize>,
}

impl PyramidPooling {
    /// One branch a scale, from `inputs` to `outputs` channels.
    pub fn new(inputs: usize, outputs: usize, scales: &[usize], device: &Device) -> Self {
        Self { branches: scales.iter().map(|_| ConvModule::new(inputs, outputs, 1, device)).collect(), scales: scales.to_vec() }
    }

    /// The branches before they are resized, `[batch, out, scale, scale]` each.
    pub fn pooled(&self, x: &Tensor<4>) -> Vec<Tensor<4>> {
        let pool = |(branch, scale): (&ConvModule, &usize)| branch.forward(adaptive_avg_pool2d(x.clone(), [*scale, *scale]));
        self.branches.iter().zip(&self.scales).map(pool).collect()
    }

    /// `x` and every branch at its size, along the channels: `[batch, in + scales * out, height, width]`.
    pub fn concatenate(x: Tensor<4>, pooled: Vec<Tensor<4>>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let pooled = pooled.into_iter().map(|branch| resize_bilinear(branch, [height, width], false));
        Tensor::cat(std::iter::once(x).chain(pooled).collect(), 1)
    }
}
