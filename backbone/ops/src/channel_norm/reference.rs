//! LayerNorm composed of Burn's operations.

use burn::prelude::*;

use crate::precision::in_float32;

pub(crate) fn channel_norm<const D: usize>(x: Tensor<D>, weight: Option<Tensor<1>>, bias: Option<Tensor<1>>, eps: f64) -> Tensor<D> {
    in_float32(x, |x| {
        let centred = x.clone() - x.mean_dim(D - 1);
        let variance = centred.clone().square().mean_dim(D - 1);
        let mut y = centred / (variance + eps).sqrt();
        if let Some(weight) = weight {
            y = y * weight.unsqueeze();
        }
        if let Some(bias) = bias {
            y = y + bias.unsqueeze();
        }
        y
    })
}
