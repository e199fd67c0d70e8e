//! The operations of a segmentation head at the size of an ADE20K image: 150 classes, logits of 128x128 and 512x512 pixels.

use burn::prelude::*;
use burn::tensor::activation;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use divan::Bencher;
use vision_ops::{argmax_channels, argmax_resized, cross_entropy_map, resize_bilinear, softmax_channels};

use super::{backward, cpu, parameter, random, training};

const CLASSES: usize = 150;
const COARSE: [usize; 2] = [128, 128];
const FINE: [usize; 2] = [512, 512];

fn logits([height, width]: [usize; 2]) -> Tensor<4> {
    random([1, CLASSES, height, width], &cpu())
}

#[divan::bench(sample_count = 11)]
fn resize_forward(bencher: Bencher) {
    let x = logits(COARSE);
    bencher.bench_local(|| resize_bilinear(x.clone(), FINE, false).into_data());
}

#[divan::bench(sample_count = 11)]
fn resize_forward_of_burn(bencher: Bencher) {
    let x = logits(COARSE);
    let options = || InterpolateOptions::new(InterpolateMode::Bilinear).with_output_size(FINE).with_align_corners(false);
    bencher.bench_local(|| interpolate(x.clone(), options()).into_data());
}

#[divan::bench(sample_count = 11)]
fn resize_backward(bencher: Bencher) {
    let x = parameter([1, CLASSES, COARSE[0], COARSE[1]]);
    backward(bencher, || resize_bilinear(x.clone(), FINE, false).sum());
}

#[divan::bench(sample_count = 11)]
fn softmax_forward(bencher: Bencher) {
    let x = logits(FINE);
    bencher.bench_local(|| softmax_channels(x.clone()).into_data());
}

#[divan::bench(sample_count = 5)]
fn softmax_forward_of_burn(bencher: Bencher) {
    let x = logits(FINE);
    bencher.bench_local(|| activation::softmax(x.clone(), 1).into_data());
}

#[divan::bench(sample_count = 11)]
fn argmax_forward(bencher: Bencher) {
    bencher.with_inputs(|| logits(FINE)).bench_local_values(argmax_channels);
}

#[divan::bench(sample_count = 5)]
fn argmax_forward_of_burn(bencher: Bencher) {
    bencher.with_inputs(|| logits(FINE)).bench_local_values(|x| x.argmax(1).into_data());
}

/// Labels of a 12-megapixel photo from logits at the size of the network's input.
#[divan::bench(sample_count = 5)]
fn argmax_of_a_large_photo(bencher: Bencher) {
    bencher.with_inputs(|| logits(FINE)).bench_local_values(|x| argmax_resized(x, [3000, 4000]));
}

#[divan::bench(sample_count = 11)]
fn cross_entropy_forward(bencher: Bencher) {
    let (x, labels) = (logits(FINE), Tensor::<3, Int>::ones([1, FINE[0], FINE[1]], &cpu()));
    bencher.bench_local(|| cross_entropy_map(x.clone(), labels.clone(), 255).into_data());
}

#[divan::bench(sample_count = 11)]
fn cross_entropy_backward(bencher: Bencher) {
    let x = parameter([1, CLASSES, FINE[0], FINE[1]]);
    let labels = Tensor::<3, Int>::ones([1, FINE[0], FINE[1]], &training());
    backward(bencher, || cross_entropy_map(x.clone(), labels.clone(), 255).sum());
}

/// Cross entropy as Burn composes it: log-softmax and a gather.
#[divan::bench(sample_count = 5)]
fn cross_entropy_forward_of_burn(bencher: Bencher) {
    let (x, labels) = (logits(FINE), Tensor::<4, Int>::ones([1, 1, FINE[0], FINE[1]], &cpu()));
    bencher.bench_local(|| activation::log_softmax(x.clone(), 1).gather(1, labels.clone()).neg().into_data());
}
