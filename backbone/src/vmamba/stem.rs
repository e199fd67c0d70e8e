//! The stem: from the image to the first feature map, with stride `patch_size`.

use burn::prelude::*;

use super::config::{PatchEmbedVersion, VmambaConfig};
use crate::layers::{ChannelNorm, Conv, ConvConfig};

/// Official `patch_embed`. V1: `conv1` (kernel = stride = patch size), `norm1`. V2: two overlapping convolutions with stride
/// `patch_size / 2` each, `conv1 norm1 GELU conv2 norm2`.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    conv1: Conv,
    norm1: Option<ChannelNorm>,
    conv2: Option<Conv>,
    norm2: Option<ChannelNorm>,
}

impl PatchEmbed {
    pub(super) fn new(config: &VmambaConfig, device: &Device) -> Self {
        let convs = conv_configs(config);
        let norm = |conv: &ConvConfig| config.patch_norm.then(|| ChannelNorm::new(conv.outputs, device));
        let (first, second) = (convs[0], convs.get(1));
        Self { conv1: first.init(device), norm1: norm(&first), conv2: second.map(|conv| conv.init(device)), norm2: second.and_then(norm) }
    }

    /// `[batch, height, width, in_chans]` to `[batch, height', width', dim]`.
    pub(super) fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let x = normalise(self.norm1.as_ref(), self.conv1.forward(images));
        match &self.conv2 {
            Some(conv2) => normalise(self.norm2.as_ref(), conv2.forward(vision_ops::gelu(x))),
            None => x,
        }
    }
}

fn normalise(norm: Option<&ChannelNorm>, x: Tensor<4>) -> Tensor<4> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}

/// The convolutions of the stem in order.
pub(crate) fn conv_configs(config: &VmambaConfig) -> Vec<ConvConfig> {
    let dim = config.dim(0);
    match config.patchembed_version {
        PatchEmbedVersion::V1 => {
            vec![ConvConfig { inputs: config.in_chans, outputs: dim, kernel: config.patch_size, stride: config.patch_size, padding: 0 }]
        }
        PatchEmbedVersion::V2 => {
            let stride = config.patch_size / 2;
            let conv = |inputs, outputs| ConvConfig { inputs, outputs, kernel: stride + 1, stride, padding: 1 };
            vec![conv(config.in_chans, dim / 2), conv(dim / 2, dim)]
        }
    }
}
