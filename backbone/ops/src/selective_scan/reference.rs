//! The scan composed of Burn's operations, one step at a time: obvious, slow, and differentiable on every backend.

use burn::prelude::*;

use super::Route;
use crate::precision::widened;

pub(crate) fn selective_scan(
    u: Tensor<3>,
    delta: Tensor<3>,
    a: Tensor<2>,
    b: Tensor<4>,
    c: Tensor<4>,
    d: Option<Tensor<1>>,
    delta_bias: Option<Tensor<1>>,
    delta_softplus: bool,
) -> Tensor<3> {
    let [batch, rows, length] = u.dims();
    let [_, groups, state, _] = b.dims();
    let dtype = u.dtype();
    let [u, mut delta] = [u, delta].map(widened);
    let [b, c] = [b, c].map(widened);
    if let Some(bias) = delta_bias {
        delta = delta + bias.reshape([1, rows, 1]);
    }
    if delta_softplus {
        delta = crate::softplus(delta);
    }
    // [batch, groups, state, length] -> one row of B or C for each channel: [batch, rows, state, length].
    let per_channel = |t: Tensor<4>| {
        t.reshape([batch, groups, 1, state, length])
            .expand([batch, groups, rows / groups, state, length])
            .reshape([batch, rows, state, length])
    };
    let (b, c) = (per_channel(b), per_channel(c));
    let a = a.reshape([1, rows, state]);
    let mut h = Tensor::<3>::zeros([batch, rows, state], &u.device());
    let mut outputs = Vec::with_capacity(length);
    for t in 0..length {
        let at = |tensor: &Tensor<3>| tensor.clone().narrow(2, t, 1);
        let state_at = |tensor: &Tensor<4>| tensor.clone().narrow(3, t, 1).reshape([batch, rows, state]);
        let step = at(&delta);
        h = (step.clone() * a.clone()).exp() * h + step * state_at(&b) * at(&u);
        outputs.push((state_at(&c) * h.clone()).sum_dim(2));
    }
    let y = Tensor::cat(outputs, 2);
    match d {
        Some(d) => y + u * d.reshape([1, rows, 1]),
        None => y,
    }
    .cast(dtype)
}

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

use burn::tensor::TensorData;
