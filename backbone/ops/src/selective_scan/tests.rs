use burn::prelude::*;
use burn::tensor::DType;

use super::{reference, selective_scan};
use crate::testing::{assert_reference_keeps_bf16, assert_same_gradients, cpu, random};

/// Float32 rounding of two evaluation orders over up to 150 steps of the recurrence.
const TOLERANCE: f32 = 3e-5;

/// The recurrence of one channel and state in float64.
fn naive(u: &[f32], delta: &[f32], a: f32, b: &[f32], c: &[f32], d: f32, bias: f32) -> Vec<f32> {
    let mut h = 0.0_f64;
    (0..u.len())
        .map(|t| {
            let step = (f64::from(delta[t]) + f64::from(bias)).exp().ln_1p();
            h = (step * f64::from(a)).exp() * h + step * f64::from(b[t]) * f64::from(u[t]);
            (f64::from(c[t]) * h + f64::from(d) * f64::from(u[t])) as f32
        })
        .collect()
}

#[test]
fn the_reference_accepts_bf16_and_keeps_a_float32_state() {
    let device = cpu();
    // Every step adds at most a thousandth of the state, which would be lost in 8 bits of mantissa.
    let (a, step) = (Tensor::<2>::full([2, 1], -1e-4, &device), Tensor::<3>::full([1, 2, 1000], 0.03, &device));
    let run = |scan: fn(_, _, _, _, _, _, _, _) -> Tensor<3>| {
        let (a, step) = (a.clone(), step.clone());
        move |u: Tensor<3>| {
            let b: Tensor<4> = u.clone().narrow(1, 0, 1).reshape([1, 1, 1, 1000]);
            let step = step.clone().cast(u.dtype());
            scan(u, step, a.clone(), b.clone(), b, None, None, false)
        }
    };
    let u = Tensor::<3>::full([1, 2, 1000], 0.2, &device);
    assert_reference_keeps_bf16(u.clone(), run(reference::selective_scan), run(selective_scan));
    let last = |u: Tensor<3>| crate::testing::values(run(selective_scan)(u))[999];
    let (narrow, wide) = (last(u.clone().cast(DType::BF16)), last(u));
    assert!((narrow - wide).abs() < 0.02 * wide, "{narrow} instead of {wide}");
}

#[test]
fn one_channel_equals_the_formula_in_float64() {
    let length = 150;
    let [u, delta, b, c] = [1, 2, 3, 4].map(|seed| random(length, seed));
    let device = crate::testing::cpu();
    let t3 = |v: &[f32]| Tensor::<1>::from_floats(v, &device).reshape([1, 1, length]);
    let y = selective_scan(
        t3(&u),
        t3(&delta),
        Tensor::from_floats([[-0.7]], &device),
        t3(&b).reshape([1, 1, 1, length]),
        t3(&c).reshape([1, 1, 1, length]),
        Some(Tensor::from_floats([0.3], &device)),
        Some(Tensor::from_floats([-0.5], &device)),
        true,
    );
    crate::testing::assert_close_values("y", &crate::testing::values(y), &naive(&u, &delta, -0.7, &b, &c, 0.3, -0.5), 1e-5);
}

#[test]
fn kernels_and_their_gradients_equal_the_reference() {
    // (batch, groups, channels, state, length): some and all lanes used, several chunks, one step, many states.
    for (batch, groups, channels, state, length) in [(2, 2, 3, 1, 70), (1, 1, 17, 16, 9), (1, 4, 16, 2, 65), (2, 1, 1, 3, 1)] {
        let rows = groups * channels;
        let a: Vec<f32> = random(rows * state, 3).into_iter().map(|v| -0.2 - v.abs()).collect();
        let bc = batch * groups * state * length;
        let inputs: [(&[usize], Vec<f32>); 7] = [
            (&[], random(batch * rows * length, 1)),
            (&[], random(batch * rows * length, 2)),
            (&[], a),
            (&[], random(bc, 4)),
            (&[], random(bc, 5)),
            (&[], random(rows, 6)),
            (&[], random(rows, 7)),
        ];
        for softplus in [true, false] {
            type Scan = fn(Tensor<3>, Tensor<3>, Tensor<2>, Tensor<4>, Tensor<4>, Option<Tensor<1>>, Option<Tensor<1>>, bool) -> Tensor<3>;
            let run = |scan: Scan| {
                move |t: &[Tensor<1>]| {
                    let t = |i: usize| t[i].clone();
                    scan(
                        t(0).reshape([batch, rows, length]),
                        t(1).reshape([batch, rows, length]),
                        t(2).reshape([rows, state]),
                        t(3).reshape([batch, groups, state, length]),
                        t(4).reshape([batch, groups, state, length]),
                        Some(t(5)),
                        Some(t(6)),
                        softplus,
                    )
                }
            };
            let what = format!("batch {batch}, {groups} groups of {channels}, state {state}, length {length}, softplus {softplus}");
            assert_same_gradients(&what, &inputs, run(selective_scan), run(reference::selective_scan), TOLERANCE);
        }
    }
}
