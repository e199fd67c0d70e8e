//! Cross entropy and accuracy, as mmsegmentation computes them.

use burn::prelude::*;
use vision_ops::{argmax_channels, cross_entropy_map, resize_bilinear};

use crate::segmentor::IGNORE_INDEX;

/// Cross entropy `[1]` and accuracy in percent of `logits: [batch, classes, h, w]`, resized to `labels: [batch, height, width]`.
///
/// The sum of the loss is divided by the number of *all* pixels, ignored pixels included (`avg_non_ignore=False`); the accuracy counts
/// labelled pixels only.
pub fn loss_and_accuracy(logits: Tensor<4>, labels: &Tensor<3, Int>) -> (Tensor<1>, f64) {
    let [_, height, width] = labels.dims();
    let logits = resize_bilinear(logits, [height, width], false);
    let predicted = argmax_channels(logits.clone());
    let (mut right, mut labelled) = (0_u64, 0_u64);
    for (label, predicted) in labels.to_data().iter::<i64>().zip(predicted) {
        if label != IGNORE_INDEX {
            labelled += 1;
            right += u64::from(label == i64::from(predicted));
        }
    }
    // mmsegmentation adds the machine epsilon of float32, so that a batch without labels has accuracy 0.
    let accuracy = 100.0 * right as f64 / (labelled as f64 + f64::from(f32::EPSILON));
    (cross_entropy_map(logits, labels.clone(), IGNORE_INDEX).mean(), accuracy)
}
