use burn::prelude::*;

use super::window::Window;
use super::{conv2d, conv2d_fused, cpu, reference};
use crate::epilogue::{Fused, Pointwise};
use crate::testing::{
    assert_close, assert_close_values, assert_reference_keeps_bf16, assert_same_gradients, random, random_tensor, values,
};

/// Float32 rounding of two summation orders over a few hundred terms.
const TOLERANCE: f32 = 1e-5;

#[test]
fn the_reference_accepts_bf16() {
    let device = crate::testing::cpu();
    let (weight, bias) = (random_tensor([5, 3, 3, 3], 1, &device), Some(random_tensor([5], 2, &device)));
    let window = Window { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
    assert_reference_keeps_bf16(
        random_tensor([1, 7, 6, 3], 3, &device),
        |x| reference::conv2d(x, weight.clone(), bias.clone(), window),
        |x| conv2d(x, weight.clone(), bias.clone(), window.stride, window.padding),
    );
}

#[test]
fn kernels_and_their_gradients_equal_the_reference() {
    for ([batch, height, width, channels], out, kernel, stride, padding) in [
        ([2, 9, 7, 3], 5, [3, 3], [2, 2], [1, 1]),
        ([1, 11, 9, 4], 6, [4, 4], [4, 4], [0, 0]),
        ([1, 5, 6, 2], 3, [2, 2], [2, 2], [0, 0]),
        ([2, 4, 5, 8], 4, [1, 1], [1, 1], [0, 0]),
        ([1, 1, 1, 3], 2, [3, 3], [2, 2], [1, 1]),
        ([1, 6, 5, 3], 2, [3, 1], [1, 2], [2, 0]),
        // Stride 1, for which the gradients are computed by other algorithms.
        ([2, 6, 7, 5], 4, [3, 3], [1, 1], [1, 1]),
        ([1, 6, 7, 5], 50, [5, 3], [1, 1], [0, 2]),
        ([1, 4, 5, 3], 2, [3, 3], [1, 1], [3, 3]),
        // More rows than a task.
        ([1, 40, 30, 9], 60, [3, 3], [1, 1], [1, 1]),
        // Enough channels and tiles for Winograd: odd sizes, channels that are not a multiple of the lanes, several panels of outputs.
        ([2, 13, 15, 40], 53, [3, 3], [1, 1], [1, 1]),
        ([1, 21, 15, 32], 33, [3, 3], [1, 1], [0, 0]),
        ([1, 14, 15, 35], 32, [3, 3], [1, 1], [2, 2]),
    ] {
        let window = Window { kernel, stride, padding };
        let inputs: [(&[usize], Vec<f32>); 3] = [
            (&[], random(batch * height * width * channels, 1)),
            (&[], random(out * channels * kernel[0] * kernel[1], 2)),
            (&[], random(out, 3)),
        ];
        let arguments = move |t: &[Tensor<1>]| {
            (
                t[0].clone().reshape([batch, height, width, channels]),
                t[1].clone().reshape([out, channels, kernel[0], kernel[1]]),
                Some(t[2].clone()),
            )
        };
        assert_same_gradients(
            &format!("{height} x {width} x {channels} -> {out}, {window:?}"),
            &inputs,
            |t| {
                let (x, weight, bias) = arguments(t);
                conv2d(x, weight, bias, stride, padding)
            },
            |t| {
                let (x, weight, bias) = arguments(t);
                reference::conv2d(x, weight, bias, window)
            },
            TOLERANCE,
        );
    }
}

#[test]
fn direct_and_winograd_equal_the_reference_on_every_unit() {
    let device = crate::testing::cpu();
    for ([batch, height, width, channels], out, padding) in [([1, 15, 14, 34], 50, [1, 1]), ([3, 9, 12, 64], 100, [0, 1])] {
        let window = Window { kernel: [3, 3], stride: [1, 1], padding };
        let x = random_tensor([batch, height, width, channels], 1, &device);
        let weight = random_tensor([out, channels, 3, 3], 2, &device);
        let bias = random_tensor([out], 3, &device);
        let expected = values(reference::conv2d(x.clone(), weight.clone(), Some(bias.clone()), window));
        let (x, weight, bias) = (values(x), values(weight), values(bias));
        let shapes = ([batch, height, width, channels], [out, channels, 3, 3]);
        for (name, result) in cpu::every_way(&x, shapes.0, &weight, shapes.1, window, &bias) {
            assert_close_values(&name, &result, &expected, TOLERANCE);
        }
    }
}

#[test]
fn the_fused_epilogue_equals_separate_steps() {
    let device = crate::testing::cpu();
    for (channels, kernel, stride) in [(40, 3, 1), (4, 3, 2), (6, 1, 1)] {
        let x = random_tensor([1, 17, 15, channels], 1, &device);
        let weight = random_tensor([37, channels, kernel, kernel], 2, &device);
        let ([stride, padding], side) = ([[stride; 2], [kernel / 2; 2]], |extent: usize| extent.div_ceil(stride));
        let fused = Fused {
            scale: Some(random_tensor([37], 3, &device)),
            bias: Some(random_tensor([37], 4, &device)),
            residual: Some(random_tensor([1, side(17), side(15), 37], 5, &device)),
            activation: Pointwise::Relu,
        };
        let expected = fused.clone().compose(|bias| conv2d(x.clone(), weight.clone(), bias, stride, padding));
        assert_close("fused", conv2d_fused(x, weight, fused, stride, padding), expected, TOLERANCE);
    }
}

#[test]
#[should_panic(expected = "smaller than the kernel")]
fn an_image_smaller_than_the_kernel_is_refused() {
    let device = crate::testing::cpu();
    conv2d(Tensor::zeros([1, 2, 2, 1], &device), Tensor::zeros([1, 1, 4, 4], &device), None, [4, 4], [0, 0]);
}
