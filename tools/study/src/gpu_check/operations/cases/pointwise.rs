//! Activation functions and norms.

use burn::prelude::*;
use vision_ops::{Operation, batch_norm, channel_norm};

use super::{Case, Input, activation, case, flat, text, weight};

/// The cases of an elementwise activation function.
pub(super) fn activations(operation: Operation, function: fn(Tensor<4>) -> Tensor<4>) -> Vec<Case> {
    let case = |shape: [usize; 4]| {
        // The spread reaches the tails, where softplus is linear. A single value in a tail would make the relative error meaningless.
        let (mean, spread) = if shape == [1; 4] { (1.0, 0.1) } else { (0.0, 8.0) };
        let inputs = vec![Input { mean, spread, ..activation("x", &shape) }];
        case(operation, text(&shape, ""), inputs, move |t| flat(function(t[0].clone().reshape(shape))))
    };
    [[2, 7, 5, 3], [1, 1, 1, 1], [2, 28, 28, 96]].map(case).into()
}

pub(super) fn channel_norms() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, affine) in [([3, 5, 7, 33], true), ([2, 28, 28, 96], true), ([1, 7, 7, 768], true), ([2, 5, 3, 40], false)] {
        let channels = shape[3];
        let mut inputs = vec![Input { mean: 0.5, spread: 2.0, ..activation("x", &shape) }];
        if affine {
            inputs.extend([Input { mean: 1.0, ..weight("weight", &[channels], 0.3) }, weight("bias", &[channels], 0.3)]);
        }
        let more = if affine { "" } else { "no weight, no bias" };
        cases.push(case(Operation::ChannelNorm, text(&shape, more), inputs, move |t| {
            flat(channel_norm(t[0].clone().reshape(shape), t.get(1).cloned(), t.get(2).cloned(), 1e-5))
        }));
    }
    cases
}

pub(super) fn batch_norms() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [[3, 5, 7, 33], [2, 28, 28, 96], [8, 7, 7, 512]] {
        let channels = shape[3];
        let x = Input { mean: 0.5, spread: 2.0, ..activation("x", &shape) };
        let inputs = vec![x, Input { mean: 1.0, ..weight("weight", &[channels], 0.3) }, weight("bias", &[channels], 0.3)];
        cases.push(case(Operation::BatchNorm, text(&shape, ""), inputs, move |t| {
            flat(batch_norm(t[0].clone().reshape(shape), t[1].clone(), t[2].clone(), 1e-5).output)
        }));
    }
    cases
}
