//! RoIAlign on the CPU, channels last. Forward, a task computes a row of bins of a box; backward, a block of channels of all maps.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::bins::{Bin, Roi, RoiSampling};
use super::{RoiAlignGradOps, RoiAlignGrads, RoiAlignOps};
use crate::cpu::simd::{Kernel, dispatch, fma};
use crate::cpu::{SharedMut, contiguous, dims, tensor, values};

/// Channels of a task of the backward pass: four cache lines.
const BLOCK: usize = 64;

impl RoiAlignOps for Flex {
    fn roi_align(features: FloatTensor<Self>, rois: Arc<[Roi]>, sampling: RoiSampling) -> FloatTensor<Self> {
        let features = contiguous(features);
        let [_, height, width, channels] = dims::<4>(&features);
        let map_size = height * width * channels;
        let [rows, columns] = sampling.output;
        let mut y = vec![0.0; rois.len() * rows * columns * channels];
        let axes: Vec<[Vec<Bin>; 2]> = rois.iter().map(|roi| [sampling.bins(roi, 0, height), sampling.bins(roi, 1, width)]).collect();
        y.par_chunks_mut((columns * channels).max(1)).enumerate().for_each(|(task, y)| {
            let (roi, row) = (task / rows, task % rows);
            let [rows, columns] = &axes[roi];
            let map = &values(&features)[rois[roi].image * map_size..][..map_size];
            dispatch(Read { y, map, channels, width, row: &rows[row], columns });
        });
        tensor(y, [rois.len(), rows, columns, channels])
    }
}

impl RoiAlignGradOps for Flex {
    fn roi_align_backward(
        grad: FloatTensor<Self>,
        features: FloatTensor<Self>,
        rois: Arc<[Roi]>,
        sampling: RoiSampling,
    ) -> RoiAlignGrads<Self> {
        let grad = contiguous(grad);
        let shape @ [batch, height, width, channels] = dims::<4>(&features);
        let plane = height * width;
        let bins = sampling.output[0] * sampling.output[1];
        let axes: Vec<(Vec<Bin>, Vec<Bin>)> =
            rois.par_iter().map(|roi| (sampling.bins(roi, 0, height), sampling.bins(roi, 1, width))).collect();
        let grad = values(&grad);
        let mut last = vec![0.0; batch * plane * channels];
        let shared = SharedMut::new(&mut last);
        // Every task adds to its own channels in the order of the boxes, so sums do not depend on the number of threads.
        (0..channels.div_ceil(BLOCK)).into_par_iter().for_each(|block| {
            let first = block * BLOCK;
            let own = BLOCK.min(channels - first);
            dispatch(Scatter { shared, grad, rois: &rois, axes: &axes, channels, first, own, plane, width, bins });
        });
        RoiAlignGrads { features: tensor(last, shape) }
    }
}

/// One row of bins of a box.
struct Read<'a> {
    /// `[columns, channels]`, initialised to 0
    y: &'a mut [f32],
    /// `[height, width, channels]`
    map: &'a [f32],
    channels: usize,
    width: usize,
    row: &'a Bin,
    columns: &'a [Bin],
}

impl Kernel for Read<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { y, map, channels, width, row, columns } = self;
        for (column, sum) in columns.iter().zip(y.chunks_exact_mut(channels.max(1))) {
            for (dy, row_weight) in row.weights.iter().enumerate() {
                let line = &map[((row.first + dy) * width + column.first) * channels..][..column.weights.len() * channels];
                for (value, column_weight) in line.chunks_exact(channels).zip(&column.weights) {
                    let weight = row_weight * column_weight;
                    for (sum, value) in sum.iter_mut().zip(value) {
                        *sum = fma::<FMA>(weight, *value, *sum);
                    }
                }
            }
        }
    }
}

/// The gradients of all boxes with respect to a block of channels of the maps.
struct Scatter<'a> {
    /// `[batch, height, width, channels]`
    shared: SharedMut,
    /// `[rois, bins, channels]`
    grad: &'a [f32],
    rois: &'a [Roi],
    axes: &'a [(Vec<Bin>, Vec<Bin>)],
    channels: usize,
    /// First channel of the block.
    first: usize,
    /// Channels of the block.
    own: usize,
    plane: usize,
    width: usize,
    bins: usize,
}

impl Kernel for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { shared, grad, rois, axes, channels, first, own, plane, width, bins } = self;
        for (index, (roi, (rows, columns))) in rois.iter().zip(axes).enumerate() {
            for bin in 0..bins {
                let (row, column) = (&rows[bin / columns.len()], &columns[bin % columns.len()]);
                let grad = &grad[(index * bins + bin) * channels + first..][..own];
                for (dy, row_weight) in row.weights.iter().enumerate() {
                    for (dx, column_weight) in column.weights.iter().enumerate() {
                        let weight = row_weight * column_weight;
                        let cell = roi.image * plane + (row.first + dy) * width + column.first + dx;
                        // SAFETY: rows and columns of the bins are inside the map, and no other task writes these channels.
                        let target = unsafe { shared.block(cell * channels + first, own) };
                        for (target, grad) in target.iter_mut().zip(grad) {
                            *target = fma::<FMA>(weight, *grad, *target);
                        }
                    }
                }
            }
        }
    }
}
