use burn::prelude::*;
use burn::tensor::DType;

use super::{Route, reference, selective_scan, selective_scan_2d};
use crate::testing::{assert_reference_keeps_bf16, assert_same_gradients, cpu, random, random_tensor};

/// Float32 rounding of two evaluation orders over up to 150 steps of the recurrence.
const TOLERANCE: f32 = 3e-5;

/// The recurrence in float64, straight from its formula.
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
fn the_composed_scans_keep_bf16_and_a_float32_state() {
    let device = cpu();
    // Every step adds a thousandth or less of the state, which 8 bits of mantissa would lose.
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

    let projections = random_tensor([1, 4, 5, 4 * 4], 2, &device).cast(DType::BF16);
    let (steps, bias) = (random_tensor([4, 3, 2], 3, &device), random_tensor([4, 3], 4, &device));
    let (a_logs, d) = (random_tensor([12, 1], 5, &device), random_tensor([12], 6, &device));
    let run = |scan: fn(_, _, _, _, _, _, &[Route]) -> Tensor<4>| {
        let (projections, steps, bias, a_logs, d) = (projections.clone(), steps.clone(), bias.clone(), a_logs.clone(), d.clone());
        move |x| scan(x, projections.clone(), steps.clone(), bias.clone(), a_logs.clone(), d.clone(), &Route::CROSS)
    };
    assert_reference_keeps_bf16(random_tensor([1, 4, 5, 3], 1, &device), run(reference::selective_scan_2d), run(selective_scan_2d));
}

#[test]
fn one_channel_equals_the_formula_in_double_precision() {
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
fn native_scan_equals_the_composed_one_with_its_gradients() {
    // (batch, groups, channels, state, length): lanes partly and fully used, chunk borders crossed, one step, many states.
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

#[test]
fn native_2d_scan_equals_the_composed_one_with_its_gradients() {
    let few = [Route::ColumnsReversed, Route::Rows];
    // Several chunks and images, off-size channel blocks, one row, one column, one pixel, routes in one direction only.
    let cases: [([usize; 4], usize, usize, &[Route]); 11] = [
        ([2, 9, 11, 20], 2, 1, &Route::CROSS),
        ([1, 3, 4, 35], 3, 4, &Route::CROSS),
        ([1, 1, 13, 16], 1, 1, &Route::CROSS),
        ([1, 13, 1, 5], 1, 2, &few),
        ([1, 1, 1, 1], 1, 1, &Route::CROSS),
        ([17, 2, 3, 16], 1, 1, &few),
        ([2, 9, 11, 20], 2, 1, &[Route::Rows, Route::RowsReversed]),
        ([2, 9, 11, 20], 2, 1, &[Route::Columns]),
        // The same route more than once; the states of vanilla VMamba; several chunks of the GPU's backward pass with idle lanes.
        ([1, 3, 5, 8], 2, 1, &[Route::Rows; 4]),
        ([1, 5, 4, 12], 1, 16, &Route::CROSS),
        ([1, 12, 13, 40], 3, 1, &Route::CROSS),
    ];
    for (shape, rank, state, routes) in cases {
        let [batch, height, width, channels] = shape;
        let count = routes.len();
        let fields = count * (rank + 2 * state);
        let inputs: [(&[usize], Vec<f32>); 6] = [
            (&[], random(batch * height * width * channels, 1)),
            (&[], random(batch * height * width * fields, 2)),
            (&[], random(count * channels * rank, 3)),
            (&[], random(count * channels, 4)),
            (&[], random(count * channels * state, 5)),
            (&[], random(count * channels, 6)),
        ];
        type Scan = fn(Tensor<4>, Tensor<4>, Tensor<3>, Tensor<2>, Tensor<2>, Tensor<1>, &[Route]) -> Tensor<4>;
        let run = |scan: Scan| {
            move |t: &[Tensor<1>]| {
                let t = |i: usize| t[i].clone();
                scan(
                    t(0).reshape(shape),
                    t(1).reshape([batch, height, width, fields]),
                    t(2).reshape([count, channels, rank]),
                    t(3).reshape([count, channels]),
                    t(4).reshape([count * channels, state]),
                    t(5),
                    routes,
                )
            }
        };
        let what = format!("{shape:?}, rank {rank}, state {state}, {count} routes");
        assert_same_gradients(&what, &inputs, run(selective_scan_2d), run(reference::selective_scan_2d), TOLERANCE);
    }
}

#[test]
fn routes_visit_every_pixel_once() {
    for (height, width) in [(1, 1), (3, 5), (4, 1)] {
        for route in Route::CROSS {
            let mut seen: Vec<usize> = (0..height * width).map(|t| route.pixel(t, height, width)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..height * width).collect::<Vec<_>>(), "{route:?} on {height} x {width}");
        }
    }
    assert_eq!((0..4).map(|t| Route::Columns.pixel(t, 2, 2)).collect::<Vec<_>>(), [0, 2, 1, 3]);
}

#[test]
fn gradients_do_not_depend_on_the_number_of_threads() {
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let device = Device::flex().autodiff();
            let t = |count: usize, seed: u64| Tensor::<1>::from_floats(random(count, seed).as_slice(), &device).require_grad();
            let (x, p) = (t(2 * 70 * 40, 1), t(2 * 70 * 12, 2));
            let y = selective_scan_2d(
                x.clone().reshape([2, 7, 10, 40]),
                p.clone().reshape([2, 7, 10, 12]),
                t(160, 3).reshape([4, 40, 1]),
                t(160, 4).reshape([4, 40]),
                t(160, 5).reshape([160, 1]),
                t(160, 6),
                &Route::CROSS,
            );
            let grads = y.clone().square().sum().backward();
            [y.into_data(), x.grad(&grads).unwrap().into_data(), p.grad(&grads).unwrap().into_data()]
                .map(|d| d.iter::<f32>().collect::<Vec<_>>())
        })
    };
    assert_eq!(run(1), run(3));
}
