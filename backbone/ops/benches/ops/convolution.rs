//! Channels-last projections and convolutions, compared with Burn's `linear` and its channels-first convolutions.

use burn::tensor::module;
use burn::tensor::ops::ConvOptions;
use divan::Bencher;
use vision_ops::{conv2d, depthwise_conv2d, linear};

use super::{STAGES, Size, backward, cpu, parameter, random};

fn options(stride: usize, groups: usize) -> ConvOptions<2> {
    ConvOptions::new([stride, stride], [1, 1], [1, 1], groups)
}

#[divan::bench(args = STAGES, sample_count = 21)]
fn linear_forward(bencher: Bencher, [height, width, channels]: Size) {
    let (x, weight) = (random([1, height, width, channels], &cpu()), random([4 * channels, channels], &cpu()));
    bencher.bench_local(|| linear(x.clone(), weight.clone(), None).into_data());
}

#[divan::bench(args = STAGES, sample_count = 21)]
fn linear_forward_of_burn(bencher: Bencher, [height, width, channels]: Size) {
    let (x, weight) = (random([1, height, width, channels], &cpu()), random([channels, 4 * channels], &cpu()));
    bencher.bench_local(|| module::linear(x.clone(), weight.clone(), None).into_data());
}

#[divan::bench(args = STAGES, sample_count = 21)]
fn linear_backward(bencher: Bencher, [height, width, channels]: Size) {
    let (x, weight) = (parameter([1, height, width, channels]), parameter([4 * channels, channels]));
    backward(bencher, || linear(x.clone(), weight.clone(), None).sum());
}

#[divan::bench(args = STAGES, sample_count = 21)]
fn depthwise_forward(bencher: Bencher, [height, width, channels]: Size) {
    let (x, weight) = (random([1, height, width, channels], &cpu()), random([channels, 1, 3, 3], &cpu()));
    bencher.bench_local(|| depthwise_conv2d(x.clone(), weight.clone(), None).into_data());
}

#[divan::bench(args = STAGES, sample_count = 21)]
fn depthwise_forward_of_burn(bencher: Bencher, [height, width, channels]: Size) {
    let (x, weight) = (random([1, channels, height, width], &cpu()), random([channels, 1, 3, 3], &cpu()));
    bencher.bench_local(|| module::conv2d(x.clone(), weight.clone(), None, options(1, channels)).into_data());
}

#[divan::bench(args = STAGES, sample_count = 11)]
fn depthwise_backward(bencher: Bencher, [height, width, channels]: Size) {
    let (x, weight) = (parameter([1, height, width, channels]), parameter([channels, 1, 3, 3]));
    backward(bencher, || depthwise_conv2d(x.clone(), weight.clone(), None).sum());
}

#[divan::bench(args = STAGES[..1].iter().copied(), sample_count = 5)]
fn depthwise_backward_of_burn(bencher: Bencher, [height, width, channels]: Size) {
    let (x, weight) = (parameter([1, channels, height, width]), parameter([channels, 1, 3, 3]));
    backward(bencher, || module::conv2d(x.clone(), weight.clone(), None, options(1, channels)).sum());
}

/// The strided 3x3 convolution of a downsampling layer.
#[divan::bench(args = STAGES, sample_count = 11)]
fn downsample_forward(bencher: Bencher, [height, width, channels]: Size) {
    let (x, weight) = (random([1, height, width, channels], &cpu()), random([2 * channels, channels, 3, 3], &cpu()));
    bencher.bench_local(|| conv2d(x.clone(), weight.clone(), None, [2, 2], [1, 1]).into_data());
}

#[divan::bench(args = STAGES, sample_count = 11)]
fn downsample_forward_of_burn(bencher: Bencher, [height, width, channels]: Size) {
    let (x, weight) = (random([1, channels, height, width], &cpu()), random([2 * channels, channels, 3, 3], &cpu()));
    bencher.bench_local(|| module::conv2d(x.clone(), weight.clone(), None, options(2, 1)).into_data());
}
