use burn::prelude::*;

use super::{Window, conv2d, reference};
use crate::testing::{assert_same_gradients, random};

/// Float32 rounding of two summation orders over a few hundred terms.
const TOLERANCE: f32 = 1e-5;

#[test]
fn native_convolution_equals_burns_with_its_gradients() {
    for ([batch, height, width, channels], out, kernel, stride, padding) in [
        ([2, 9, 7, 3], 5, [3, 3], [2, 2], [1, 1]),
        ([1, 11, 9, 4], 6, [4, 4], [4, 4], [0, 0]),
        ([1, 5, 6, 2], 3, [2, 2], [2, 2], [0, 0]),
        ([2, 4, 5, 8], 4, [1, 1], [1, 1], [0, 0]),
        ([1, 1, 1, 3], 2, [3, 3], [2, 2], [1, 1]),
        ([1, 6, 5, 3], 2, [3, 1], [1, 2], [2, 0]),
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
#[should_panic(expected = "smaller than the kernel")]
fn an_image_smaller_than_the_kernel_is_refused() {
    let device = crate::testing::cpu();
    conv2d(Tensor::zeros([1, 2, 2, 1], &device), Tensor::zeros([1, 1, 4, 4], &device), None, [4, 4], [0, 0]);
}
