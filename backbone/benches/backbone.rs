//! Benchmarks of the whole backbone: forward passes at two image sizes, and a training step of a small model.
//!
//! Run `cargo bench -p vmamba`; set `RAYON_NUM_THREADS=1` for one core.

use burn::prelude::*;
use burn::tensor::Distribution;
use divan::Bencher;
use vmamba::{Dims, FeaturePyramid, Preset, VmambaConfig};

fn main() {
    divan::main();
}

fn images(batch: usize, side: usize, device: &Device) -> Tensor<4> {
    Tensor::random([batch, 3, side, side], Distribution::Normal(0.0, 1.0), device)
}

/// Computes all four features of one image.
fn run(backbone: &impl FeaturePyramid, images: &Tensor<4>) -> Vec<TensorData> {
    backbone.forward_features(images.clone()).into_iter().map(Tensor::into_data).collect()
}

#[divan::bench(args = [224, 512], sample_count = 10)]
fn forward_vmamba_tiny_s1l8(bencher: Bencher, side: usize) {
    forward(bencher, Preset::VmambaTinyS1l8, side);
}

#[divan::bench(args = [224], sample_count = 10)]
fn forward_vanilla_vmamba_tiny(bencher: Bencher, side: usize) {
    forward(bencher, Preset::VanillaVmambaTiny, side);
}

fn forward(bencher: Bencher, preset: Preset, side: usize) {
    let device = Device::flex();
    device.seed(0);
    let backbone = preset.config().init(&device);
    let images = images(1, side, &device);
    bencher.bench_local(|| run(&backbone, &images));
}

/// Forward and backward of a two-image batch through a quarter-width VMamba.
#[divan::bench(args = [128], sample_count = 10)]
fn training_step_nano(bencher: Bencher, side: usize) {
    let device = Device::flex().autodiff();
    device.seed(0);
    let config = VmambaConfig { dims: Dims::Doubling(24), depths: vec![1, 1, 2, 1], ..VmambaConfig::default() };
    let backbone = config.init(&device);
    let images = images(2, side, &device);
    bencher.bench_local(|| {
        let features = backbone.forward_features(images.clone());
        let loss = features.into_iter().map(|feature| feature.square().mean()).reduce(|a, b| a + b);
        loss.map(|loss| loss.backward())
    });
}
