use burn::prelude::*;

use super::{depthwise_conv2d, depthwise_conv2d_fused, reference};
use crate::epilogue::Pointwise;
use crate::testing::{assert_close, assert_reference_keeps_bf16, assert_same_gradients, cpu, random, random_tensor};

/// Float32 rounding of two summation orders over a few hundred positions.
const TOLERANCE: f32 = 1e-5;

#[test]
fn the_reference_accepts_bf16() {
    let device = cpu();
    let (weight, bias) = (random_tensor([5, 1, 3, 3], 1, &device), Some(random_tensor([5], 2, &device)));
    assert_reference_keeps_bf16(
        random_tensor([1, 7, 6, 5], 3, &device),
        |x| reference::depthwise_conv2d(x, weight.clone(), bias.clone()),
        |x| depthwise_conv2d(x, weight.clone(), bias.clone()),
    );
}

#[test]
fn kernels_and_their_gradients_equal_the_reference() {
    // One row, one column, images smaller than the kernel, several summation tasks, channels that are not a multiple of the lanes.
    for ([batch, height, width, channels], k) in
        [([2, 9, 7, 20], 3), ([1, 1, 5, 16], 3), ([1, 5, 1, 3], 3), ([1, 2, 2, 33], 5), ([3, 12, 4, 4], 1), ([1, 1, 1, 1], 3)]
    {
        let inputs: [(&[usize], Vec<f32>); 3] =
            [(&[], random(batch * height * width * channels, 1)), (&[], random(channels * k * k, 2)), (&[], random(channels, 3))];
        type Conv = fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>) -> Tensor<4>;
        let run = |conv: Conv| {
            move |t: &[Tensor<1>]| {
                let x = t[0].clone().reshape([batch, height, width, channels]);
                conv(x, t[1].clone().reshape([channels, 1, k, k]), Some(t[2].clone()))
            }
        };
        let what = format!("{batch} x {height} x {width} x {channels}, kernel {k}");
        assert_same_gradients(&what, &inputs, run(depthwise_conv2d), run(reference::depthwise_conv2d), TOLERANCE);
    }
}

#[test]
fn the_fused_activation_equals_a_separate_one() {
    let device = cpu();
    for (channels, k) in [(20, 3), (35, 5), (16, 3), (3, 3)] {
        let (x, weight) = (random_tensor([2, 5, 7, channels], 1, &device), random_tensor([channels, 1, k, k], 2, &device));
        for activation in [Pointwise::Identity, Pointwise::Relu, Pointwise::Gelu, Pointwise::Silu, Pointwise::Sigmoid] {
            let expected = activation.apply(depthwise_conv2d(x.clone(), weight.clone(), None));
            assert_close("fused", depthwise_conv2d_fused(x.clone(), weight.clone(), None, activation), expected, TOLERANCE);
        }
    }
}
