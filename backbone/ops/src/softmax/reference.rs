//! Softmax and cross entropy composed of Burn's operations.

use burn::prelude::*;

use crate::precision::in_float32;

pub(crate) fn softmax_channels(x: Tensor<4>) -> Tensor<4> {
    in_float32(x, |x| {
        let e = (x.clone() - x.max_dim(1)).exp();
        e.clone() / e.sum_dim(1)
    })
}

pub(crate) fn cross_entropy_map(logits: Tensor<4>, labels: Tensor<3, Int>, ignore_index: i64) -> Tensor<3> {
    let [batch, _, height, width] = logits.dims();
    let ignored = labels.clone().equal_scalar(ignore_index);
    let index = labels.mask_fill(ignored.clone(), 0).reshape([batch, 1, height, width]);
    in_float32(logits, |logits| {
        // The shift by the maximum cancels in the loss, so it needs no gradient.
        let shifted = logits.clone() - logits.detach().max_dim(1);
        let loss = shifted.clone().exp().sum_dim(1).log() - shifted.gather(1, index);
        loss.reshape([batch, height, width]).mask_fill(ignored, 0.0)
    })
}
