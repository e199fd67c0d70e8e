//! Feature pyramid network (Lin et al. 2017; mmdetection's `FPN`): all levels get the same number of channels, every coarse level is
//! upsampled and added to the next finer one, and extra levels are subsampled from the coarsest.

use burn::nn::Initializer;
use burn::prelude::*;
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};
use vision_ops::Fused;
use vmamba::layers::{Conv, ConvConfig};

/// The feature pyramid network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct FpnConfig {
    /// Channels of every level.
    pub channels: usize,
    /// Number of levels; levels beyond the backbone's are subsampled from the coarsest.
    pub levels: usize,
}

impl Default for FpnConfig {
    fn default() -> Self {
        Self { channels: 256, levels: 5 }
    }
}

/// A convolution under the key `conv`, as in mmcv's `ConvModule`.
#[derive(Module, Debug)]
pub struct NamedConv {
    /// `[out, in, kernel, kernel]` with bias.
    pub conv: Conv,
}

impl NamedConv {
    /// A convolution with stride 1, "same" padding and zero bias.
    pub fn new(inputs: usize, outputs: usize, kernel: usize, initializer: Initializer, device: &Device) -> Self {
        Self { conv: conv2d(inputs, outputs, kernel, initializer, device) }
    }
}

/// A convolution with stride 1, "same" padding and zero bias, on maps `[batch, height, width, channels]`.
pub(crate) fn conv2d(inputs: usize, outputs: usize, kernel: usize, initializer: Initializer, device: &Device) -> Conv {
    let taps = kernel * kernel;
    let weight = initializer.init_with([outputs, inputs, kernel, kernel], Some(inputs * taps), Some(outputs * taps), device);
    let config = ConvConfig { inputs, outputs, kernel, stride: 1, padding: kernel / 2 };
    config.with_parameters(weight, Some(Initializer::Zeros.init([outputs], device)))
}

/// The feature pyramid network, with the keys of mmdetection's `neck`.
#[derive(Module, Debug)]
pub struct Fpn {
    lateral_convs: Vec<NamedConv>,
    fpn_convs: Vec<NamedConv>,
    levels: usize,
}

impl FpnConfig {
    /// Strides of all levels in pixels, for a backbone with levels of these strides: every extra level doubles the stride before it.
    pub fn strides(&self, backbone: &[usize]) -> Vec<usize> {
        let mut strides: Vec<usize> = backbone.iter().take(self.levels).copied().collect();
        while strides.len() < self.levels {
            strides.push(strides.last().map_or(1, |last| 2 * last));
        }
        strides
    }

    /// A pyramid over backbone levels of `inputs` channels, with Xavier uniform weights.
    pub fn init(&self, inputs: &[usize], device: &Device) -> Fpn {
        let xavier = || Initializer::XavierUniform { gain: 1.0 };
        Fpn {
            lateral_convs: inputs.iter().map(|inputs| NamedConv::new(*inputs, self.channels, 1, xavier(), device)).collect(),
            fpn_convs: inputs.iter().map(|_| NamedConv::new(self.channels, self.channels, 3, xavier(), device)).collect(),
            levels: self.levels,
        }
    }
}

impl Fpn {
    /// Features `[batch, inputs[i], height, width]` to the levels of the pyramid `[batch, channels, height, width]` in the type of the
    /// features, both with the finest first.
    pub fn forward(&self, features: Vec<Tensor<4>>) -> Vec<Tensor<4>> {
        let mut merged: Vec<Tensor<4>> = Vec::with_capacity(self.levels);
        for (x, lateral) in features.into_iter().zip(&self.lateral_convs).rev() {
            let [_, _, height, width] = x.dims();
            let residual = merged.last().map(|coarser| upsample(coarser.clone(), [height, width]));
            merged.push(lateral.conv.forward_fused(x.permute([0, 2, 3, 1]), Fused { residual, ..Fused::default() }));
        }
        let finest_first = merged.into_iter().rev().zip(&self.fpn_convs);
        let mut levels: Vec<Tensor<4>> = finest_first.map(|(x, conv)| conv.conv.forward(x).permute([0, 3, 1, 2])).collect();
        while levels.len() < self.levels {
            let Some(coarsest) = levels.last() else { break };
            levels.push(subsample(coarsest.clone()));
        }
        levels
    }
}

/// Nearest upsampling of `[batch, height, width, channels]` to a size that need not be a multiple.
fn upsample(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let [_, height, width, _] = x.dims();
    // PyTorch scales positions in float32 and rounds down.
    let source = |old: usize, new: usize, device: &Device| {
        let scale = old as f32 / new as f32;
        let rows: Vec<i64> = (0..new).map(|index| ((index as f32 * scale) as i64).min(old as i64 - 1)).collect();
        Tensor::<1, Int>::from_data(TensorData::new(rows, [new]), device)
    };
    let device = x.device();
    x.select(1, source(height, size[0], &device)).select(2, source(width, size[1], &device))
}

/// Every second row and column, which is a max pool with kernel 1 and stride 2.
fn subsample(x: Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let device = x.device();
    let kept = |side: usize| {
        let kept: Vec<i64> = (0..side as i64).step_by(2).collect();
        let count = kept.len();
        Tensor::<1, Int>::from_data(TensorData::new(kept, [count]), &device)
    };
    x.select(2, kept(height)).select(3, kept(width))
}
