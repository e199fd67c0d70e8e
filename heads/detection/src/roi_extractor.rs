//! Features of RoIs, each read from the level that suits its size (mmdetection's `SingleRoIExtractor`).

use burn::prelude::*;
use burn::tensor::TensorData;
use vision_ops::{Roi, RoiSampling, roi_align};

/// RoIs with sides below twice this, in pixels, are read from the finest level.
const FINEST_SCALE: f32 = 56.0;

/// The level, of `levels`, that a RoI `[x0, y0, x1, y1]` is read from: every doubling of its side goes one level coarser.
pub fn roi_level([x0, y0, x1, y1]: [f32; 4], levels: usize) -> usize {
    let side = ((x1 - x0) * (y1 - y0)).sqrt();
    // `max` takes small boxes, and a NaN, to level 0.
    ((side / FINEST_SCALE + 1e-6).log2().floor().max(0.0) as usize).min(levels.saturating_sub(1))
}

/// Reads square features of RoIs by RoIAlign.
#[derive(Clone, Debug, PartialEq)]
pub struct RoiExtractor {
    /// Strides of the levels that are read, in pixels of the network's input.
    pub strides: Vec<usize>,
    /// Side of the features, in cells.
    pub size: usize,
}

impl RoiExtractor {
    /// Features `[rois, channels, size, size]` from pyramid levels `[batch, channels, height, width]`, the finest first. Levels beyond
    /// `strides` are not read.
    ///
    /// # Panics
    /// When there is no RoI.
    pub fn forward(&self, levels: &[Tensor<4>], rois: &[Roi]) -> Tensor<4> {
        assert!(!rois.is_empty(), "RoiExtractor: at least one RoI");
        let count = self.strides.len().min(levels.len());
        let mut order = Vec::with_capacity(rois.len());
        let mut parts = Vec::new();
        for (level, (features, stride)) in levels.iter().zip(&self.strides).enumerate() {
            let members: Vec<usize> = (0..rois.len()).filter(|roi| roi_level(rois[*roi].bbox, count) == level).collect();
            if !members.is_empty() {
                let own: Vec<Roi> = members.iter().map(|roi| rois[*roi]).collect();
                let sampling =
                    RoiSampling { spatial_scale: 1.0 / *stride as f32, output: [self.size; 2], sampling_ratio: 0, aligned: true };
                parts.push(roi_align(features.clone(), &own, sampling));
                order.extend(members);
            }
        }
        let sorted = order.is_sorted();
        let joined = Tensor::cat(parts, 0);
        if sorted {
            return joined;
        }
        let mut place = vec![0_i64; order.len()];
        order.iter().enumerate().for_each(|(at, roi)| place[*roi] = at as i64);
        let count = place.len();
        let device = joined.device();
        joined.select(0, Tensor::from_data(TensorData::new(place, [count]), &device))
    }
}
