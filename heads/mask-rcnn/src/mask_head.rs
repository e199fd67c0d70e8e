//! Mask of a RoI (He et al. 2017; mmdetection's `FCNMaskHead`).

use burn::nn::Initializer;
use burn::nn::conv::{Conv2d, ConvTranspose2d, ConvTranspose2dConfig};
use burn::prelude::*;
use burn::tensor::TensorData;
use burn::tensor::activation::relu;
use serde::{Deserialize, Serialize};

use crate::fpn::{NamedConv, conv2d};

/// The mask head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaskHeadConfig {
    /// 3x3 convolutions.
    pub num_convs: usize,
    /// Their channels.
    pub channels: usize,
    /// Side of the features of a RoI; the masks have twice this side.
    pub roi_size: usize,
}

impl Default for MaskHeadConfig {
    fn default() -> Self {
        Self { num_convs: 4, channels: 256, roi_size: 14 }
    }
}

/// Convolutions, a doubling of the size, and a mask for every class.
#[derive(Module, Debug)]
pub struct MaskHead {
    convs: Vec<NamedConv>,
    upsample: ConvTranspose2d,
    conv_logits: Conv2d,
}

impl MaskHeadConfig {
    /// A head on RoI features of `inputs` channels.
    pub fn init(&self, inputs: usize, num_classes: usize, device: &Device) -> MaskHead {
        let kaiming = || Initializer::KaimingNormal { gain: std::f64::consts::SQRT_2, fan_out_only: true };
        let channels = self.channels;
        let conv = |index: usize| NamedConv::new(if index == 0 { inputs } else { channels }, channels, 3, kaiming(), device);
        let last = if self.num_convs == 0 { inputs } else { channels };
        // PyTorch counts the fan of a transposed convolution, whose weight is `[in, out, 2, 2]`, over its inputs.
        let deviation = std::f64::consts::SQRT_2 / ((last * 4) as f64).sqrt();
        let mut upsample = ConvTranspose2dConfig::new([last, channels], [2, 2])
            .with_stride([2, 2])
            .with_initializer(Initializer::Normal { mean: 0.0, std: deviation })
            .init(device);
        upsample.bias = Some(Initializer::Zeros.init([channels], device));
        MaskHead {
            convs: (0..self.num_convs).map(conv).collect(),
            upsample,
            conv_logits: conv2d(channels, num_classes, 1, kaiming(), device),
        }
    }
}

impl MaskHead {
    /// Features `[rois, channels, size, size]` to logits `[rois, classes, 2 * size, 2 * size]`.
    pub fn forward(&self, features: Tensor<4>) -> Tensor<4> {
        self.conv_logits.forward(self.enlarged(features))
    }

    /// As [`MaskHead::forward`], but only the mask of one class for each RoI: `[rois, 2 * size, 2 * size]`. With 80 classes that is an
    /// eightieth of the last layer's work, and the same numbers.
    ///
    /// # Panics
    /// When there are not as many classes as RoIs.
    pub fn forward_of_class(&self, features: Tensor<4>, classes: &[usize]) -> Tensor<3> {
        let x = self.enlarged(features);
        let [rois, channels, height, width] = x.dims();
        assert_eq!(rois, classes.len(), "MaskHead: one class for each RoI");
        let classes: Vec<i64> = classes.iter().map(|class| *class as i64).collect();
        let classes = Tensor::<1, Int>::from_data(TensorData::new(classes, [rois]), &x.device());
        let [outputs, ..] = self.conv_logits.weight.dims();
        let weight: Tensor<3> =
            self.conv_logits.weight.val().reshape([outputs, channels]).select(0, classes.clone()).reshape([rois, 1, channels]);
        let mut logits: Tensor<3> = weight.matmul(x.reshape([rois, channels, height * width]));
        if let Some(bias) = &self.conv_logits.bias {
            logits = logits + bias.val().select(0, classes).reshape([rois, 1, 1]);
        }
        logits.reshape([rois, height, width])
    }

    fn enlarged(&self, features: Tensor<4>) -> Tensor<4> {
        let x = self.convs.iter().fold(features, |x, conv| relu(conv.conv.forward(x)));
        relu(self.upsample.forward(x))
    }
}
