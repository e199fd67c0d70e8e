//! The loss terms, by mmdetection's conventions.

use burn::prelude::*;
use burn::tensor::TensorData;
use burn::tensor::activation::log_softmax;
use vision_ops::softplus;

/// Loss terms of a batch, by mmdetection's names and normalisations.
#[derive(Clone, Debug)]
pub struct DetectionLoss {
    /// The sum that is minimised, `[1]`.
    pub total: Tensor<1>,
    /// Objectness of the sampled anchors, a term a level: binary cross entropy over all sampled anchors.
    pub rpn_cls: Vec<Tensor<1>>,
    /// Boxes of the sampled objects, a term a level: L1 of the offsets over all sampled anchors.
    pub rpn_bbox: Vec<Tensor<1>>,
    /// Classes of the sampled RoIs: mean cross entropy.
    pub cls: Tensor<1>,
    /// Boxes of the sampled objects: L1 of the offsets over all sampled RoIs.
    pub bbox: Tensor<1>,
    /// Masks of the sampled objects: mean binary cross entropy of the pixels of the true class's mask.
    pub mask: Tensor<1>,
    /// Percentage of sampled RoIs whose class is right.
    pub accuracy: f64,
}

/// The sum of the terms.
pub(crate) fn sum(terms: &[Tensor<1>], device: &Device) -> Tensor<1> {
    terms.iter().cloned().reduce(|a, b| a + b).unwrap_or_else(|| Tensor::zeros([1], device))
}

/// Elements of a tensor by their place in row-major order; where none is asked for, the first one, which the losses then weigh 0: so every
/// parameter on the way has a gradient in every step, as in the reference.
pub(crate) fn pick<const D: usize>(values: &Tensor<D>, places: &[usize]) -> Tensor<1> {
    let count: usize = values.dims().iter().product();
    let places: Vec<i64> = if places.is_empty() { vec![0] } else { places.iter().map(|place| *place as i64).collect() };
    let length = places.len();
    values.clone().reshape([count]).select(0, Tensor::from_data(TensorData::new(places, [length]), &values.device()))
}

/// The sum of `term(value, target)`; 0 when there is no target.
fn sum_or_zero(values: Tensor<1>, targets: &[f32], term: impl Fn(Tensor<1>, Tensor<1>) -> Tensor<1>) -> Tensor<1> {
    if targets.is_empty() {
        return values.sum() * 0.0;
    }
    let targets = Tensor::from_data(TensorData::new(targets.to_vec(), [targets.len()]), &values.device());
    term(values, targets).sum()
}

/// The sum of the binary cross entropies of logits against targets of 0 and 1, `[1]`; 0 when there is no target.
pub fn binary_cross_entropy(logits: Tensor<1>, targets: &[f32]) -> Tensor<1> {
    sum_or_zero(logits, targets, |x, t| softplus(x.clone()) - x * t)
}

/// The sum of the absolute differences, `[1]`; 0 when there is no target.
pub fn l1(values: Tensor<1>, targets: &[f32]) -> Tensor<1> {
    sum_or_zero(values, targets, |x, t| (x - t).abs())
}

/// Mean cross entropy of `logits: [rois, classes]`, and the percentage that is right.
pub fn cross_entropy(logits: Tensor<2>, labels: &[usize]) -> (Tensor<1>, f64) {
    let [rois, classes] = logits.dims();
    let places: Vec<usize> = labels.iter().enumerate().map(|(row, label)| row * classes + label).collect();
    let predicted = logits.to_data();
    let predicted = predicted.iter::<f32>().collect::<Vec<_>>();
    let right = predicted.chunks_exact(classes.max(1)).zip(labels).filter(|(row, label)| argmax(row) == **label).count();
    let loss = pick(&log_softmax(logits, 1), &places).sum().neg() / rois.max(1) as f64;
    (loss, 100.0 * right as f64 / rois.max(1) as f64)
}

/// The first largest value.
fn argmax(values: &[f32]) -> usize {
    values.iter().enumerate().fold(0, |best, (index, value)| if *value > values[best] { index } else { best })
}

/// Mean binary cross entropy of `logits: [masks, height, width]` against masks of 0 and 1, as many pixels, `[1]`.
pub fn mask_cross_entropy(logits: Tensor<3>, targets: Vec<f32>) -> Tensor<1> {
    let shape = logits.dims();
    let targets = Tensor::<3>::from_data(TensorData::new(targets, shape), &logits.device());
    (softplus(logits.clone()) - logits * targets).mean()
}
