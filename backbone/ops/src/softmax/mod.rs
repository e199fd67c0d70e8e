//! Softmax over the channels of score maps, segmentation's cross entropy fused with it, and argmax.
//!
//! Backward, for each pixel with `y = softmax(x)`: `dx = y (g - sum(y g))` for softmax, and `dx = g (y - one_hot(label))` for the cross
//! entropy. Both recompute the softmax from the saved input.

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod reference;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::prelude::*;

use crate::device::{has_kernel, is_native};
use crate::operation::operation;
use crate::precision::{in_float32, is_narrow};

operation! {
    SoftmaxOps::channel_softmax => SoftmaxGradOps::channel_softmax_backward -> SoftmaxGrads (SoftmaxGradsMetadata) by SoftmaxNode,
    [1] x
    => x of x.clone()
}

operation! {
    CrossEntropyOps::cross_entropy => CrossEntropyGradOps::cross_entropy_backward -> CrossEntropyGrads (CrossEntropyGradsMetadata) by CrossEntropyNode,
    [1] logits; targets: Arc<Vec<u32>>
    => logits of Shape::from([logits[0], logits[2], logits[3]])
}

/// The target of an ignored pixel in the kernels.
const IGNORED: u32 = u32::MAX;

/// Softmax over the channels (axis 1) of `x: [batch, channels, height, width]`.
pub fn softmax_channels(x: Tensor<4>) -> Tensor<4> {
    if is_narrow(&x) {
        return in_float32(x, softmax_channels);
    }
    if has_kernel(&x) {
        Tensor::from_dispatch(<Dispatch as SoftmaxOps>::channel_softmax(x.into_dispatch()))
    } else {
        reference::softmax_channels(x)
    }
}

/// Cross entropy of every pixel, `ln sum_c exp(logits_c) - logits_label` (`torch.nn.functional.cross_entropy(reduction="none")`).
///
/// - `logits`: `[batch, classes, height, width]`
/// - `labels`: `[batch, height, width]`, class indices or `ignore_index`
///
/// Returns `[batch, height, width]`; ignored pixels have loss and gradient 0.
///
/// # Panics
/// When the shapes differ, or a label is neither a class nor `ignore_index`. On devices without kernels the labels are not checked.
pub fn cross_entropy_map(logits: Tensor<4>, labels: Tensor<3, Int>, ignore_index: i64) -> Tensor<3> {
    let [batch, classes, height, width] = logits.dims();
    assert_eq!(labels.dims(), [batch, height, width], "cross_entropy_map: labels must have the logits' [batch, height, width]");
    if is_narrow(&logits) {
        return in_float32(logits, |logits| cross_entropy_map(logits, labels, ignore_index));
    }
    if !has_kernel(&logits) {
        return reference::cross_entropy_map(logits, labels, ignore_index);
    }
    let targets = labels
        .into_data()
        .iter::<i64>()
        .map(|label| match u32::try_from(label) {
            _ if label == ignore_index => IGNORED,
            Ok(class) if (class as usize) < classes => class,
            _ => panic!("cross_entropy_map: label {label} is neither one of the {classes} classes nor the ignored label {ignore_index}"),
        })
        .collect();
    let loss = <Dispatch as CrossEntropyOps>::cross_entropy(logits.into_dispatch(), Arc::new(targets));
    Tensor::from_dispatch(loss)
}

/// The channel with the largest score at every pixel of `scores: [batch, channels, height, width]`, read back to the host:
/// `batch * height * width` indices in raster order. Ties give the lowest index.
pub fn argmax_channels(scores: Tensor<4>) -> Vec<u32> {
    let [batch, channels, height, width] = scores.dims();
    if is_native(&scores) {
        let data = scores.detach().into_data();
        // The CPU kernels take float32 only.
        match data.as_slice::<f32>() {
            Ok(values) => cpu::argmax(values, [batch, channels, height, width]),
            Err(_) => cpu::argmax(&data.iter::<f32>().collect::<Vec<_>>(), [batch, channels, height, width]),
        }
    } else {
        scores.argmax(1).into_data().iter::<u32>().collect()
    }
}
