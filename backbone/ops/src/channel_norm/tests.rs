use super::{channel_norm, reference};
use crate::testing::{assert_reference_keeps_bf16, assert_same_gradients, cpu, random, random_tensor};

/// Float32 rounding of two summation orders over at most a few hundred rows.
const TOLERANCE: f32 = 2e-5;

#[test]
fn the_reference_accepts_bf16() {
    let device = cpu();
    let [weight, bias] = [1, 2].map(|seed| Some(random_tensor([12], seed, &device)));
    let run = |norm: fn(_, _, _, _) -> burn::tensor::Tensor<2>| {
        let (weight, bias) = (weight.clone(), bias.clone());
        move |x| norm(x, weight.clone(), bias.clone(), 1e-5)
    };
    let x = random_tensor([9, 12], 3, &device);
    assert_reference_keeps_bf16(x, run(reference::channel_norm), run(channel_norm));
}

#[test]
fn kernels_and_their_gradients_equal_the_reference() {
    // Rows of one and several blocks; channels above, below and not a multiple of the lanes; a mean far from 0, for which a one-pass
    // variance is inaccurate.
    for (rows, channels) in [(70, 40), (130, 16), (3, 5), (1, 1), (200, 97)] {
        let x: Vec<f32> = random(rows * channels, 3).into_iter().map(|v| v * 2.0 + 7.0).collect();
        assert_same_gradients(
            &format!("{rows} rows of {channels}"),
            &[(&[rows, channels], x), (&[channels], random(channels, 4)), (&[channels], random(channels, 5))],
            |t| channel_norm(t[0].clone().reshape([rows, channels]), Some(t[1].clone()), Some(t[2].clone()), 1e-5),
            |t| reference::channel_norm(t[0].clone().reshape([rows, channels]), Some(t[1].clone()), Some(t[2].clone()), 1e-5),
            // With one channel the normalised value and the gradient of `x` cancel to rounding errors.
            if channels == 1 { 1e-3 } else { TOLERANCE },
        );
    }
}

#[test]
#[should_panic(expected = "channel_norm: the weight has 8 values for 4 channels")]
fn a_weight_of_another_length_is_refused() {
    let device = cpu();
    channel_norm(random_tensor([6, 4], 1, &device), Some(random_tensor([8], 2, &device)), None, 1e-5);
}

#[test]
fn weight_and_bias_are_optional() {
    let x = random(6 * 20, 6);
    assert_same_gradients(
        "no weight and bias",
        &[(&[120], x)],
        |t| channel_norm(t[0].clone().reshape([2, 3, 20]), None, None, 1e-5),
        |t| reference::channel_norm(t[0].clone().reshape([2, 3, 20]), None, None, 1e-5),
        TOLERANCE,
    );
}
