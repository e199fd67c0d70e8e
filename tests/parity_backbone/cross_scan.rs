//! Unfolding an image along the routes and merging them, and the fused scan against the composition of the visible parts.

use burn::prelude::*;
use burn::tensor::{Distribution, TensorData};
use tests::{Comparison, FORWARD_TOLERANCE, Fixture, FixtureTensor, GRADIENT_TOLERANCE, cases};
use vision_ops::{Route, ScanPattern, cross_merge, cross_scan, selective_scan, selective_scan_2d};

fn pattern(case: &Fixture) -> ScanPattern {
    match case.manifest["scans"].as_u64() {
        Some(0) => ScanPattern::Cross,
        Some(1) => ScanPattern::Unidirectional,
        Some(2) => ScanPattern::Bidirectional,
        Some(3) => ScanPattern::Rotated,
        other => panic!("{}: unknown scan pattern {other:?}", case.name),
    }
}

#[test]
fn scan_and_merge_equal_the_official_ones_in_every_case() {
    let device = tests::device().autodiff();
    for name in cases("cross_scan") {
        let case = Fixture::read("cross_scan", &name);
        let pattern = pattern(&case);
        let mut comparison = Comparison::new(format!("cross_scan/{name}"));

        let x = case.tensor("x").to_tensor::<4>(&device).require_grad();
        let scan = cross_scan(x.clone(), pattern);
        let gradients = (scan.clone() * case.tensor("grad_scan").to_tensor(&device)).sum().backward();
        comparison.check("scan", scan, case.tensor("scan"), FORWARD_TOLERANCE);
        comparison.check("dx", x.grad(&gradients).unwrap(), case.tensor("dx"), GRADIENT_TOLERANCE);

        let ys = case.tensor("ys").to_tensor::<5>(&device).require_grad();
        let merge = cross_merge(ys.clone(), pattern);
        let gradients = (merge.clone() * case.tensor("grad_merge").to_tensor(&device)).sum().backward();
        comparison.check("merge", merge, case.tensor("merge"), FORWARD_TOLERANCE);
        comparison.check("dys", ys.grad(&gradients).unwrap(), case.tensor("dys"), GRADIENT_TOLERANCE);

        // The channels-last layouts hold the same numbers in another order.
        let x_last = case.tensor("x_cl").to_tensor::<4>(&device).permute([0, 3, 1, 2]);
        let scan_last = cross_scan(x_last, pattern).permute([0, 3, 1, 2]);
        comparison.check("scan_cl_cl", scan_last, case.tensor("scan_cl_cl"), FORWARD_TOLERANCE);
        let ys_last = case.tensor("ys_cl").to_tensor::<5>(&device).permute([0, 3, 4, 1, 2]);
        comparison.check("merge_cl_cl", cross_merge(ys_last, pattern).swap_dims(1, 2), case.tensor("merge_cl_cl"), FORWARD_TOLERANCE);
        comparison.finish();
    }
}

/// A tensor's values as a reference.
fn reference<const D: usize>(t: Tensor<D>) -> FixtureTensor {
    FixtureTensor { shape: t.dims().to_vec(), values: t.into_data().iter::<f64>().collect() }
}

#[test]
fn the_fused_scan_equals_unfolding_scanning_and_merging() {
    let device = tests::device().autodiff();
    device.seed(11);
    for ([batch, height, width, channels], rank, state) in [([2, 5, 7, 24], 2, 1), ([1, 9, 8, 10], 1, 16)] {
        let (k, length) = (4, height * width);
        let fields = k * (rank + 2 * state);
        let leaf = |count: usize, seed: u64| {
            device.seed(seed);
            Tensor::<1>::random([count], Distribution::Normal(0.0, 1.0), &device).require_grad()
        };
        let inputs = [
            leaf(batch * length * channels, 1),
            leaf(batch * length * fields, 2),
            leaf(k * channels * rank, 3),
            leaf(k * channels, 4),
            leaf(k * channels * state, 5),
            leaf(k * channels, 6),
        ];
        let names = ["x", "projections", "dt_weight", "dt_bias", "a_logs", "d"];
        let weight = Tensor::<4>::random([batch, height, width, channels], Distribution::Normal(0.0, 1.0), &device);
        let t = |i: usize| inputs[i].clone();

        let fused = selective_scan_2d(
            t(0).reshape([batch, height, width, channels]),
            t(1).reshape([batch, height, width, fields]),
            t(2).reshape([k, channels, rank]),
            t(3).reshape([k, channels]),
            t(4).reshape([k * channels, state]),
            t(5),
            &Route::CROSS,
        );

        // Every projection follows its own route, so each is unfolded along all four and the matching one is kept.
        let along = |t: Tensor<4>, route: usize| cross_scan(t.permute([0, 3, 1, 2]), ScanPattern::Cross).narrow(1, route, 1);
        let xs = cross_scan(t(0).reshape([batch, height, width, channels]).permute([0, 3, 1, 2]), ScanPattern::Cross);
        let own = |route: usize, from: usize, size: usize| {
            let all = t(1).reshape([batch, height, width, fields]);
            along(all.narrow(3, route * (rank + 2 * state) + from, size), route)
        };
        let deltas = (0..k).map(|route| {
            let weight = t(2).reshape([k, channels, rank]).narrow(0, route, 1).expand([batch, channels, rank]);
            weight.matmul(own(route, 0, rank).reshape([batch, rank, length]))
        });
        let y = selective_scan(
            xs.reshape([batch, k * channels, length]),
            Tensor::cat(deltas.collect(), 1),
            t(4).reshape([k * channels, state]).exp().neg(),
            Tensor::cat((0..k).map(|route| own(route, rank, state)).collect(), 1),
            Tensor::cat((0..k).map(|route| own(route, rank + state, state)).collect(), 1),
            Some(t(5)),
            Some(t(3)),
            true,
        );
        // Outputs of the column routes lie in column order, as the merge expects its input flattened.
        let composed = cross_merge(y.reshape([batch, k, channels, height, width]), ScanPattern::Cross)
            .reshape([batch, channels, height, width])
            .permute([0, 2, 3, 1]);

        let mut comparison = Comparison::new(format!("fused scan {batch}x{height}x{width}x{channels}, rank {rank}, state {state}"));
        comparison.check("y", fused.clone(), &reference(composed.clone()), FORWARD_TOLERANCE);
        let fused_gradients = (fused * weight.clone()).sum().backward();
        let composed_gradients = (composed * weight).sum().backward();
        for (name, input) in names.iter().zip(&inputs) {
            let expected = reference(input.grad(&composed_gradients).unwrap());
            comparison.check(&format!("d{name}"), input.grad(&fused_gradients).unwrap(), &expected, GRADIENT_TOLERANCE);
        }
        comparison.finish();
    }
}

#[test]
fn a_route_is_the_order_in_which_pixels_are_unfolded() {
    let device = tests::device();
    let (height, width) = (3, 5);
    let raster: Vec<f32> = (0..height * width).map(|i| i as f32).collect();
    let image = Tensor::<4>::from_data(TensorData::new(raster, [1, 1, height, width]), &device);
    let order: Vec<usize> = cross_scan(image, ScanPattern::Cross).into_data().iter::<f32>().map(|v| v as usize).collect();
    let routes: Vec<usize> = Route::CROSS.iter().flat_map(|route| (0..height * width).map(|t| route.pixel(t, height, width))).collect();
    assert_eq!(order, routes);
}
