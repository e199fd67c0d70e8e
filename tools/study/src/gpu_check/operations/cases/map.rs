//! Operations on maps `[batch, channels, height, width]`: resizing, scores of classes, features of RoIs.

use burn::prelude::*;
use vision_ops::{
    Operation, Roi, RoiSampling, argmax_channels, argmax_resized, cross_entropy_map, resize_bilinear, roi_align, softmax_channels,
};

use super::{Case, Input, Run, Scores, activation, case, flat, text};

pub(super) fn resizes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, size, align_corners) in [
        ([2, 3, 7, 9], [13, 20], false),
        ([2, 3, 7, 9], [13, 20], true),
        ([1, 19, 8, 11], [4, 5], false),
        ([1, 150, 16, 16], [64, 64], false),
    ] {
        let more = format!("to {}x{}{}", size[0], size[1], if align_corners { ", corners aligned" } else { "" });
        cases.push(case(Operation::ResizeBilinear, text(&shape, &more), vec![activation("x", &shape)], move |t| {
            flat(resize_bilinear(t[0].clone().reshape(shape), size, align_corners))
        }));
    }
    cases
}

pub(super) fn softmaxes() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [[2, 19, 7, 5], [1, 150, 32, 32]] {
        let inputs = vec![Input { spread: 3.0, ..activation("x", &shape) }];
        cases
            .push(case(Operation::SoftmaxChannels, text(&shape, ""), inputs, move |t| flat(softmax_channels(t[0].clone().reshape(shape)))));
    }
    cases
}

pub(super) fn cross_entropies() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [[2, 19, 7, 5], [1, 150, 32, 32]] {
        let [batch, classes, height, width] = shape;
        let inputs = vec![Input { spread: 3.0, ..activation("logits", &shape) }];
        cases.push(case(Operation::CrossEntropyMap, text(&shape, "one label in seven ignored"), inputs, move |t| {
            let label = |pixel: usize| if pixel % 7 == 3 { 255 } else { (pixel * 31 % classes) as i64 };
            let labels: Vec<i64> = (0..batch * height * width).map(label).collect();
            let labels = Tensor::<1, Int>::from_data(labels.as_slice(), &t[0].device()).reshape([batch, height, width]);
            flat(cross_entropy_map(t[0].clone().reshape(shape), labels, 255))
        }));
    }
    cases
}

pub(super) fn argmaxes() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [[2, 19, 7, 5], [1, 150, 32, 33]] {
        let [batch, classes, height, width] = shape;
        let scores = Scores { resized: Box::new(|t| t[0].clone()), batch, classes, pixels: height * width };
        let run = Run::Labels { scores, labels: Box::new(move |t| argmax_channels(t[0].clone().reshape(shape))) };
        let inputs = vec![activation("scores", &shape)];
        cases.push(Case { operation: Operation::ArgmaxChannels, shape: text(&shape, ""), inputs, run, products: Vec::new() });
    }
    cases
}

pub(super) fn resized_argmaxes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, size) in [([1, 7, 5, 9], [11, 13]), ([1, 150, 16, 16], [67, 64])] {
        let resized = move |t: &[Tensor<1>]| flat(resize_bilinear(t[0].clone().reshape(shape), size, false));
        let scores = Scores { resized: Box::new(resized), batch: 1, classes: shape[1], pixels: size[0] * size[1] };
        let run = Run::Labels { scores, labels: Box::new(move |t| argmax_resized(t[0].clone().reshape(shape), size)) };
        let inputs = vec![activation("scores", &shape)];
        let shape = text(&shape, &format!("to {}x{}", size[0], size[1]));
        cases.push(Case { operation: Operation::ArgmaxResized, shape, inputs, run, products: Vec::new() });
    }
    cases
}

pub(super) fn roi_aligns() -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, output, sampling_ratio, count) in [
        ([2, 5, 13, 17], [7, 7], 0, 12),
        ([2, 3, 13, 17], [3, 5], 2, 9),
        ([2, 64, 50, 67], [7, 7], 0, 100),
        ([1, 16, 25, 33], [14, 14], 0, 30),
    ] {
        let more = format!("{count} RoIs to {}x{}, {sampling_ratio} samples", output[0], output[1]);
        cases.push(case(Operation::RoiAlign, text(&shape, &more), vec![activation("features", &shape)], move |t| {
            let sampling = RoiSampling { spatial_scale: 0.25, output, sampling_ratio, aligned: true };
            flat(roi_align(t[0].clone().reshape(shape), &rois(shape, count), sampling))
        }));
    }
    cases
}

/// RoIs of all sizes over the whole map and its borders; the first is a point.
fn rois([batch, _, height, width]: [usize; 4], count: usize) -> Vec<Roi> {
    // The image is four times as large as the map.
    let along = |index: usize, step: usize, cells: usize| (index * step % (4 * cells + 16)) as f32 - 8.0;
    let roi = |index: usize| {
        let [x, y] = [along(index, 37, width), along(index, 53, height)];
        Roi { image: index % batch, bbox: [x, y, x + (index * 11 % 97) as f32 * 0.7, y + (index * 13 % 89) as f32 * 0.9] }
    };
    (0..count).map(roi).collect()
}
