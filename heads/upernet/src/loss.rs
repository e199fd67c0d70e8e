//! Losses and accuracies by mmsegmentation's conventions.

use burn::prelude::*;
use vision_ops::{argmax_channels, cross_entropy_map, resize_bilinear};

/// The label that takes no part in loss and accuracy.
pub const IGNORE_INDEX: i64 = 255;

/// Loss terms of a batch.
#[derive(Debug, Clone)]
pub struct SegmentationLoss {
    /// The sum that is minimised, `[1]`.
    pub total: Tensor<1>,
    /// Cross entropy of the decode head, `[1]`.
    pub decode_ce: Tensor<1>,
    /// Percentage of labelled pixels the decode head gets right.
    pub decode_accuracy: f64,
    /// Cross entropy of the auxiliary head times its weight, `[1]`.
    pub auxiliary_ce: Option<Tensor<1>>,
    /// Percentage of labelled pixels the auxiliary head gets right.
    pub auxiliary_accuracy: Option<f64>,
}

/// Cross entropy and accuracy (percent) of `logits: [batch, classes, h, w]`, resized to `labels: [batch, height, width]`.
///
/// The sum of the loss is divided by *all* pixels, ignored ones included (`avg_non_ignore=False`); the accuracy counts labelled pixels
/// only.
pub(crate) fn loss_and_accuracy(logits: Tensor<4>, labels: &Tensor<3, Int>) -> (Tensor<1>, f64) {
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
    // mmsegmentation adds the machine epsilon of float32 so that a batch without labels has accuracy 0.
    let accuracy = 100.0 * right as f64 / (labelled as f64 + f64::from(f32::EPSILON));
    (cross_entropy_map(logits, labels.clone(), IGNORE_INDEX).mean(), accuracy)
}
