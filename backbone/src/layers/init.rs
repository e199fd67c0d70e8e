//! PyTorch's default initialisation, drawn from the device's random generator.

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::Distribution;

/// Uniform in `±1 / sqrt(fan_in)`, which equals PyTorch's `kaiming_uniform(a = sqrt 5)`; for weights and biases.
pub(crate) fn uniform_fan_in<const D: usize>(shape: [usize; D], fan_in: usize, device: &Device) -> Param<Tensor<D>> {
    let bound = (fan_in as f64).sqrt().recip();
    Param::from_tensor(Tensor::random(shape, Distribution::Uniform(-bound, bound), device))
}
