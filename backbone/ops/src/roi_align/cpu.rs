//! RoIAlign on the CPU, on channels-last copies of the maps: forward one task a box, backward one task a block of channels.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::{Bin, Roi, RoiAlignGradOps, RoiAlignGrads, RoiAlignOps, RoiSampling};
use crate::flex::{SharedMut, contiguous, dims, tensor, values};
use crate::simd::{Kernel, dispatch, fma};

/// Channels of a task of the backward pass: a cache line times four.
const BLOCK: usize = 64;

/// Boxes that are too few to pay for a copy of the map; they read it as it is.
const FEW: usize = 4;

impl RoiAlignOps for Flex {
    fn roi_align(features: FloatTensor<Self>, rois: Arc<[Roi]>, sampling: RoiSampling) -> FloatTensor<Self> {
        let features = contiguous(features);
        let [_, channels, height, width] = dims::<4>(&features);
        let source = values(&features);
        let plane = height * width;
        let bins = sampling.output[0] * sampling.output[1];
        let mut y = vec![0.0; rois.len() * channels * bins];
        let axes = |roi: &Roi| (sampling.bins(roi, 0, height), sampling.bins(roi, 1, width));
        if rois.len() <= FEW {
            for (roi, y) in rois.iter().zip(y.chunks_exact_mut((channels * bins).max(1))) {
                let (rows, columns) = axes(roi);
                let map = &source[roi.image * channels * plane..][..channels * plane];
                y.par_chunks_mut(bins.max(1)).zip(map.par_chunks(plane.max(1))).for_each(|(y, plane)| {
                    read_plane(y, plane, width, &rows, &columns);
                });
            }
        } else {
            let last = channels_last(source, channels, plane);
            y.par_chunks_mut((channels * bins).max(1)).zip(rois.par_iter()).for_each(|(y, roi)| {
                let (rows, columns) = axes(roi);
                let map = &last[roi.image * channels * plane..][..channels * plane];
                dispatch(Read { y, map, channels, width, rows: &rows, columns: &columns });
            });
        }
        tensor(y, [rois.len(), channels, sampling.output[0], sampling.output[1]])
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
        let shape @ [batch, channels, height, width] = dims::<4>(&features);
        let plane = height * width;
        let bins = sampling.output[0] * sampling.output[1];
        let axes: Vec<(Vec<Bin>, Vec<Bin>)> =
            rois.par_iter().map(|roi| (sampling.bins(roi, 0, height), sampling.bins(roi, 1, width))).collect();
        let grad = channels_last(values(&grad), channels, bins);
        let mut last = vec![0.0; batch * plane * channels];
        let shared = SharedMut::new(&mut last);
        // Every task adds to its own channels, in the order of the boxes: the sums do not depend on the number of threads.
        (0..channels.div_ceil(BLOCK)).into_par_iter().for_each(|block| {
            let first = block * BLOCK;
            let own = BLOCK.min(channels - first);
            dispatch(Scatter { shared, grad: &grad, rois: &rois, axes: &axes, channels, first, own, plane, width, bins });
        });
        RoiAlignGrads { features: tensor(channels_first(&last, channels, plane), shape) }
    }
}

/// `[n, channels, positions]` to `[n, positions, channels]`.
fn channels_last(source: &[f32], channels: usize, positions: usize) -> Vec<f32> {
    transposed(source, channels, positions)
}

/// `[n, positions, channels]` to `[n, channels, positions]`.
fn channels_first(source: &[f32], channels: usize, positions: usize) -> Vec<f32> {
    transposed(source, positions, channels)
}

/// `[n, rows, columns]` to `[n, columns, rows]`, in tiles that stay in the cache.
fn transposed(source: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 16;
    let mut target = vec![0.0; source.len()];
    if source.is_empty() {
        return target;
    }
    let matrix = rows * columns;
    // A task makes a band of rows of one result.
    let bands = columns.div_ceil(TILE);
    let shared = SharedMut::new(&mut target);
    (0..source.len() / matrix * bands).into_par_iter().for_each(|task| {
        let (n, first) = (task / bands, task % bands * TILE);
        let height = TILE.min(columns - first);
        let source = &source[n * matrix..][..matrix];
        // SAFETY: the bands of all tasks are disjoint and inside `target`.
        let target = unsafe { shared.block(n * matrix + first * rows, height * rows) };
        for begin in (0..rows).step_by(TILE) {
            for row in begin..rows.min(begin + TILE) {
                let line = &source[row * columns + first..][..height];
                for (column, value) in line.iter().enumerate() {
                    target[column * rows + row] = *value;
                }
            }
        }
    });
    target
}

/// One channel of one box, from a plane as it is.
fn read_plane(y: &mut [f32], plane: &[f32], width: usize, rows: &[Bin], columns: &[Bin]) {
    for (row, y) in rows.iter().zip(y.chunks_exact_mut(columns.len().max(1))) {
        for (column, y) in columns.iter().zip(y) {
            for (dy, weight) in row.weights.iter().enumerate() {
                let line = &plane[(row.first + dy) * width + column.first..][..column.weights.len()];
                *y += weight * line.iter().zip(&column.weights).map(|(value, weight)| value * weight).sum::<f32>();
            }
        }
    }
}

/// All channels of one box, from a channels-last map.
struct Read<'a> {
    /// `[channels, rows, columns]`
    y: &'a mut [f32],
    /// `[height, width, channels]`
    map: &'a [f32],
    channels: usize,
    width: usize,
    rows: &'a [Bin],
    columns: &'a [Bin],
}

impl Kernel for Read<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { y, map, channels, width, rows, columns } = self;
        let bins = rows.len() * columns.len();
        let mut sums = vec![0.0_f32; bins * channels];
        for (bin, sum) in sums.chunks_exact_mut(channels).enumerate() {
            let (row, column) = (&rows[bin / columns.len()], &columns[bin % columns.len()]);
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
        for (bin, sum) in sums.chunks_exact(channels).enumerate() {
            for (channel, value) in sum.iter().enumerate() {
                y[channel * bins + bin] = *value;
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
    first: usize,
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
