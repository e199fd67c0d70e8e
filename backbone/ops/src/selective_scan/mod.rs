//! Selective scan over sequences, the recurrence of Mamba (the official VMamba code's `selective_scan_torch`).
//!
//! For one channel with `N` states, inputs `u_t`, step sizes `delta_t > 0` and `A < 0`:
//!
//! ```text
//! h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t        N states
//! y_t = C_t . h_t + D u_t
//! ```
//!
//! The backward pass runs the adjoint recurrence from the last step to the first, with `g_t` the gradient of `h_t`:
//!
//! ```text
//! g_t = C_t dy_t + exp(delta_{t+1} A) g_{t+1}
//! du_t = delta_t B_t . g_t + D dy_t       dB_t = delta_t u_t g_t       dC_t = dy_t h_t
//! ddelta_t = g_t . (A exp(delta_t A) h_{t-1} + B_t u_t)                dA = sum_t delta_t exp(delta_t A) h_{t-1} g_t
//! ```
//!
//! It stores only the states between chunks and recomputes the states inside a chunk.

mod cpu;
#[cfg(feature = "cube")]
pub(crate) mod cube;
pub(crate) mod recurrence;
pub(crate) mod reference;
#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
use burn::prelude::*;

use crate::arguments::assert_vector;
use crate::device::has_kernel;
use crate::operation::operation;
use crate::precision::{in_float32, is_narrow, widened};

operation! {
    ScanOps::scan => ScanGradOps::scan_backward -> ScanGrads (ScanGradsMetadata) by ScanNode,
    [7] u, delta, a, b, c, d, delta_bias; delta_softplus: bool
    => u of u.clone()
}

/// Selective scan over sequences.
///
/// - `u`, `delta`: `[batch, groups * channels, length]`, the input and the step sizes before bias and softplus
/// - `a`: `[groups * channels, state]`, negative for a decaying state
/// - `b`, `c`: `[batch, groups, state, length]`, shared by the channels of a group; of the type of `u` and `delta`
/// - `d`, `delta_bias`: `[groups * channels]`; 0 if `None`
/// - `delta_softplus`: whether the step size is `softplus(delta + delta_bias)` instead of `delta + delta_bias`
///
/// Returns `[batch, groups * channels, length]`. Every input has a gradient.
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
    assert_vector("selective_scan", "vector d", d.as_ref(), rows);
    assert_vector("selective_scan", "vector delta_bias", delta_bias.as_ref(), rows);
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
