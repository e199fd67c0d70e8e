use burn::prelude::*;

use super::{batch_norm, reference};
use crate::testing::{assert_close, assert_reference_keeps_bf16, assert_same_gradients, cpu, gpu, random, random_tensor};

/// Float32 rounding of two summation orders over at most a few hundred rows.
const TOLERANCE: f32 = 2e-5;

/// `(rows, channels)`: rows of one and several blocks; channels above, below and not a multiple of the lanes.
const SIZES: [(usize, usize); 5] = [(70, 40), (130, 16), (3, 5), (2, 1), (300, 97)];

/// Values with a mean far from 0, for which a one-pass variance is inaccurate.
fn far_from_zero(rows: usize, channels: usize) -> Vec<f32> {
    random(rows * channels, 3).into_iter().map(|v| v * 2.0 + 7.0).collect()
}

#[test]
fn the_reference_accepts_bf16() {
    let device = cpu();
    let [weight, bias] = [1, 2].map(|seed| random_tensor([12], seed, &device));
    let x = random_tensor([9, 12], 3, &device);
    let with = |norm: fn(Tensor<2>, _, _, _) -> super::BatchNormed<2>| {
        let (weight, bias) = (weight.clone(), bias.clone());
        move |x| norm(x, weight.clone(), bias.clone(), 1e-5).output
    };
    assert_reference_keeps_bf16(x, with(reference::batch_norm), with(batch_norm));
}

#[test]
fn kernels_and_their_gradients_equal_the_reference() {
    for (rows, channels) in SIZES {
        let inputs: [(&[usize], Vec<f32>); 3] =
            [(&[rows, channels], far_from_zero(rows, channels)), (&[channels], random(channels, 4)), (&[channels], random(channels, 5))];
        assert_same_gradients(
            &format!("{rows} rows of {channels}"),
            &inputs,
            |t| batch_norm(t[0].clone().reshape([rows, channels]), t[1].clone(), t[2].clone(), 1e-5).output,
            |t| reference::batch_norm(t[0].clone().reshape([rows, channels]), t[1].clone(), t[2].clone(), 1e-5).output,
            // With two rows the gradient nearly cancels.
            if rows == 2 { 1e-3 } else { TOLERANCE },
        );
    }
}

#[test]
fn mean_and_variance_are_right_for_channels_first_memory() {
    for device in [Some(cpu()), Some(cpu().autodiff()), gpu()].into_iter().flatten() {
        for (rows, channels) in SIZES {
            let data = TensorData::new(far_from_zero(2 * rows * channels, 1), [2, channels, rows, 1]);
            // A channels-last view of channels-first memory.
            let maps = |device: &Device| Tensor::<4>::from_data(data.clone(), device).permute([0, 2, 3, 1]);
            let ones = |device: &Device| Tensor::<1>::ones([channels], device);
            let normed = batch_norm(maps(&device), ones(&device), ones(&device), 1e-3);
            let expected = reference::batch_norm(maps(&cpu()), ones(&cpu()), ones(&cpu()), 1e-3);
            assert_close("output", normed.output, expected.output, TOLERANCE);
            assert_close("mean", normed.mean, expected.mean, TOLERANCE);
            assert_close("variance", normed.variance, expected.variance, TOLERANCE);
        }
    }
}
