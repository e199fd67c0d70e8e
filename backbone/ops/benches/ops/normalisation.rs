//! LayerNorm over channels, compared with Burn's module.

use burn::nn::{LayerNorm, LayerNormConfig};
use burn::prelude::*;
use divan::Bencher;
use vision_ops::channel_norm;

use super::{STAGES, Size, backward, cpu, parameter, random, training};

fn burns(channels: usize, device: &Device) -> LayerNorm {
    LayerNormConfig::new(channels).init(device)
}

#[divan::bench(args = STAGES)]
fn channel_norm_forward(bencher: Bencher, [height, width, channels]: Size) {
    let device = cpu();
    let (x, weight, bias) = (random([1, height, width, channels], &device), random([channels], &device), random([channels], &device));
    bencher.bench_local(|| channel_norm(x.clone(), Some(weight.clone()), Some(bias.clone()), 1e-5).into_data());
}

#[divan::bench(args = STAGES)]
fn channel_norm_forward_of_burn(bencher: Bencher, [height, width, channels]: Size) {
    let (x, norm) = (random([1, height, width, channels], &cpu()), burns(channels, &cpu()));
    bencher.bench_local(|| norm.forward(x.clone()).into_data());
}

#[divan::bench(args = STAGES)]
fn channel_norm_backward(bencher: Bencher, [height, width, channels]: Size) {
    let (x, weight, bias) = (parameter([1, height, width, channels]), parameter([channels]), parameter([channels]));
    backward(bencher, || channel_norm(x.clone(), Some(weight.clone()), Some(bias.clone()), 1e-5).sum());
}

#[divan::bench(args = STAGES)]
fn channel_norm_backward_of_burn(bencher: Bencher, [height, width, channels]: Size) {
    let (x, norm) = (parameter([1, height, width, channels]), burns(channels, &training()));
    backward(bencher, || norm.forward(x.clone()).sum());
}
