//! Pyramid pooling (Zhao et al., PSPNet; mmsegmentation's `PPM`).

use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::module::adaptive_avg_pool2d;
use vision_ops::resize_bilinear;

use crate::conv_module::ConvModule;

/// Averages over grids of several sizes, each projected by a convolution and resized to the input.
#[derive(Module, Debug)]
pub struct PyramidPooling {
    pub(crate) branches: Vec<ConvModule>,
    scales: Vec<usize>,
}

impl PyramidPooling {
    /// One branch for each scale, from `inputs` to `outputs` channels.
    pub fn new(inputs: usize, outputs: usize, scales: &[usize], device: &Device) -> Self {
        Self { branches: scales.iter().map(|_| ConvModule::new(inputs, outputs, 1, device)).collect(), scales: scales.to_vec() }
    }

    /// The branches of `x: [batch, height, width, in]` before they are resized, `[batch, scale, scale, out]` each.
    pub fn pooled(&self, x: &Tensor<4>) -> Vec<Tensor<4>> {
        // The 8 bits of a bf16 significand cannot hold a sum over the whole map.
        let first = x.clone().permute([0, 3, 1, 2]).cast(DType::F32);
        let pool = |(branch, scale): (&ConvModule, &usize)| {
            branch.forward(adaptive_avg_pool2d(first.clone(), [*scale, *scale]).cast(x.dtype()).permute([0, 2, 3, 1]))
        };
        self.branches.iter().zip(&self.scales).map(pool).collect()
    }

    /// The fewest values of a channel that a batch norm in training takes from one image; `None` when none is trained.
    pub(crate) fn fewest_norm_values(&self) -> Option<usize> {
        let trained = self.branches.iter().zip(&self.scales).filter(|(branch, _)| branch.bn.trains());
        trained.map(|(_, scale)| scale * scale).min()
    }

    /// `x` and every branch resized to it, concatenated along the channels: `[batch, height, width, in + scales * out]`.
    pub fn concatenate(x: Tensor<4>, pooled: Vec<Tensor<4>>) -> Tensor<4> {
        let [_, height, width, _] = x.dims();
        let pooled = pooled.into_iter().map(|branch| resized(branch, [height, width]));
        Tensor::cat(std::iter::once(x).chain(pooled).collect(), 3)
    }
}

/// [`resize_bilinear`] of `[batch, height, width, channels]`.
pub(crate) fn resized(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    resize_bilinear(x.permute([0, 3, 1, 2]), size, false).permute([0, 2, 3, 1])
}
