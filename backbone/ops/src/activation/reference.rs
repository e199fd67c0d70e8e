//! The activations composed of Burn's operations, whose gradients are exact on every backend.

use burn::prelude::*;

use super::Activation;
use crate::precision::in_float32;

pub(crate) fn activation<const D: usize>(x: Tensor<D>, kind: Activation) -> Tensor<D> {
    in_float32(x, |x| match kind {
        Activation::Gelu => x.clone() * 0.5 * ((x / std::f64::consts::SQRT_2).erf() + 1.0),
        Activation::Silu => x.clone() / ((-x).exp() + 1.0),
        Activation::Softplus => {
            // The exponential of large values would overflow. Their result is replaced below, so any finite value will do.
            let large = x.clone().greater_scalar(20.0);
            let soft = x.clone().mask_fill(large.clone(), 0.0).exp().log1p();
            soft.mask_where(large, x)
        }
    })
}
