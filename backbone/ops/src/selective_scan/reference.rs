//! The scan composed of Burn's operations, one step at a time: simple, slow, and differentiable on every backend.

use burn::prelude::*;

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
    // Repeats B or C for the channels of a group: [batch, groups, state, length] to [batch, rows, state, length].
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
