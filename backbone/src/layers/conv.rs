use burn::module::Param;
use burn::prelude::*;
use vision_ops::Fused;

use super::uniform_fan_in;

/// Shape of a [`Conv`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvConfig {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Stride along both axes.
    pub stride: usize,
    /// Zero padding on every side.
    pub padding: usize,
}

/// A dense 2-D convolution on channels-last features.
#[derive(Module, Debug)]
pub struct Conv {
    /// `[out, in, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
}

impl ConvConfig {
    /// A convolution with bias and PyTorch's default initialisation.
    pub fn init(&self, device: &Device) -> Conv {
        let fan_in = self.inputs * self.kernel * self.kernel;
        let bias = uniform_fan_in([self.outputs], fan_in, device);
        self.with_parameters(uniform_fan_in([self.outputs, self.inputs, self.kernel, self.kernel], fan_in, device), Some(bias))
    }

    /// A convolution with these parameters, `weight: [outputs, inputs, kernel, kernel]` and `bias: [outputs]`.
    pub fn with_parameters(&self, weight: Param<Tensor<4>>, bias: Option<Param<Tensor<1>>>) -> Conv {
        Conv { weight, bias, stride: self.stride, padding: self.padding }
    }

    /// Output positions along an axis of `size` input positions, rounded down; 0 when the padded axis is shorter than the kernel.
    pub fn output_size(&self, size: usize) -> usize {
        (size + 2 * self.padding).checked_sub(self.kernel).map_or(0, |room| room / self.stride + 1)
    }
}

impl Conv {
    /// `[batch, height, width, in]` to `[batch, height', width', out]`, with the sizes of [`ConvConfig::output_size`].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        vision_ops::conv2d(x, self.weight.val(), self.bias.as_ref().map(Param::val), [self.stride; 2], [self.padding; 2])
    }

    /// As [`Conv::forward`] with the epilogue `fused`. The bias of the convolution, if it has one, replaces that of `fused`.
    pub fn forward_fused(&self, x: Tensor<4>, fused: Fused<4>) -> Tensor<4> {
        let bias = self.bias.as_ref().map(Param::val).or(fused.bias);
        vision_ops::conv2d_fused(x, self.weight.val(), Fused { bias, ..fused }, [self.stride; 2], [self.padding; 2])
    }
}
