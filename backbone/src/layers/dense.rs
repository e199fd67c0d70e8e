use burn::module::Param;
use burn::prelude::*;
use burn::tensor::Distribution;
use vision_ops::Fused;

/// A linear layer over the last axis; the official `Linear` and `Linear2d`.
#[derive(Module, Debug)]
pub struct Dense {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Dense {
    /// Standard deviation of the initial weights. The official code truncates at ±2, which is a hundred deviations and never happens.
    const DEVIATION: f64 = 0.02;

    /// A layer with normal weights of standard deviation 0.02 and zero bias.
    pub fn new(inputs: usize, outputs: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::random([outputs, inputs], Distribution::Normal(0.0, Self::DEVIATION), device)),
            bias: bias.then(|| Param::from_tensor(Tensor::zeros([outputs], device))),
        }
    }

    /// `[..., in]` to `[..., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        vision_ops::linear(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }

    /// As [`Dense::forward`] with the epilogue `fused`. The bias of the layer replaces that of `fused`.
    pub fn forward_fused<const D: usize>(&self, x: Tensor<D>, fused: Fused<D>) -> Tensor<D> {
        vision_ops::linear_fused(x, self.weight.val(), Fused { bias: self.bias.as_ref().map(Param::val), ..fused })
    }
}
