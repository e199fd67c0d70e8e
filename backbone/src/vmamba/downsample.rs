//! The layer between two stages: halves the resolution and changes to the channels of the next stage.

use burn::prelude::*;

use super::config::{DownsampleVersion, VmambaConfig};
use crate::layers::{ChannelNorm, Conv, ConvConfig, Dense};

/// Official `downsample` of every stage but the last.
#[derive(Module, Debug)]
pub enum Downsample {
    /// [`DownsampleVersion::V2`] and [`DownsampleVersion::V3`].
    Convolution(StridedConv),
    /// [`DownsampleVersion::V1`].
    Merging(PatchMerging),
}

/// Convolution with stride 2, norm.
#[derive(Module, Debug)]
pub struct StridedConv {
    conv: Conv,
    norm: ChannelNorm,
}

/// Swin's patch merging: 2x2 neighbours concatenated, norm, linear without bias.
#[derive(Module, Debug)]
pub struct PatchMerging {
    norm: ChannelNorm,
    reduction: Dense,
}

impl Downsample {
    /// The layer after stage `stage`; `None` after the last one and for [`DownsampleVersion::None`].
    pub(super) fn new(config: &VmambaConfig, stage: usize, device: &Device) -> Option<Self> {
        if stage + 1 >= config.num_stages() {
            return None;
        }
        let (inputs, outputs) = (config.dim(stage), config.dim(stage + 1));
        match config.downsample_version {
            DownsampleVersion::None => None,
            DownsampleVersion::V1 => Some(Self::Merging(PatchMerging::new(inputs, outputs, device))),
            DownsampleVersion::V2 | DownsampleVersion::V3 => conv_config(config, stage)
                .map(|conv| Self::Convolution(StridedConv { conv: conv.init(device), norm: ChannelNorm::new(outputs, device) })),
        }
    }

    /// `[batch, height, width, channels]` to `[batch, height / 2, width / 2, channels']`; V2 rounds odd sizes down, V1 and V3
    /// round them up.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Convolution(StridedConv { conv, norm }) => norm.forward(conv.forward(x)),
            Self::Merging(merging) => merging.forward(x),
        }
    }
}

impl PatchMerging {
    /// A merging from `inputs` channels to `outputs`, with random weights.
    pub(crate) fn new(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self { norm: ChannelNorm::new(4 * inputs, device), reduction: Dense::new(4 * inputs, outputs, false, device) }
    }

    /// `[batch, height, width, inputs]` to `[batch, ceil(height / 2), ceil(width / 2), outputs]`.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.reduction.forward(self.norm.forward(merge_neighbours(x)))
    }
}

/// The strided convolution after stage `stage`, for the versions that have one.
pub(crate) fn conv_config(config: &VmambaConfig, stage: usize) -> Option<ConvConfig> {
    let (kernel, padding) = match config.downsample_version {
        DownsampleVersion::V2 => (2, 0),
        DownsampleVersion::V3 => (3, 1),
        DownsampleVersion::V1 | DownsampleVersion::None => return None,
    };
    Some(ConvConfig { inputs: config.dim(stage), outputs: config.dim(stage + 1), kernel, stride: 2, padding })
}

/// `[batch, height, width, c]` to `[batch, ceil(height / 2), ceil(width / 2), 4 c]`, with the neighbours in the order (row, column) =
/// (0,0), (1,0), (0,1), (1,1). Odd sizes are padded with zeros at the bottom and the right. The official channels-first code pads other
/// axes, a bug that affects only `ln2d` with V1, which no published model has.
pub(crate) fn merge_neighbours(x: Tensor<4>) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let (device, dtype) = (x.device(), x.dtype());
    let x = if height % 2 == 1 { Tensor::cat(vec![x, Tensor::zeros([batch, 1, width, channels], (&device, dtype))], 1) } else { x };
    let (rows, height) = (height.div_ceil(2), height.next_multiple_of(2));
    let x = if width % 2 == 1 { Tensor::cat(vec![x, Tensor::zeros([batch, height, 1, channels], (&device, dtype))], 2) } else { x };
    let columns = width.div_ceil(2);
    let x: Tensor<6> = x.reshape([batch, rows, 2, columns, 2, channels]);
    x.permute([0, 1, 3, 4, 2, 5]).reshape([batch, rows, columns, 4 * channels])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_go_down_the_column_first_and_odd_sizes_are_padded() {
        let device = Device::flex();
        let x = Tensor::<1, Int>::arange(1..7, &device).float().reshape([1, 2, 3, 1]);
        let merged: Vec<f32> = merge_neighbours(x).into_data().iter::<f32>().collect();
        assert_eq!(merged, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0, 0.0, 0.0]);
    }
}
