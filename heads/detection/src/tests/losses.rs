//! The losses and the differentiable decoding against references in float64, with gradients.

use burn::prelude::*;

use super::{Numbers, TOLERANCE, assert_close, central_differences, tensor, values};
use crate::box_coder::BoxCoder;
use crate::losses::{giou_loss, smooth_l1};

/// [`crate::giou`] in float64.
pub(super) fn slow_giou(a: &[f64], b: [f32; 4]) -> f64 {
    let b = b.map(f64::from);
    let area = |r: &[f64]| (r[2] - r[0]) * (r[3] - r[1]);
    let overlap = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0) * (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let union = area(a) + area(&b) - overlap;
    let enclosing = (a[2].max(b[2]) - a[0].min(b[0])) * (a[3].max(b[3]) - a[1].min(b[1]));
    overlap / union - (enclosing - union) / enclosing
}

/// [`BoxCoder::decode`] in float64, without clipping.
pub(super) fn slow_decode(coder: &BoxCoder, prior: [f32; 4], deltas: &[f64]) -> [f64; 4] {
    let prior = prior.map(f64::from);
    let (x, y, w, h) = ((prior[0] + prior[2]) / 2.0, (prior[1] + prior[3]) / 2.0, prior[2] - prior[0], prior[3] - prior[1]);
    let delta = |index: usize| deltas[index] * f64::from(coder.target_stds[index]) + f64::from(coder.target_means[index]);
    let limit = 62.5_f64.ln();
    let (x, y) = (x + w * delta(0), y + h * delta(1));
    let (w, h) = (w * delta(2).clamp(-limit, limit).exp(), h * delta(3).clamp(-limit, limit).exp());
    [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]
}

/// The smooth L1 loss of one difference in float64.
pub(super) fn slow_smooth_l1(difference: f64, beta: f64) -> f64 {
    let difference = difference.abs();
    if difference < beta { difference * difference / (2.0 * beta) } else { difference - beta / 2.0 }
}

#[test]
fn smooth_l1_follows_its_definition() {
    let device = Device::flex().autodiff();
    let mut numbers = Numbers::new(1);
    let (at, targets) = (numbers.many(200, -3.0, 3.0), numbers.many(200, -3.0, 3.0));
    for beta in [0.1, 1.0] {
        let slow = |at: &[f64]| at.iter().zip(&targets).map(|(x, t)| slow_smooth_l1(x - f64::from(*t), f64::from(beta))).sum::<f64>();
        let input = tensor(&at, [200], &device).require_grad();
        let loss = smooth_l1(input.clone(), &targets, beta);
        let expected = slow(&at.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        assert_close("loss", &values(loss.clone()), &[expected], TOLERANCE);
        let gradient = input.grad(&loss.backward()).unwrap();
        assert_close("gradient", &values(gradient), &central_differences(&at, slow), 1e-4);
    }
    let none = tensor(&[3.0], [1], &device).require_grad();
    let loss = smooth_l1(none.clone(), &[], 1.0);
    assert_eq!(values(none.grad(&loss.backward()).unwrap()), [0.0], "without targets there is a gradient of zero");
}

#[test]
fn the_giou_loss_follows_its_definition() {
    let device = Device::flex().autodiff();
    let mut numbers = Numbers::new(2);
    let boxes: Vec<[f32; 4]> = (0..40).map(|_| numbers.bbox()).collect();
    // The first target lies inside its box, the second is far away from it; the others are random.
    let mut targets: Vec<[f32; 4]> = (0..40).map(|_| numbers.bbox()).collect();
    targets[0] = [boxes[0][0] + 1.0, boxes[0][1] + 1.0, boxes[0][2] - 1.0, boxes[0][3] - 1.0];
    targets[1] = [500.0, 500.0, 520.0, 510.0];
    let slow = |at: &[f64]| at.chunks(4).zip(&targets).map(|(bbox, target)| 1.0 - slow_giou(bbox, *target)).sum::<f64>();
    let at = boxes.concat();
    let input = tensor(&at, [40, 4], &device).require_grad();
    let loss = giou_loss(input.clone(), &targets);
    assert_close("loss", &values(loss.clone()), &[slow(&at.iter().map(|x| f64::from(*x)).collect::<Vec<_>>())], TOLERANCE);
    let gradient = input.grad(&loss.backward()).unwrap();
    assert_close("gradient", &values(gradient), &central_differences(&at, slow), 1e-4);
    let same = giou_loss(tensor(&boxes[3], [1, 4], &device), &[boxes[3]]);
    assert_close("equal boxes", &values(same), &[0.0], 1e-3);
}

#[test]
fn boxes_decode_the_same_with_and_without_gradients() {
    let device = Device::flex().autodiff();
    let mut numbers = Numbers::new(3);
    for coder in [BoxCoder::RPN, BoxCoder { target_means: [0.1, -0.2, 0.05, 0.3], target_stds: [0.05, 0.05, 0.1, 0.1] }] {
        let priors: Vec<[f32; 4]> = (0..30).map(|_| numbers.bbox()).collect();
        let mut deltas = numbers.many(120, -2.0, 2.0);
        // Beyond the limit of the ratio of sides.
        (deltas[2], deltas[7]) = (80.0, -80.0);
        let input = tensor(&deltas, [30, 4], &device).require_grad();
        let decoded = coder.decode_tensor(&priors, input.clone());
        let plain: Vec<f64> = priors
            .iter()
            .zip(deltas.as_chunks::<4>().0)
            .flat_map(|(prior, deltas)| coder.decode(*prior, *deltas, None))
            .map(f64::from)
            .collect();
        assert_close("boxes", &values(decoded.clone()), &plain, 1e-6);
        let weights = numbers.many(120, -1.0, 1.0);
        let gradient = input.grad(&(decoded * tensor(&weights, [30, 4], &device)).sum().backward()).unwrap();
        let slow = |deltas: &[f64]| -> f64 {
            let boxes = deltas.chunks(4).zip(&priors).flat_map(|(deltas, prior)| slow_decode(&coder, *prior, deltas));
            boxes.zip(&weights).map(|(side, weight)| side * f64::from(*weight)).sum()
        };
        assert_close("gradient", &values(gradient), &central_differences(&deltas, slow), 1e-4);
    }
}
