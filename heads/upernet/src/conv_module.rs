//! Convolution, batch norm and ReLU in one layer (mmcv's `ConvModule`), and what surrounds it. Inside the heads maps are channels last.

use burn::module::{Flag, Param, RunningState};
use burn::nn::Initializer;
use burn::prelude::*;
use burn::tensor::activation::relu;
use burn::tensor::{DType, Distribution, module};
use vision_ops::{Fused, Pointwise};
use vmamba::layers::{Conv, ConvConfig};

/// A convolution without bias, "same" padding and stride 1, then batch norm, then ReLU.
#[derive(Module, Debug)]
pub struct ConvModule {
    /// The convolution, `[out, in, kernel, kernel]`.
    pub conv: Conv,
    /// Its norm.
    pub bn: BatchNorm2d,
}

impl ConvModule {
    /// From `inputs` to `outputs` channels with an odd `kernel`.
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
        match self.bn.stored(&x.device()) {
            // The stored statistics are a scale and a shift of every channel, which the convolution does on the way.
            Some((scale, shift)) => {
                let fused = Fused { scale: Some(scale), bias: Some(shift), residual: None, activation: Pointwise::Relu };
                self.conv.forward_fused(x, fused)
            }
            None => {
                let y = self.bn.forward_batch(self.conv.forward(x).permute([0, 3, 1, 2]));
                relu(y.permute([0, 2, 3, 1]))
            }
        }
    }
}

/// The last layer of a head: a 1x1 convolution with bias, initialised as mmsegmentation's `conv_seg` (normal, standard deviation 0.01,
/// bias 0).
pub(crate) fn classifier(inputs: usize, classes: usize, device: &Device) -> Conv {
    let weight = Initializer::Normal { mean: 0.0, std: 0.01 }.init([classes, inputs, 1, 1], device);
    let config = ConvConfig { inputs, outputs: classes, kernel: 1, stride: 1, padding: 0 };
    config.with_parameters(weight, Some(Initializer::Zeros.init([classes], device)))
}

/// Batch norm of every channel with PyTorch's statistics.
///
/// In training (autodiff device and not frozen) the batch's statistics normalise and move the stored ones: momentum 0.1, and the
/// *unbiased* variance, which Burn's own layer does not do. Otherwise the stored statistics normalise.
#[derive(Module, Debug)]
pub struct BatchNorm2d {
    /// Scale, `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[channels]`.
    pub bias: Param<Tensor<1>>,
    /// Mean of the training batches.
    pub running_mean: RunningState<Tensor<1>>,
    /// Variance of the training batches.
    pub running_var: RunningState<Tensor<1>>,
    /// Cleared by `freeze` and `valid`.
    pub training: Param<Flag>,
}

impl BatchNorm2d {
    /// Added to the variance, as PyTorch's default.
    const EPSILON: f64 = 1e-5;
    /// Weight of the newest batch in the stored statistics, as PyTorch's default.
    const MOMENTUM: f64 = 0.1;

    /// Scale 1, shift 0, stored mean 0 and variance 1.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self {
            weight: Initializer::Ones.init([channels], device),
            bias: Initializer::Zeros.init([channels], device),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
            training: Param::from_bool(true),
        }
    }

    /// Outside of training: the scale and the shift of every channel that the stored statistics amount to.
    pub fn stored(&self, device: &Device) -> Option<(Tensor<1>, Tensor<1>)> {
        if device.is_autodiff() && self.training.is_enabled() {
            return None;
        }
        let [mean, variance] = [&self.running_mean, &self.running_var].map(|state| state.value_sync().to_device(device));
        let scale = self.weight.val() / (variance + Self::EPSILON).sqrt();
        let shift = self.bias.val() - mean * scale.clone();
        Some((scale, shift))
    }

    /// In training: normalises `x: [batch, channels, height, width]` by its own statistics, which move the stored ones. Computed in float32,
    /// and returned in the type of `x`.
    pub fn forward_batch(&self, x: Tensor<4>) -> Tensor<4> {
        let (weight, bias, device, dtype) = (self.weight.val(), self.bias.val(), x.device(), x.dtype());
        let [batch, _, height, width] = x.dims();
        let count = (batch * height * width) as f64;
        let result = module::batch_norm_train(x.cast(DType::F32), weight, bias, Self::EPSILON);
        // A single value has no unbiased variance; its biased one, 0, is stored.
        let unbiased = result.variance.detach() * (count / (count - 1.0).max(1.0));
        let moved = |old: Tensor<1>, new: Tensor<1>| (old.to_device(&device) * (1.0 - Self::MOMENTUM) + new * Self::MOMENTUM).detach();
        self.running_mean.update(moved(self.running_mean.value_sync(), result.mean.detach()));
        self.running_var.update(moved(self.running_var.value_sync(), unbiased));
        result.output.cast(dtype)
    }
}

/// Drops whole channels in training and scales the kept ones (`torch.nn.Dropout2d`).
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
        // Drawn and divided in float32, so that the same channels are dropped whatever the type of the activations.
        let kept: Tensor<4> = Tensor::random([batch, 1, 1, channels], Distribution::Bernoulli(keep), &device);
        let scale = (kept / keep).cast(x.dtype());
        x * scale
    }
}
