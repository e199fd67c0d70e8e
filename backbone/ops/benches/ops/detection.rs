//! RoIAlign, non-maximum suppression and mask pasting for a photo of 800x1333 pixels.

use burn::prelude::*;
use divan::Bencher;
use vision_ops::{Roi, RoiSampling, nms, paste_mask, roi_align};

use crate::{backward, cpu, parameter, random};

/// The pyramid level of stride 4.
const MAP: [usize; 4] = [1, 256, 200, 334];
const ROIS: usize = 1000;

/// Reproducible pseudo-random values in [0, 1).
fn fractions(count: usize) -> Vec<f32> {
    let mut state = 12_345_u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..count).map(next).collect()
}

/// Boxes of 16 to 112 pixels, which belong to the finest level.
fn boxes(count: usize) -> Vec<[f32; 4]> {
    let numbers = fractions(count * 4);
    let of = |r: &[f32; 4]| {
        let (x, y) = (r[0] * 1220.0, r[1] * 690.0);
        [x, y, x + 16.0 + r[2] * 96.0, y + 16.0 + r[3] * 96.0]
    };
    numbers.as_chunks::<4>().0.iter().map(of).collect()
}

fn rois() -> Vec<Roi> {
    boxes(ROIS).into_iter().map(|bbox| Roi { image: 0, bbox }).collect()
}

fn sampling(side: usize) -> RoiSampling {
    RoiSampling { spatial_scale: 0.25, output: [side; 2], sampling_ratio: 0, aligned: true }
}

#[divan::bench(args = [7, 14], sample_count = 10)]
fn roi_align_forward(bencher: Bencher, side: usize) {
    let (map, rois) = (random(MAP, &cpu()), rois());
    bencher.bench_local(|| roi_align(map.clone(), &rois, sampling(side)));
}

/// The same amount of work by Burn's operations: a slice and two matrix products for each box.
#[divan::bench(args = [7], sample_count = 3)]
fn roi_align_forward_of_burn(bencher: Bencher, side: usize) {
    let (map, rois) = (random(MAP, &cpu()), rois());
    let [_, channels, height, width] = MAP;
    let weights = |count: usize, cells: usize| Tensor::<2>::ones([count, cells], &cpu()) / cells as f32;
    bencher.bench_local(|| {
        let read = |roi: &Roi| {
            let [x0, y0, x1, y1] = roi.bbox.map(|side| (side * 0.25) as usize);
            let (w, h) = ((x1 + 1).min(width) - x0, (y1 + 1).min(height) - y0);
            let window: Tensor<3> = map.clone().narrow(2, y0, h).narrow(3, x0, w).reshape([channels, h, w]);
            weights(side, h).unsqueeze::<3>().matmul(window).matmul(weights(w, side).unsqueeze::<3>())
        };
        rois.iter().map(read).collect::<Vec<_>>()
    });
}

#[divan::bench(args = [7, 14], sample_count = 10)]
fn roi_align_backward(bencher: Bencher, side: usize) {
    let (map, rois) = (parameter(MAP), rois());
    backward(bencher, || roi_align(map.clone(), &rois, sampling(side)).sum());
}

#[divan::bench(args = [8000], sample_count = 20)]
fn nms_of_boxes(bencher: Bencher, count: usize) {
    let (boxes, scores) = (boxes(count), fractions(count));
    bencher.bench_local(|| nms(&boxes, &scores, 0.7));
}

/// Large objects: sides of 100 to 700 pixels.
#[divan::bench(args = [100], sample_count = 20)]
fn paste_masks(bencher: Bencher, count: usize) {
    let numbers = fractions(count * 4);
    let masks: Vec<Vec<f32>> = (0..count).map(|_| fractions(28 * 28)).collect();
    let boxes: Vec<[f32; 4]> = numbers
        .as_chunks::<4>()
        .0
        .iter()
        .map(|r| [r[0] * 600.0, r[1] * 300.0, r[0] * 600.0 + 100.0 + r[2] * 600.0, r[1] * 300.0 + 100.0 + r[3] * 400.0])
        .collect();
    bencher.bench_local(|| {
        let paste = |(mask, bbox): (&Vec<f32>, &[f32; 4])| paste_mask(mask, 28, *bbox, [800, 1333], 0.5);
        masks.iter().zip(&boxes).map(paste).collect::<Vec<_>>()
    });
}
