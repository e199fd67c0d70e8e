use burn::prelude::*;

use super::{Activation, apply, reference};
use crate::testing::{assert_reference_keeps_bf16, assert_same_gradients, cpu, random, random_tensor};

/// Float32 rounding of two evaluation orders, and the error of the error function (5e-7).
const TOLERANCE: f32 = 2e-6;

#[test]
fn references_accept_bf16() {
    let x = random_tensor([50], 1, &cpu());
    for kind in [Activation::Gelu, Activation::Silu, Activation::Softplus] {
        assert_reference_keeps_bf16(x.clone(), |x| reference::activation(x, kind), |x| apply(x, kind));
    }
}

#[test]
fn kernels_and_their_gradients_equal_the_references() {
    // 5001 values span two blocks and are not a multiple of the lanes; the values exceed the threshold of softplus.
    let x: Vec<f32> = random(5001, 1).into_iter().map(|v| v * 24.0).collect();
    for kind in [Activation::Gelu, Activation::Silu, Activation::Softplus] {
        assert_same_gradients(
            &format!("{kind:?}"),
            &[(&[5001], x.clone())],
            |t| apply(t[0].clone(), kind),
            |t| reference::activation(t[0].clone(), kind),
            TOLERANCE,
        );
    }
}

#[test]
fn transposed_views_are_read_in_their_logical_order() {
    let x = random_tensor([3, 5], 2, &cpu());
    let direct = super::silu(x.clone().transpose());
    let y: Tensor<2> = super::silu(x).transpose();
    crate::testing::assert_close("transposed view", direct, y, 0.0);
}
