//! RoIAlign as products with dense interpolation matrices.

use burn::prelude::*;
use burn::tensor::TensorData;

use super::bins::{Bin, Roi, RoiSampling};
use crate::precision::in_float32;

pub(super) fn roi_align(features: Tensor<4>, rois: &[Roi], sampling: RoiSampling) -> Tensor<4> {
    let [_, channels, height, width] = features.dims();
    let device = features.device();
    let matrix = |bins: &[Bin], cells: usize| {
        let mut values = vec![0.0; bins.len() * cells];
        for (row, bin) in values.chunks_exact_mut(cells.max(1)).zip(bins) {
            row[bin.first..bin.first + bin.weights.len()].copy_from_slice(&bin.weights);
        }
        Tensor::<2>::from_data(TensorData::new(values, [bins.len(), cells]), &device).unsqueeze::<3>()
    };
    let read = |features: &Tensor<4>, roi: &Roi| {
        let map: Tensor<3> = features.clone().narrow(0, roi.image, 1).reshape([channels, height, width]);
        let rows = matrix(&sampling.bins(roi, 0, height), height).expand([channels, sampling.output[0], height]);
        let columns = matrix(&sampling.bins(roi, 1, width), width).expand([channels, sampling.output[1], width]);
        rows.matmul(map).matmul(columns.swap_dims(1, 2)).unsqueeze::<4>()
    };
    in_float32(features, |features| Tensor::cat(rois.iter().map(|roi| read(&features, roi)).collect(), 0))
}
