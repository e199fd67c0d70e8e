use burn::prelude::*;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};

use super::{argmax_resized, reference, resize_bilinear};
use crate::softmax::argmax_channels;
use crate::testing::{assert_close, assert_reference_keeps_bf16, assert_same_gradients, cpu, gpu, random, random_tensor};

/// Float32 rounding of two orders of interpolation.
const TOLERANCE: f32 = 1e-5;

const SIZES: [([usize; 2], [usize; 2]); 6] =
    [([5, 7], [10, 14]), ([8, 6], [3, 5]), ([1, 1], [4, 3]), ([4, 9], [4, 3]), ([3, 3], [1, 1]), ([2, 5], [7, 5])];

#[test]
fn the_reference_accepts_bf16() {
    let x = random_tensor([1, 3, 4, 5], 1, &cpu());
    assert_reference_keeps_bf16(x, |x| reference::resize_bilinear(x, [7, 3], false), |x| resize_bilinear(x, [7, 3], false));
}

#[test]
fn kernels_and_their_gradients_equal_the_reference() {
    for (from, to) in SIZES {
        for align in [false, true] {
            assert_same_gradients(
                &format!("{from:?} -> {to:?}, align_corners {align}"),
                &[(&[], random(2 * 3 * from[0] * from[1], 1))],
                |t| resize_bilinear(t[0].clone().reshape([2, 3, from[0], from[1]]), to, align),
                |t| reference::resize_bilinear(t[0].clone().reshape([2, 3, from[0], from[1]]), to, align),
                TOLERANCE,
            );
        }
    }
}

#[test]
fn channels_last_maps_and_their_gradients_equal_the_reference() {
    for (from, to) in SIZES {
        let last = |t: &[Tensor<1>]| t[0].clone().reshape([2, from[0], from[1], 3]).permute([0, 3, 1, 2]);
        assert_same_gradients(
            &format!("{from:?} -> {to:?}"),
            &[(&[], random(2 * 3 * from[0] * from[1], 1))],
            |t| resize_bilinear(last(t), to, false),
            |t| reference::resize_bilinear(last(t), to, false),
            TOLERANCE,
        );
    }
}

#[test]
fn argmax_resized_equals_argmax_after_resizing() {
    for device in [Some(cpu()), gpu()].into_iter().flatten() {
        for (from, to) in SIZES {
            let scores: Tensor<4> = random_tensor([1, 9, from[0], from[1]], 6, &device);
            assert_eq!(argmax_resized(scores.clone(), to), argmax_channels(resize_bilinear(scores, to, false)), "{from:?} -> {to:?}");
        }
    }
    let equal = Tensor::<4>::zeros([1, 3, 2, 2], &cpu());
    assert_eq!(argmax_resized(equal, [3, 3]), [0; 9], "ties must give the lowest index");
}

#[test]
fn resize_equals_burns_interpolation() {
    for (from, to) in SIZES {
        let x: Tensor<4> = random_tensor([1, 2, from[0], from[1]], 4, &cpu());
        let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_output_size(to).with_align_corners(false);
        assert_close(&format!("{from:?} -> {to:?}"), resize_bilinear(x.clone(), to, false), interpolate(x, options), TOLERANCE);
    }
}
