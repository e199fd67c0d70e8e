//! The selective scan of SS2D, VMamba's 2D Selective Scan (VMamba paper, section 4.2; the official code's `cross_selective_scan`).
//!
//! It runs the recurrence of [`crate::selective_scan()`] along several routes through the image and sums their outputs at every pixel. The
//! projections of each pixel are computed once, in raster order. A route is only an order of indices: the input, `delta`, `B` and `C` are
//! not copied for each route, and the outputs are summed while the scan runs. (The CPU kernels transpose their maps once, for all routes
//! along columns.) The backward pass is that of the recurrence along each route, followed by the product rule for
//! `delta = softplus(dt_weight dt + dt_bias)` and `A = -exp(a_logs)`.

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod reference;
#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
use burn::prelude::*;

use crate::device::has_kernel;
use crate::operation::operation;
use crate::precision::{in_float32, is_narrow, widened};
use crate::route::Route;

operation! {
    Scan2dOps::scan_2d => Scan2dGradOps::scan_2d_backward -> Scan2dGrads (Scan2dGradsMetadata) by Scan2dNode,
    [6] x, projections, dt_weight, dt_bias, a_logs, d; routes: Vec<Route>
    => x of x.clone()
}

/// The selective scan of SS2D along the routes of an image, from the projections to the merged output.
///
/// - `x`: `[batch, height, width, channels]`, of the type of `projections`
/// - `projections`: `[batch, height, width, K * (rank + 2 * state)]`, the product of `x` with the official `x_proj_weight`: for each of
///   the `K` routes the low-rank step size `dt` (`rank`), then `B` (`state`), then `C` (`state`)
/// - `dt_weight`: `[K, channels, rank]` and `dt_bias`: `[K, channels]`; the step size is `softplus(dt_weight dt + dt_bias)`
/// - `a_logs`: `[K * channels, state]`, `A = -exp(a_logs)`; `d`: `[K * channels]`
/// - `routes`: the `K` routes
///
/// Returns `[batch, height, width, channels]`, the sum over the routes. Every tensor has a gradient.
///
/// # Panics
/// When the shapes do not fit together or, on GPUs, there are more than 32 routes.
pub fn selective_scan_2d(
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
    assert_eq!(routes.len(), count, "selective_scan_2d: the number of routes must be the first size of dt_weight");
    assert_eq!(
        projections.dims(),
        [batch, height, width, count * (rank + 2 * state)],
        "selective_scan_2d: projections must be [batch, height, width, routes * (rank + 2 * state)]"
    );
    assert_eq!(dt_weight.dims(), [count, channels, rank], "selective_scan_2d: dt_weight must be [routes, channels, rank]");
    assert_eq!(dt_bias.dims(), [count, channels], "selective_scan_2d: dt_bias must be [routes, channels]");
    assert_eq!(a_logs.dims(), [count * channels, state], "selective_scan_2d: a_logs must be [routes * channels, state]");
    assert_eq!(d.dims(), [count * channels], "selective_scan_2d: d must be [routes * channels]");
    if is_narrow(&x) {
        return in_float32(x, |x| selective_scan_2d(x, widened(projections), dt_weight, dt_bias, a_logs, d, routes));
    }
    if !has_kernel(&x) {
        return reference::selective_scan_2d(x, projections, dt_weight, dt_bias, a_logs, d, routes);
    }
    Tensor::from_dispatch(<Dispatch as Scan2dOps>::scan_2d(
        x.into_dispatch(),
        projections.into_dispatch(),
        dt_weight.into_dispatch(),
        dt_bias.into_dispatch(),
        a_logs.into_dispatch(),
        d.into_dispatch(),
        routes.to_vec(),
    ))
}
