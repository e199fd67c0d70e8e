//! RoIAlign: the mean of bilinear samples in every bin of a box (He et al. 2017; mmcv's `RoIAlign` with mode `avg`).
//!
//! A sample is bilinear in both axes and the samples of a bin form a grid. So a bin is a weighted sum over a few rows of weighted sums over
//! a few columns. The weights of each axis are computed once for a box (`bins.rs`). The kernels apply them to vectors of channels, the
//! reference multiplies by them as dense matrices. Backward, every cell receives the gradients of the bins that read it, with the same
//! weights; boxes have no gradient.

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

/// The features of boxes on `features: [batch, channels, height, width]`: `[rois, channels, output[0], output[1]]`. Samples more than one
/// cell outside the map are 0; samples nearer to it take the value at the border.
///
/// The kernels work channels last: the memory of the result is channels last, and a map whose memory is channels last is not copied.
///
/// # Panics
/// When `rois` is empty, or a box names an image that is not in the batch.
pub fn roi_align(features: Tensor<4>, rois: &[Roi], sampling: RoiSampling) -> Tensor<4> {
    let [batch, ..] = features.dims();
    assert!(!rois.is_empty(), "roi_align: there are no boxes");
    assert!(
        rois.iter().all(|roi| roi.image < batch),
        "roi_align: a box is on image {:?} of a batch of {batch}",
        rois.iter().map(|roi| roi.image).max()
    );
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
