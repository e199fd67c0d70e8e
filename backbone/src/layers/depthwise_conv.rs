use burn::module::Param;
use burn::prelude::*;

use super::{Activation, uniform_fan_in};

/// A depthwise convolution on channels-last features, with an odd kernel, stride 1 and same padding.
#[derive(Module, Debug)]
pub struct DepthwiseConv {
    /// `[channels, 1, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[channels]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl DepthwiseConv {
    /// A convolution with PyTorch's default initialisation.
    pub fn new(channels: usize, kernel: usize, bias: bool, device: &Device) -> Self {
        let fan_in = kernel * kernel;
        Self {
            weight: uniform_fan_in([channels, 1, kernel, kernel], fan_in, device),
            bias: bias.then(|| uniform_fan_in([channels], fan_in, device)),
        }
    }

    /// `[batch, height, width, channels]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        vision_ops::depthwise_conv2d(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }

    /// As [`DepthwiseConv::forward`], followed by an activation.
    pub fn forward_activated(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        vision_ops::depthwise_conv2d_fused(x, self.weight.val(), self.bias.as_ref().map(Param::val), activation.into())
    }
}
