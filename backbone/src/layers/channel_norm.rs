use burn::module::Param;
use burn::prelude::*;

/// LayerNorm over the last axis with weight and bias; on channels-last features this is both the official `LayerNorm` and `LayerNorm2d`.
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
    /// Added to the variance by default, and everywhere in VMamba.
    pub const EPSILON: f64 = 1e-5;

    /// The identity scale and shift, with the default epsilon.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self::with_epsilon(channels, Self::EPSILON, device)
    }

    /// The identity scale and shift; `epsilon` is added to the variance.
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
