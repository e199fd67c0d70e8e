use burn::module::Param;
use burn::prelude::*;

/// LayerNorm over the last axis with weight and bias. On channels-last features it equals the official `LayerNorm` and `LayerNorm2d`.
#[derive(Module, Debug)]
pub struct ChannelNorm {
    /// Scale, `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[channels]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl ChannelNorm {
    /// Added to the variance by default; VMamba uses it everywhere.
    pub const EPSILON: f64 = 1e-5;

    /// A norm with scale 1, shift 0 and the default epsilon.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self::with_epsilon(channels, Self::EPSILON, device)
    }

    /// A norm with scale 1 and shift 0; `epsilon` is added to the variance.
    pub fn with_epsilon(channels: usize, epsilon: f64, device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::ones([channels], device)),
            bias: Param::from_tensor(Tensor::zeros([channels], device)),
            epsilon,
        }
    }

    /// `[..., channels]` to the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        vision_ops::channel_norm(x, Some(self.weight.val()), Some(self.bias.val()), self.epsilon)
    }
}
