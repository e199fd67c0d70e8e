//! The framework's default start of weights, drawn from the device's generator.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::Distribution;

/// Uniform in `±1 / sqrt(fan_in)`: what PyTorch's `kaiming_uniform(a = sqrt 5)` amounts to, for weights and biases alike.
pub(crate) fn uniform_fan_in<const D: usize>(shape: [usize; D], fan_in: usize, device: &Device) -> Param<Tensor<D>> {
    let bound = (fan_in as f64).sqrt().recip();
    Param::from_tensor(Tensor::random(shape, Distribution::Uniform(-bound, bound), device))
}
