//! Selective scan, the recurrence of Mamba and of VMamba's 2D Selective Scan (VMamba paper, section 4.2; the official code's
//! `selective_scan_torch` and `cross_selective_scan`).
//!
//! For one channel with `N` states, inputs `u_t`, step sizes `delta_t > 0` and `A < 0`:
//!
//! ```text
//! h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        N states
//! y_t = C_t . h_t + D u_t
//! ```
//!
//! [`selective_scan`] is that recurrence over sequences. [`selective_scan_2d`] is the core of SS2D: it takes the projections of every
//! pixel once, in raster order, and walks the routes through the image by index. No route has a copy of the input, of `delta` or of
//! `B` and `C`, and the outputs of the routes are summed at their pixel while the scan runs.

mod cpu_1d;
mod cpu_2d;
#[cfg(feature = "cube")]
mod cube_1d;
#[cfg(feature = "cube")]
mod cube_2d;
#[cfg(feature = "cube")]
mod cube_gradients;
#[cfg(feature = "cube")]
mod cube_kernels;
#[cfg(feature = "cube")]
mod cube_launch;
mod kernels_2d;
mod recurrence;
mod reference;
#[cfg(test)]
mod tests;
mod turned;

use burn::backend::Dispatch;
use burn::prelude::*;

use crate::flex::has_kernel;
use crate::operation::operation;
use crate::precision::{in_float32, is_narrow, widened};

/// A way through the pixels of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Row by row from the top left, the raster order.
    Rows,
    /// Column by column from the top left.
    Columns,
    /// The raster order backwards.
    RowsReversed,
    /// Column by column, backwards.
    ColumnsReversed,
}

impl Route {
    /// The four routes of the paper's cross-scan in the official order.
    pub const CROSS: [Self; 4] = [Self::Rows, Self::Columns, Self::RowsReversed, Self::ColumnsReversed];

    /// The raster index of the pixel that the route visits at `step`, for `step < height * width`.
    #[inline(always)]
    pub fn pixel(self, step: usize, height: usize, width: usize) -> usize {
        let last = height * width - 1;
        match self {
            Self::Rows => step,
            Self::RowsReversed => last - step,
            Self::Columns => step % height * width + step / height,
            Self::ColumnsReversed => {
                let step = last - step;
                step % height * width + step / height
            }
        }
    }
}

operation! {
    ScanOps::scan => ScanGradOps::scan_backward -> ScanGrads (ScanGradsMetadata) by ScanNode,
    [7] u, delta, a, b, c, d, delta_bias; delta_softplus: bool
    => u of u.clone()
}

operation! {
    Scan2dOps::scan_2d => Scan2dGradOps::scan_2d_backward -> Scan2dGrads (Scan2dGradsMetadata) by Scan2dNode,
    [6] x, projections, dt_weight, dt_bias, a_logs, d; routes: Vec<Route>
    => x of x.clone()
}

/// Selective scan over sequences.
///
/// - `u`, `delta`: `[batch, groups * channels, length]`, the input and the step sizes before bias and softplus; these and `b` and `c` are
///   of one type
/// - `a`: `[groups * channels, state]`, negative for a decaying state
/// - `b`, `c`: `[batch, groups, state, length]`, shared by the channels of a group
/// - `d`, `delta_bias`: `[groups * channels]`
/// - `delta_softplus`: whether `softplus(delta + delta_bias)` is the step size, or `delta + delta_bias` itself
///
/// Returns `[batch, groups * channels, length]`. Gradients of every input.
///
/// # Panics
/// When the shapes do not fit together.
pub fn selective_scan(
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
    assert_eq!(delta.dims(), u.dims(), "selective_scan: delta and u differ in shape");
    assert_eq!(a.dims(), [rows, state], "selective_scan: a must be [groups * channels, state]");
    assert_eq!(b.dims(), [batch, groups, state, length], "selective_scan: b must be [batch, groups, state, length]");
    assert_eq!(c.dims(), b.dims(), "selective_scan: b and c differ in shape");
    assert!(groups > 0 && rows % groups == 0, "selective_scan: {rows} rows do not divide into {groups} groups");
    if is_narrow(&u) {
        let [b, c] = [b, c].map(widened);
        return in_float32(u, |u| selective_scan(u, widened(delta), a, b, c, d, delta_bias, delta_softplus));
    }
    if !has_kernel(&u) {
        return reference::selective_scan(u, delta, a, b, c, d, delta_bias, delta_softplus);
    }
    let device = u.device();
    let d = d.unwrap_or_else(|| Tensor::zeros([rows], &device));
    let delta_bias = delta_bias.unwrap_or_else(|| Tensor::zeros([rows], &device));
    Tensor::from_dispatch(<Dispatch as ScanOps>::scan(
        u.into_dispatch(),
        delta.into_dispatch(),
        a.into_dispatch(),
        b.into_dispatch(),
        c.into_dispatch(),
        d.into_dispatch(),
        delta_bias.into_dispatch(),
        delta_softplus,
    ))
}

/// The selective scan of SS2D over the routes of an image, from the projections to the merged output.
///
/// - `x`: `[batch, height, width, channels]`, of the type of `projections`
/// - `projections`: `[batch, height, width, K * (rank + 2 * state)]`; for each of the `K` routes the low-rank step size (`rank`), then
///   `B` (`state`), then `C` (`state`): the product of `x` with the official `x_proj_weight`
/// - `dt_weight`: `[K, channels, rank]` and `dt_bias`: `[K, channels]`; the step size is `softplus(dt_weight dt + dt_bias)`
/// - `a_logs`: `[K * channels, state]`, `A = -exp(a_logs)`; `d`: `[K * channels]`
/// - `routes`: the `K` routes
///
/// Returns `[batch, height, width, channels]`, the sum over the routes. Gradients of every tensor.
///
/// # Panics
/// When the shapes do not fit together.
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
    assert_eq!(routes.len(), count, "selective_scan_2d: as many routes as groups of weights");
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
