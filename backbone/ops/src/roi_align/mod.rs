//! Features of boxes: the mean of bilinear samples in every bin of a box (RoIAlign, He et al. 2017; mmcv's `RoIAlign` with mode `avg`).
//!
//! A sample is bilinear in both axes and the samples of a bin lie on a grid, so a bin is a weighted sum over a few rows of a weighted sum
//! over a few columns. The weights are made once a box and axis; the CPU kernel then works on whole channel vectors, the reference
//! multiplies with the weights as dense matrices.

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod reference;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::prelude::*;

use crate::device::has_kernel;
use crate::operation::operation;
use crate::precision::{in_float32, is_narrow};

operation! {
    RoiAlignOps::roi_align => RoiAlignGradOps::roi_align_backward -> RoiAlignGrads (RoiAlignGradsMetadata) by RoiAlignNode,
    [1] features; rois: Arc<[Roi]>, sampling: RoiSampling
    => features of Shape::from([rois.len(), sampling.output[0], sampling.output[1], features[3]])
}

/// A box on one image of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roi {
    /// Index of the image.
    pub image: usize,
    /// `[x0, y0, x1, y1]` in pixels of the network's input; may reach outside.
    pub bbox: [f32; 4],
}

/// How a box is sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiSampling {
    /// Cells of the feature map a pixel: 1 over its stride.
    pub spatial_scale: f32,
    /// `[rows, columns]` of bins.
    pub output: [usize; 2],
    /// Samples a bin along each axis; 0 for as many as the bin has cells, rounded up.
    pub sampling_ratio: usize,
    /// Whether cell centres lie at half pixels, as they should. Otherwise boxes are half a cell off and at least one cell large, as in the
    /// first publication.
    pub aligned: bool,
}

/// Reads the boxes from `features: [batch, channels, height, width]`: `[rois, channels, output[0], output[1]]`. Samples more than a cell
/// outside the map are 0, nearer ones take the border's value.
///
/// On the CPU the work is done channels last, and the result lies so in memory: maps that lie so are not copied.
///
/// # Panics
/// When there is no box, or one is on an image that the batch does not have.
pub fn roi_align(features: Tensor<4>, rois: &[Roi], sampling: RoiSampling) -> Tensor<4> {
    let [batch, ..] = features.dims();
    assert!(!rois.is_empty(), "roi_align: no box");
    assert!(rois.iter().all(|roi| roi.image < batch), "roi_align: a box on image {:?} of {batch}", rois.iter().map(|roi| roi.image).max());
    if is_narrow(&features) {
        return in_float32(features, |features| roi_align(features, rois, sampling));
    }
    if has_kernel(&features) {
        let features = features.permute([0, 2, 3, 1]).into_dispatch();
        Tensor::<4>::from_dispatch(<Dispatch as RoiAlignOps>::roi_align(features, rois.into(), sampling)).permute([0, 3, 1, 2])
    } else {
        reference::roi_align(features, rois, sampling)
    }
}

/// The rows (or columns) a bin reads with their weights; neighbours in the map.
#[derive(Clone, Debug, Default, PartialEq)]
struct Bin {
    first: usize,
    weights: Vec<f32>,
}

impl RoiSampling {
    /// The bins of a box along an axis (0 for rows, 1 for columns) of a map with `cells` cells there. Their weights contain the division by
    /// the number of samples.
    fn bins(&self, roi: &Roi, axis: usize, cells: usize) -> Vec<Bin> {
        let offset = if self.aligned { 0.5 } else { 0.0 };
        let start = roi.bbox[1 - axis] * self.spatial_scale - offset;
        let mut length = roi.bbox[3 - axis] * self.spatial_scale - offset - start;
        if !self.aligned {
            length = length.max(1.0);
        }
        let count = self.output[axis];
        let size = length / count as f32;
        let samples = if self.sampling_ratio > 0 { self.sampling_ratio } else { size.ceil().max(0.0) as usize };
        (0..count)
            .map(|bin| {
                let position = |sample: usize| start + bin as f32 * size + (sample as f32 + 0.5) * size / samples as f32;
                average((0..samples).filter_map(|sample| tap(position(sample), cells)), samples)
            })
            .collect()
    }
}

/// The cells a sample reads and the weight of the second; none when it lies outside.
fn tap(position: f32, cells: usize) -> Option<(usize, usize, f32)> {
    if cells == 0 || !(-1.0..=cells as f32).contains(&position) {
        return None;
    }
    let position = position.max(0.0);
    let low = position as usize;
    Some(if low + 1 >= cells { (cells - 1, cells - 1, 0.0) } else { (low, low + 1, position - low as f32) })
}

/// Sums up the samples of a bin; they come in rising order.
fn average(taps: impl Iterator<Item = (usize, usize, f32)>, samples: usize) -> Bin {
    let mut bin = Bin::default();
    let share = 1.0 / samples.max(1) as f32;
    for (low, high, weight) in taps {
        if bin.weights.is_empty() {
            bin.first = low;
        }
        if bin.weights.len() <= high - bin.first {
            bin.weights.resize(high - bin.first + 1, 0.0);
        }
        bin.weights[low - bin.first] += (1.0 - weight) * share;
        bin.weights[high - bin.first] += weight * share;
    }
    bin
}
