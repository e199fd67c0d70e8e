//! Activations, compared with Burn's.

use burn::prelude::*;
use burn::tensor::activation;
use divan::Bencher;
use vision_ops::{gelu, silu, softplus};

use super::{STAGES, Size, backward, cpu, parameter, random};

fn forward(bencher: Bencher, [height, width, channels]: Size, operation: impl Fn(Tensor<4>) -> Tensor<4>) {
    let x = random([1, height, width, channels], &cpu());
    bencher.bench_local(|| operation(x.clone()).into_data());
}

#[divan::bench(args = STAGES)]
fn gelu_forward(bencher: Bencher, size: Size) {
    forward(bencher, size, gelu);
}

#[divan::bench(args = STAGES)]
fn gelu_forward_of_burn(bencher: Bencher, size: Size) {
    forward(bencher, size, activation::gelu);
}

#[divan::bench(args = STAGES)]
fn silu_forward(bencher: Bencher, size: Size) {
    forward(bencher, size, silu);
}

#[divan::bench(args = STAGES)]
fn silu_forward_of_burn(bencher: Bencher, size: Size) {
    forward(bencher, size, activation::silu);
}

#[divan::bench(args = STAGES)]
fn softplus_forward(bencher: Bencher, size: Size) {
    forward(bencher, size, softplus);
}

#[divan::bench(args = STAGES)]
fn softplus_forward_of_burn(bencher: Bencher, size: Size) {
    forward(bencher, size, |x| activation::softplus(x, 1.0));
}

#[divan::bench(args = STAGES)]
fn gelu_backward(bencher: Bencher, [height, width, channels]: Size) {
    let x = parameter([1, height, width, channels]);
    backward(bencher, || gelu(x.clone()).sum());
}

#[divan::bench(args = STAGES)]
fn gelu_backward_of_burn(bencher: Bencher, [height, width, channels]: Size) {
    let x = parameter([1, height, width, channels]);
    backward(bencher, || activation::gelu(x.clone()).sum());
}
