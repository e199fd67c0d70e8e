//! Every custom operation beside Burn's own way to compute the same: `cargo bench -p vision-ops`.
//!
//! `RAYON_NUM_THREADS=1` measures one core. Sizes are those of VMamba-T: 56x56 and 200x334 pixels are its first stage at an input of
//! 224x224 and of 800x1333.

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

/// VMamba-T's first stage at 224x224 and at 800x1333.
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

/// A tensor that asks for its gradient.
fn parameter<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    random(shape, &training()).require_grad()
}

/// Only the backward pass: what led to `y` has been computed before.
fn backward(bencher: divan::Bencher, y: impl Fn() -> Tensor<1>) {
    bencher.with_inputs(y).bench_local_values(|loss| -> Gradients { loss.backward() });
}
