//! The layers of the heads: mmcv's `ConvModule`, the classifier, channel dropout. Inside the heads maps are channels last.

use burn::module::{Flag, Param};
use burn::nn::Initializer;
use burn::prelude::*;
use burn::tensor::Distribution;
use vision_ops::Pointwise;
use vmamba::layers::{BatchNorm2d, Conv, ConvConfig};

/// A convolution without bias, "same" padding and stride 1, then batch norm, then ReLU.
#[derive(Module, Debug)]
pub struct ConvModule {
    /// The convolution, `[out, in, kernel, kernel]`.
    pub conv: Conv,
    /// The norm behind it.
    pub bn: BatchNorm2d,
}

impl ConvModule {
    /// A layer from `inputs` to `outputs` channels with an odd `kernel`, Kaiming normal.
    pub fn new(inputs: usize, outputs: usize, kernel: usize, device: &Device) -> Self {
        // mmcv's ConvModule: Kaiming normal, fan-out, for ReLU.
        let initializer = Initializer::KaimingNormal { gain: std::f64::consts::SQRT_2, fan_out_only: true };
        let taps = kernel * kernel;
        let weight = initializer.init_with([outputs, inputs, kernel, kernel], Some(inputs * taps), Some(outputs * taps), device);
        let conv = ConvConfig { inputs, outputs, kernel, stride: 1, padding: kernel / 2 }.with_parameters(weight, None);
        Self { conv, bn: BatchNorm2d::new(outputs, device) }
    }

    /// `[batch, height, width, in]` to `[batch, height, width, out]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.bn.forward_behind(&self.conv, x, None, Pointwise::Relu)
    }
}

/// The last layer of a head, mmsegmentation's `conv_seg`: a 1x1 convolution with normal weights of standard deviation 0.01 and zero bias.
pub(crate) fn classifier(inputs: usize, classes: usize, device: &Device) -> Conv {
    let weight = Initializer::Normal { mean: 0.0, std: 0.01 }.init([classes, inputs, 1, 1], device);
    let config = ConvConfig { inputs, outputs: classes, kernel: 1, stride: 1, padding: 0 };
    config.with_parameters(weight, Some(Initializer::Zeros.init([classes], device)))
}

/// Drops whole channels in training and scales the others (`torch.nn.Dropout2d`).
#[derive(Module, Debug)]
pub struct Dropout2d {
    /// Probability of dropping, in [0, 1).
    pub rate: f64,
    /// Cleared by `freeze` and `valid`.
    pub training: Param<Flag>,
}

impl Dropout2d {
    /// Dropout of the given rate.
    pub fn new(rate: f64) -> Self {
        Self { rate, training: Param::from_bool(true) }
    }

    /// Drops channels of `x: [batch, height, width, channels]`, drawing from the device's generator.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let device = x.device();
        if self.rate == 0.0 || !self.training.is_enabled() || !device.is_autodiff() {
            return x;
        }
        let keep = 1.0 - self.rate;
        let [batch, .., channels] = x.dims();
        // In float32, so that the type of the activations does not change which channels are dropped.
        let kept: Tensor<4> = Tensor::random([batch, 1, 1, channels], Distribution::Bernoulli(keep), &device);
        let scale = (kept / keep).cast(x.dtype());
        x * scale
    }
}
