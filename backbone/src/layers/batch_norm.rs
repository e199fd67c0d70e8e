use burn::module::{Flag, Param, RunningState};
use burn::prelude::*;
use burn::tensor::DType;
use vision_ops::{Fused, Pointwise, batch_norm};

use super::Conv;

/// Batch norm with PyTorch's running statistics.
///
/// In training (autodiff device and not frozen), the statistics of the batch normalise it and update the running ones with a momentum of 0.1
/// and the *unbiased* variance; Burn's own layer uses the biased one. Otherwise the running statistics normalise.
#[derive(Module, Debug)]
pub struct BatchNorm2d {
    /// Scale, `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[channels]`.
    pub bias: Param<Tensor<1>>,
    /// Running mean of the training batches, `[channels]`.
    pub running_mean: RunningState<Tensor<1>>,
    /// Running variance of the training batches, `[channels]`.
    pub running_var: RunningState<Tensor<1>>,
    /// Whether the layer trains; cleared by `freeze` and `valid`.
    pub training: Param<Flag>,
}

impl BatchNorm2d {
    /// Added to the variance; PyTorch's default.
    const EPSILON: f64 = 1e-5;
    /// Weight of the newest batch in the running statistics; PyTorch's default.
    const MOMENTUM: f64 = 0.1;

    /// A layer with scale 1, shift 0, running mean 0 and running variance 1.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::ones([channels], device)),
            bias: Param::from_tensor(Tensor::zeros([channels], device)),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
            training: Param::from_bool(true),
        }
    }

    /// `x: [batch, height, width, channels]` to the same shape and type.
    ///
    /// # Panics
    /// In training, when a channel has a single value, as in PyTorch. See
    /// [`FeaturePyramid::fewest_norm_values`](crate::FeaturePyramid::fewest_norm_values).
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let Some((scale, shift)) = self.stored(&x.device()) else {
            return self.forward_batch(x);
        };
        let dtype = x.dtype();
        let along_channels = |values: Tensor<1>| values.reshape([1, 1, 1, -1]);
        (x.cast(DType::F32) * along_channels(scale) + along_channels(shift)).cast(dtype)
    }

    /// `activation(norm(conv(x)) + residual)` for a convolution without bias, `x: [batch, height, width, in]`. With running statistics the
    /// norm is a scale and a shift per channel, which become the convolution's epilogue.
    pub fn forward_behind(&self, conv: &Conv, x: Tensor<4>, residual: Option<Tensor<4>>, activation: Pointwise) -> Tensor<4> {
        if let Some((scale, shift)) = self.stored(&x.device()) {
            return conv.forward_fused(x, Fused { scale: Some(scale), bias: Some(shift), residual, activation });
        }
        let y = self.forward(conv.forward(x));
        activation.apply(match residual {
            Some(residual) => y + residual,
            None => y,
        })
    }

    /// The scale and shift per channel that are equivalent to the norm with its running statistics; none in training.
    pub fn stored(&self, device: &Device) -> Option<(Tensor<1>, Tensor<1>)> {
        if device.is_autodiff() && self.training.is_enabled() {
            return None;
        }
        let [mean, variance] = [&self.running_mean, &self.running_var].map(|state| state.value_sync().to_device(device));
        let scale = self.weight.val() / (variance + Self::EPSILON).sqrt();
        let shift = self.bias.val() - mean * scale.clone();
        Some((scale, shift))
    }

    /// Whether the layer normalises by the batch's statistics on a device with gradients: it is not frozen.
    pub fn trains(&self) -> bool {
        self.training.is_enabled()
    }

    /// The training step: normalises `x: [batch, height, width, channels]` by its own statistics and updates the running ones.
    fn forward_batch(&self, x: Tensor<4>) -> Tensor<4> {
        let device = x.device();
        let [batch, height, width, _] = x.dims();
        // The normed value would be 0 and the stored variance shrink towards 0, whatever the images.
        assert!(batch * height * width > 1, "BatchNorm2d: expected more than 1 value per channel when training, got {:?}", x.dims());
        let count = (batch * height * width) as f64;
        let normed = batch_norm(x, self.weight.val(), self.bias.val(), Self::EPSILON);
        let unbiased = normed.variance * (count / (count - 1.0));
        let moved = |old: Tensor<1>, new: Tensor<1>| (old.to_device(&device) * (1.0 - Self::MOMENTUM) + new * Self::MOMENTUM).detach();
        self.running_mean.update(moved(self.running_mean.value_sync(), normed.mean));
        self.running_var.update(moved(self.running_var.value_sync(), unbiased));
        normed.output
    }
}
