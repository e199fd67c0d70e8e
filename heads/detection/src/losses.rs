//! Loss terms, as mmdetection computes them.

use burn::prelude::*;
use burn::tensor::TensorData;
use burn::tensor::activation::log_softmax;
use serde::{Deserialize, Serialize};
use vision_ops::softplus;

use crate::boxes::EPSILON;

/// The loss between predicted and true deltas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum DeltaLoss {
    /// Absolute difference.
    #[default]
    L1,
    /// Smooth L1 loss.
    SmoothL1 {
        /// Absolute difference at which the loss turns from quadratic to linear.
        beta: f32,
    },
}

impl DeltaLoss {
    /// The sum of the losses, `[1]`; 0 without targets.
    pub fn sum(self, values: Tensor<1>, targets: &[f32]) -> Tensor<1> {
        match self {
            Self::L1 => l1(values, targets),
            Self::SmoothL1 { beta } => smooth_l1(values, targets, beta),
        }
    }
}

/// Elements of a tensor by their index in row-major order, `[places]`. With no index the result is the first element; the losses multiply
/// it by zero, so that every parameter has a gradient in every step, as in mmdetection.
pub(crate) fn pick<const D: usize>(values: &Tensor<D>, places: &[usize]) -> Tensor<1> {
    let count: usize = values.dims().iter().product();
    let places: Vec<i64> = if places.is_empty() { vec![0] } else { places.iter().map(|place| *place as i64).collect() };
    let length = places.len();
    values.clone().reshape([count]).select(0, Tensor::from_data(TensorData::new(places, [length]), &values.device()))
}

/// The sum of `term(value, target)`; 0 without targets.
fn sum_or_zero(values: Tensor<1>, targets: &[f32], term: impl Fn(Tensor<1>, Tensor<1>) -> Tensor<1>) -> Tensor<1> {
    if targets.is_empty() {
        return values.sum() * 0.0;
    }
    let targets = Tensor::from_data(TensorData::new(targets.to_vec(), [targets.len()]), &values.device());
    term(values, targets).sum()
}

/// The sum of the binary cross entropies of logits against targets of 0 and 1, `[1]`; 0 without targets.
pub fn binary_cross_entropy(logits: Tensor<1>, targets: &[f32]) -> Tensor<1> {
    sum_or_zero(logits, targets, |x, t| softplus(x.clone()) - x * t)
}

/// The sum of the absolute differences, `[1]`; 0 without targets.
pub fn l1(values: Tensor<1>, targets: &[f32]) -> Tensor<1> {
    sum_or_zero(values, targets, |x, t| (x - t).abs())
}

/// The sum of the smooth L1 losses, `[1]`: `d² / (2 beta)` for an absolute difference `d < beta`, else `d - beta / 2`; 0 without targets.
/// `beta` is positive.
pub fn smooth_l1(values: Tensor<1>, targets: &[f32], beta: f32) -> Tensor<1> {
    sum_or_zero(values, targets, |x, t| {
        let difference = (x - t).abs();
        // With c = min(d, beta) both branches are c (d - c / 2) / beta.
        let capped = difference.clone().clamp_max(beta);
        capped.clone() * (difference - capped * 0.5) / beta
    })
}

/// The sum of `1 - GIoU` of boxes `[boxes, 4]` against target boxes, one for each row, `[1]` (mmdetection's `GIoULoss`).
///
/// # Panics
/// When there are not as many targets as rows, or none.
pub fn giou_loss(boxes: Tensor<2>, targets: &[[f32; 4]]) -> Tensor<1> {
    let count = targets.len();
    assert!(count > 0 && boxes.dims() == [count, 4], "giou_loss: one target for each row");
    let targets = Tensor::<2>::from_data(TensorData::new(targets.concat(), [count, 4]), &boxes.device());
    let corner = |boxes: &Tensor<2>, index: usize| boxes.clone().narrow(1, index, 2);
    let area = |sides: Tensor<2>| sides.clone().narrow(1, 0, 1) * sides.narrow(1, 1, 1);
    let own = area(corner(&boxes, 2) - corner(&boxes, 0));
    let other = area(corner(&targets, 2) - corner(&targets, 0));
    let first = [corner(&boxes, 0), corner(&targets, 0)];
    let last = [corner(&boxes, 2), corner(&targets, 2)];
    let larger = |[a, b]: [Tensor<2>; 2]| a.max_pair(b);
    let smaller = |[a, b]: [Tensor<2>; 2]| a.min_pair(b);
    let overlap = area((smaller(last.clone()) - larger(first.clone())).clamp_min(0.0));
    let union = (own + other - overlap.clone()).clamp_min(EPSILON);
    let enclosing = area((larger(last) - smaller(first)).clamp_min(0.0)).clamp_min(EPSILON);
    let giou = overlap / union.clone() - (enclosing.clone() - union) / enclosing;
    (giou.neg() + 1.0).sum()
}

/// Mean cross entropy of `logits: [rois, classes]` against one class index for each row, `[1]`, and the percentage of rows whose largest
/// logit is the label's.
pub fn cross_entropy(logits: Tensor<2>, labels: &[usize]) -> (Tensor<1>, f64) {
    let [rois, classes] = logits.dims();
    let places: Vec<usize> = labels.iter().enumerate().map(|(row, label)| row * classes + label).collect();
    let predicted = logits.to_data();
    let predicted = predicted.iter::<f32>().collect::<Vec<_>>();
    let right = predicted.chunks_exact(classes.max(1)).zip(labels).filter(|(row, label)| argmax(row) == **label).count();
    let loss = pick(&log_softmax(logits, 1), &places).sum().neg() / rois.max(1) as f64;
    (loss, 100.0 * right as f64 / rois.max(1) as f64)
}

/// The index of the largest value. Ties go to the lower index.
pub(crate) fn argmax(values: &[f32]) -> usize {
    values.iter().enumerate().fold(0, |best, (index, value)| if *value > values[best] { index } else { best })
}

/// Mean binary cross entropy of `logits: [masks, height, width]` against as many pixels of 0 and 1, row-major, `[1]`.
pub fn mask_cross_entropy(logits: Tensor<3>, targets: Vec<f32>) -> Tensor<1> {
    let shape = logits.dims();
    let targets = Tensor::<3>::from_data(TensorData::new(targets, shape), &logits.device());
    (softplus(logits.clone()) - logits * targets).mean()
}
