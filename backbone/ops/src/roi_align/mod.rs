//! Features of boxes: the mean of bilinear samples in every bin of a box (RoIAlign, He et al. 2017; mmcv's `RoIAlign` with mode `avg`).
//!
//! A sample is bilinear in both axes and the samples of a bin lie on a grid, so a bin is a weighted sum over a few rows of a weighted sum
//! over a few columns. The weights are made once a box and axis; the CPU kernel then works on whole channel vectors, the reference
//! multiplies with the weights as dense matrices.

mod bins;
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

pub use bins::{Roi, RoiSampling};

operation! {
    RoiAlignOps::roi_align => RoiAlignGradOps::roi_align_backward -> RoiAlignGrads (RoiAlignGradsMetadata) by RoiAlignNode,
    [1] features; rois: Arc<[Roi]>, sampling: RoiSampling
    => features of Shape::from([rois.len(), sampling.output[0], sampling.output[1], features[3]])
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
