//! Non-maximum suppression on the device.

use burn::prelude::*;
use vision_ops::{Operation, batched_nms_on};

use super::{Case, Input, Run, weight};

/// Enough boxes for the kernel: `batched_nms_on` compares fewer than 2048 boxes on the host.
const COUNTS: [usize; 2] = [300, 2500];

/// An IoU that no pair of boxes with integer corners has, so that rounding does not decide.
const THRESHOLD: f32 = 0.618_034;

/// Suppression of random boxes in three groups.
pub(super) fn suppressions() -> Vec<Case> {
    let case = |count: usize| {
        let corners = Input { spread: 40.0, ..weight("corners", &[count, 2], 0.0) };
        let sides = Input { mean: 40.0, spread: 10.0, ..weight("sides", &[count, 2], 0.0) };
        let kept = move |t: &[Vec<f32>], device: &Device| {
            let corner = |box_: usize, side: usize| t[0][2 * box_ + side].round();
            let length = |box_: usize, side: usize| t[1][2 * box_ + side].abs().round() + 1.0;
            let boxes: Vec<[f32; 4]> =
                (0..count).map(|i| [corner(i, 0), corner(i, 1), corner(i, 0) + length(i, 0), corner(i, 1) + length(i, 1)]).collect();
            let groups: Vec<usize> = (0..count).map(|index| index % 3).collect();
            batched_nms_on(device, &boxes, &t[2], &groups, THRESHOLD)
        };
        Case {
            operation: Operation::BatchedNmsOn,
            shape: format!("{count} boxes"),
            inputs: vec![corners, sides, weight("scores", &[count], 1.0)],
            run: Run::Kept(Box::new(kept)),
            products: Vec::new(),
        }
    };
    COUNTS.map(case).into()
}
