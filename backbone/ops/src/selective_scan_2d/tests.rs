use burn::prelude::*;
use burn::tensor::DType;

use super::{reference, selective_scan_2d};
use crate::route::Route;
use crate::testing::{assert_reference_keeps_bf16, assert_same_gradients, cpu, random, random_tensor};

/// Float32 rounding of two evaluation orders over up to 150 steps of the recurrence.
const TOLERANCE: f32 = 3e-5;

#[test]
fn the_reference_accepts_bf16() {
    let device = cpu();
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
fn kernels_and_their_gradients_equal_the_reference() {
    let few = [Route::ColumnsReversed, Route::Rows];
    // Several chunks and images, channel blocks with surplus lanes, one row, one column, one pixel, routes along one axis only.
    let cases: [([usize; 4], usize, usize, &[Route]); 11] = [
        ([2, 9, 11, 20], 2, 1, &Route::CROSS),
        ([1, 3, 4, 35], 3, 4, &Route::CROSS),
        ([1, 1, 13, 16], 1, 1, &Route::CROSS),
        ([1, 13, 1, 5], 1, 2, &few),
        ([1, 1, 1, 1], 1, 1, &Route::CROSS),
        ([17, 2, 3, 16], 1, 1, &few),
        ([2, 9, 11, 20], 2, 1, &[Route::Rows, Route::RowsReversed]),
        ([2, 9, 11, 20], 2, 1, &[Route::Columns]),
        // A repeated route; 16 states as in vanilla VMamba; several chunks of the GPU's backward pass with surplus lanes.
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
