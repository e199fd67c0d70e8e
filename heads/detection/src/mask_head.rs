//! Masks of RoIs (He et al. 2017; mmdetection's `FCNMaskHead`).

use burn::module::Param;
use burn::nn::Initializer;
use burn::prelude::*;
use burn::tensor::{DType, TensorData};
use serde::{Deserialize, Serialize};
use vision_ops::{Fused, Pointwise};
use vmamba::layers::Conv;

use crate::fpn::{NamedConv, conv2d};
use crate::losses::mask_cross_entropy;
use crate::mask_target::MaskBatch;

/// The mask head. The defaults are those of the published COCO models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct MaskHeadConfig {
    /// Number of 3x3 convolutions.
    pub num_convs: usize,
    /// Outputs of the convolutions.
    pub channels: usize,
    /// Side of the RoI features, in cells; the masks have twice this side.
    pub roi_size: usize,
}

impl Default for MaskHeadConfig {
    fn default() -> Self {
        Self { num_convs: 4, channels: 256, roi_size: 14 }
    }
}

/// Convolutions, an upsampling by two, and a mask for every class.
#[derive(Module, Debug)]
pub struct MaskHead {
    convs: Vec<NamedConv>,
    upsample: Upsample,
    conv_logits: Conv,
}

/// A transposed convolution with kernel 2, stride 2 and ReLU: each cell becomes four, each by its own projection.
#[derive(Module, Debug)]
pub struct Upsample {
    /// `[in, out, 2, 2]`.
    weight: Param<Tensor<4>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
}

impl MaskHeadConfig {
    /// A head on RoI features of `inputs` channels, with Kaiming normal weights.
    pub fn init(&self, inputs: usize, num_classes: usize, device: &Device) -> MaskHead {
        let kaiming = || Initializer::KaimingNormal { gain: std::f64::consts::SQRT_2, fan_out_only: true };
        let channels = self.channels;
        let conv = |index: usize| NamedConv::new(if index == 0 { inputs } else { channels }, channels, 3, kaiming(), device);
        let last = if self.num_convs == 0 { inputs } else { channels };
        // PyTorch counts the fan of a transposed convolution, whose weight is `[in, out, 2, 2]`, over its inputs.
        let deviation = std::f64::consts::SQRT_2 / ((last * 4) as f64).sqrt();
        let weight = Initializer::Normal { mean: 0.0, std: deviation }.init([last, channels, 2, 2], device);
        let upsample = Upsample { weight, bias: Initializer::Zeros.init([channels], device) };
        MaskHead {
            convs: (0..self.num_convs).map(conv).collect(),
            upsample,
            conv_logits: conv2d(channels, num_classes, 1, kaiming(), device),
        }
    }
}

impl MaskHead {
    /// Features `[rois, inputs, size, size]` to float32 logits `[rois, classes, 2 * size, 2 * size]`.
    pub fn forward(&self, features: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = features.dims();
        let logits = self.conv_logits.forward(self.quarters(features));
        interleave(logits.cast(DType::F32), [height, width])
    }

    /// The logits of [`MaskHead::forward`] for one class per RoI, `[rois, 2 * size, 2 * size]`. With 80 classes the last layer does an
    /// eightieth of the work.
    ///
    /// # Panics
    /// When there are not as many classes as RoIs, or a class does not exist.
    pub fn forward_of_class(&self, features: Tensor<4>, classes: &[usize]) -> Tensor<3> {
        let [rois, _, height, width] = features.dims();
        assert_eq!(rois, classes.len(), "MaskHead: one class for each RoI");
        let x = self.quarters(features);
        let cells = 4 * height * width;
        let classes: Vec<i64> = classes.iter().map(|class| *class as i64).collect();
        let classes = Tensor::<1, Int>::from_data(TensorData::new(classes, [rois]), &x.device());
        let [outputs, channels, ..] = self.conv_logits.weight.dims();
        let weight: Tensor<3> =
            self.conv_logits.weight.val().reshape([outputs, channels]).select(0, classes.clone()).reshape([rois, channels, 1]);
        let weight = weight.cast(x.dtype());
        let mut logits: Tensor<3> = vision_ops::matmul(x.reshape([rois, cells, channels]), weight).cast(DType::F32);
        if let Some(bias) = &self.conv_logits.bias {
            logits = logits + bias.val().select(0, classes).reshape([rois, 1, 1]);
        }
        interleave(logits.reshape([rois, height * width, 4, 1]), [height, width]).squeeze_dim(1)
    }

    /// The loss of the sampled RoIs, `[1]` (mmdetection's `loss_mask`): features `[rois, inputs, size, size]`, one for each RoI of `batch`.
    pub fn loss(&self, features: Tensor<4>, batch: &MaskBatch) -> Tensor<1> {
        let logits = self.forward_of_class(features, &batch.classes);
        if batch.targets.is_empty() { logits.sum() * 0.0 } else { mask_cross_entropy(logits, batch.targets.clone()) }
    }

    /// The upsampled features in the order `[rois, cells, quarter of the cell, channels]`.
    fn quarters(&self, features: Tensor<4>) -> Tensor<4> {
        let relu = || Fused::default().activation(Pointwise::Relu);
        let x = self.convs.iter().fold(features.permute([0, 2, 3, 1]), |x, conv| conv.conv.forward_fused(x, relu()));
        let [rois, height, width, _] = x.dims();
        let [inputs, outputs, ..] = self.upsample.weight.dims();
        let weight: Tensor<2> = self.upsample.weight.val().permute([2, 3, 1, 0]).reshape([4 * outputs, inputs]);
        let bias = self.upsample.bias.val().repeat_dim(0, 4);
        vision_ops::linear_fused(x, weight, Fused { bias: Some(bias), ..relu() }).reshape([rois, height * width, 4, outputs])
    }
}

/// `[rois, cells, quarter, channels]` to `[rois, channels, 2 * height, 2 * width]`.
fn interleave(x: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [rois, _, _, channels] = x.dims();
    let x: Tensor<6> = x.reshape([rois, height, width, 2, 2, channels]);
    x.permute([0, 5, 1, 3, 2, 4]).reshape([rois, channels, 2 * height, 2 * width])
}
