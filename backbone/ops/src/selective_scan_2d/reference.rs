//! The scan along each route, composed of gathers and the reference of the one-dimensional scan.

use burn::prelude::*;
use burn::tensor::TensorData;

use crate::precision::widened;
use crate::route::Route;
use crate::selective_scan::reference::selective_scan;

pub(crate) fn selective_scan_2d(
    x: Tensor<4>,
    projections: Tensor<4>,
    dt_weight: Tensor<3>,
    dt_bias: Tensor<2>,
    a_logs: Tensor<2>,
    d: Tensor<1>,
    routes: &[Route],
) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let [count, _, rank] = dt_weight.dims();
    let state = a_logs.dims()[1];
    let length = height * width;
    let device = x.device();
    let dtype = x.dtype();
    let x = widened(x).reshape([batch, length, channels]);
    let projections = widened(projections).reshape([batch, length, count * (rank + 2 * state)]);
    let mut merged = Tensor::<3>::zeros([batch, length, channels], &device);
    for (k, route) in routes.iter().enumerate() {
        let forward: Vec<i64> = (0..length).map(|t| route.pixel(t, height, width) as i64).collect();
        let mut backward = vec![0_i64; length];
        for (t, pixel) in forward.iter().enumerate() {
            backward[*pixel as usize] = t as i64;
        }
        let forward = Tensor::<1, Int>::from_data(TensorData::new(forward, [length]), &device);
        let backward = Tensor::<1, Int>::from_data(TensorData::new(backward, [length]), &device);
        let walk = |t: Tensor<3>| t.select(1, forward.clone()).swap_dims(1, 2);
        let own = projections.clone().narrow(2, k * (rank + 2 * state), rank + 2 * state);
        let part = |from: usize, size: usize| walk(own.clone().narrow(2, from, size)).reshape([batch, 1, size, length]);
        let weight = dt_weight.clone().narrow(0, k, 1).reshape([1, channels, rank]);
        let delta = weight.expand([batch, channels, rank]).matmul(part(0, rank).reshape([batch, rank, length]));
        let y = selective_scan(
            walk(x.clone()),
            delta,
            a_logs.clone().narrow(0, k * channels, channels).exp().neg(),
            part(rank, state),
            part(rank + state, state),
            Some(d.clone().narrow(0, k * channels, channels)),
            Some(dt_bias.clone().narrow(0, k, 1).reshape([channels])),
            true,
        );
        merged = merged + y.swap_dims(1, 2).select(1, backward);
    }
    merged.reshape([batch, height, width, channels]).cast(dtype)
}
