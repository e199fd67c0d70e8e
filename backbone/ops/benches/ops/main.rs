//! Speed of the custom operations and of Burn's equivalents: `cargo bench -p vision-ops`.
//!
//! `RAYON_NUM_THREADS=1` measures one core. Sizes are those of VMamba-T: its first stage has 56x56 pixels for an input of 224x224, and
//! 200x334 for 800x1333.

mod activation;
mod convolution;
mod detection;
mod normalisation;
mod segmentation;
mod selective_scan;

use burn::prelude::*;
use burn::tensor::{Distribution, Gradients};

fn main() {
    divan::main();
}

/// Height, width and channels.
type Size = [usize; 3];

/// The first stage of VMamba-T for inputs of 224x224 and 800x1333.
const STAGES: [Size; 2] = [[56, 56, 96], [200, 334, 96]];

fn cpu() -> Device {
    let device = Device::flex();
    device.seed(0);
    device
}

fn training() -> Device {
    cpu().autodiff()
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// A random tensor that requires a gradient.
fn parameter<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    random(shape, &training()).require_grad()
}

/// Measures the backward pass only; `y` runs the forward pass outside the measurement.
fn backward(bencher: divan::Bencher, y: impl Fn() -> Tensor<1>) {
    bencher.with_inputs(y).bench_local_values(|loss| -> Gradients { loss.backward() });
}
