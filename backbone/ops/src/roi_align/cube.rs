//! RoIAlign on GPUs, channels last: a unit computes a vector of channels of one bin (forward) or one cell (backward).
//!
//! The host computes the cells and weights of all bins, because boxes are plain numbers. The gradient of a cell is gathered: each row of
//! cells has a list of the rows of bins that read it. This needs no atomic additions, and sums do not depend on the order of units.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::bins::{Bin, Roi, RoiSampling};
use super::{RoiAlignGradOps, RoiAlignGrads, RoiAlignOps};
use crate::cube::{Rows, cast, cubes, element, empty, upload, vector_size};

/// Numbers of a bin in the table: first cell, number of cells, position of their weights.
const BIN: usize = 3;
/// Numbers of an entry in the list of a row of cells: box, row of bins, bits of the weight.
const ENTRY: usize = 3;

impl RoiAlignOps for CubeBackend {
    fn roi_align(features: FloatTensor<Self>, rois: Arc<[Roi]>, sampling: RoiSampling) -> FloatTensor<Self> {
        let [_, height, width, channels] = features.meta.shape().dims::<4>();
        let features = Rows::new(features);
        let like = &features.tensor;
        let tables = Tables::new(&rois, sampling, [height, width]);
        let [rows, columns] = sampling.output;
        let y = empty(like, [rois.len(), rows, columns, channels], like.dtype);
        let vector = vector_size(&[&features], 4);
        let units = rois.len() * rows * columns * (channels / vector);
        let client = like.client.clone();
        let (count, dim) = cubes(&client, units);
        // SAFETY: surplus units return at once; bins lie inside the map.
        unsafe {
            read::launch_unchecked(
                &client,
                count,
                dim,
                vector,
                like.clone().into_buffer_arg(),
                upload(like, &tables.images).into_buffer_arg(),
                upload(like, &tables.bins).into_buffer_arg(),
                floats(like, &tables.weights).into_buffer_arg(),
                y.clone().into_buffer_arg(),
                height,
                width,
                channels / vector,
                features.pitch / vector,
                units,
                rows,
                columns,
                element(like),
            );
        }
        y
    }
}

impl RoiAlignGradOps for CubeBackend {
    fn roi_align_backward(
        grad: FloatTensor<Self>,
        features: FloatTensor<Self>,
        rois: Arc<[Roi]>,
        sampling: RoiSampling,
    ) -> RoiAlignGrads<Self> {
        let [batch, height, width, channels] = features.meta.shape().dims::<4>();
        let grad = Rows::new(cast(grad, features.dtype));
        let like = &grad.tensor;
        let tables = Tables::new(&rois, sampling, [height, width]);
        let (starts, entries) = tables.rows_of_cells(batch, height);
        let [rows, columns] = sampling.output;
        let dx = empty(like, [batch, height, width, channels], like.dtype);
        let vector = vector_size(&[&grad], 4);
        let units = batch * height * width * (channels / vector);
        let client = like.client.clone();
        let (count, dim) = cubes(&client, units);
        // SAFETY: surplus units return at once; the lists name existing boxes and rows of bins.
        unsafe {
            gather::launch_unchecked(
                &client,
                count,
                dim,
                vector,
                like.clone().into_buffer_arg(),
                upload(like, &starts).into_buffer_arg(),
                upload(like, &entries).into_buffer_arg(),
                upload(like, &tables.spans).into_buffer_arg(),
                upload(like, &tables.bins).into_buffer_arg(),
                floats(like, &tables.weights).into_buffer_arg(),
                dx.clone().into_buffer_arg(),
                width,
                channels / vector,
                grad.pitch / vector,
                units,
                rows,
                columns,
                element(like),
            );
        }
        RoiAlignGrads { features: dx }
    }
}

/// Copies float32 numbers from the host to the device of `like`.
fn floats(like: &CubeTensor, values: &[f32]) -> CubeTensor {
    let bits: Vec<u32> = values.iter().map(|value| value.to_bits()).collect();
    CubeTensor { dtype: DType::F32, ..upload(like, &bits) }
}

/// The bins of all boxes.
struct Tables {
    /// The image of every box.
    images: Vec<u32>,
    /// The range of columns that every box reads, as begin and end.
    spans: Vec<u32>,
    /// `[box, rows of bins then columns of bins, BIN]`.
    bins: Vec<u32>,
    weights: Vec<f32>,
    output: [usize; 2],
}

impl Tables {
    fn new(rois: &[Roi], sampling: RoiSampling, [height, width]: [usize; 2]) -> Self {
        let images = rois.iter().map(|roi| roi.image as u32).collect();
        // Buffers cannot be empty, even if no box reads a cell.
        let mut tables = Self { images, spans: Vec::new(), bins: Vec::new(), weights: vec![0.0], output: sampling.output };
        for roi in rois {
            let columns = sampling.bins(roi, 1, width);
            let reading = || columns.iter().filter(|bin| !bin.weights.is_empty());
            let begin = reading().map(|bin| bin.first).min().unwrap_or(0);
            let end = reading().map(|bin| bin.first + bin.weights.len()).max().unwrap_or(0);
            tables.spans.extend([begin as u32, end as u32]);
            for Bin { first, weights } in sampling.bins(roi, 0, height).iter().chain(&columns) {
                tables.bins.extend([*first as u32, weights.len() as u32, tables.weights.len() as u32]);
                tables.weights.extend(weights);
            }
        }
        tables
    }

    /// For every row of cells of every image, the list of the rows of bins that read it. Returns the start of every list, counted in
    /// entries and followed by the end of the last list, and the entries of all lists.
    fn rows_of_cells(&self, batch: usize, height: usize) -> (Vec<u32>, Vec<u32>) {
        let mut lists: Vec<Vec<[u32; ENTRY]>> = vec![Vec::new(); batch * height];
        let [rows, columns] = self.output;
        for (roi, bins) in self.bins.chunks_exact((rows + columns) * BIN).enumerate() {
            for (row, bin) in bins.chunks_exact(BIN).take(rows).enumerate() {
                for cell in 0..bin[1] {
                    let weight = self.weights[(bin[2] + cell) as usize];
                    let list = self.images[roi] as usize * height + (bin[0] + cell) as usize;
                    lists[list].push([roi as u32, row as u32, weight.to_bits()]);
                }
            }
        }
        let mut starts = vec![0];
        let mut entries: Vec<u32> = Vec::new();
        for list in lists {
            entries.extend(list.iter().flatten());
            starts.push((entries.len() / ENTRY) as u32);
        }
        if entries.is_empty() {
            entries.push(0);
        }
        (starts, entries)
    }
}

#[cube(launch_unchecked)]
fn read<F: Float, V: Size>(
    features: &[Vector<F, V>],
    images: &[u32],
    bins: &[u32],
    weights: &[f32],
    y: &mut [Vector<F, V>],
    height: usize,
    width: usize,
    channels: usize,
    pitch: usize,
    units: usize,
    #[comptime] rows: usize,
    #[comptime] columns: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (channel, rest) = (ABSOLUTE_POS % channels, ABSOLUTE_POS / channels);
    let (column, rest) = (rest % columns, rest / columns);
    let (row, roi) = (rest % rows, rest / rows);
    let table = roi * comptime!((rows + columns) * BIN);
    let vertical = table + row * BIN;
    let horizontal = table + (rows + column) * BIN;
    let first = images[roi] as usize * height + bins[vertical] as usize;
    let (left, count) = (bins[horizontal] as usize, bins[horizontal + 1] as usize);
    let mut sum = Vector::<f32, V>::new(0.0_f32);
    for y in 0..bins[vertical + 1] as usize {
        let weight = weights[bins[vertical + 2] as usize + y];
        let begin = (first + y) * width + left;
        for x in 0..count {
            let value = Vector::<f32, V>::cast_from(features[(begin + x) * pitch + channel]);
            sum = fma(value, Vector::new(weight * weights[bins[horizontal + 2] as usize + x]), sum);
        }
    }
    y[ABSOLUTE_POS] = Vector::cast_from(sum);
}

#[cube(launch_unchecked)]
fn gather<F: Float, V: Size>(
    grad: &[Vector<F, V>],
    starts: &[u32],
    entries: &[u32],
    spans: &[u32],
    bins: &[u32],
    weights: &[f32],
    dx: &mut [Vector<F, V>],
    width: usize,
    channels: usize,
    pitch: usize,
    units: usize,
    #[comptime] rows: usize,
    #[comptime] columns: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (channel, rest) = (ABSOLUTE_POS % channels, ABSOLUTE_POS / channels);
    let (x, line) = ((rest % width) as u32, rest / width);
    let mut sum = Vector::<f32, V>::new(0.0_f32);
    for entry in starts[line] as usize..starts[line + 1] as usize {
        let (roi, row) = (entries[entry * ENTRY] as usize, entries[entry * ENTRY + 1] as usize);
        if x >= spans[roi * 2] && x < spans[roi * 2 + 1] {
            let vertical = f32::from_bits(entries[entry * ENTRY + 2]);
            for column in 0..columns {
                let bin = roi * comptime!((rows + columns) * BIN) + (rows + column) * BIN;
                let first = bins[bin];
                if x >= first && x < first + bins[bin + 1] {
                    let weight = vertical * weights[(bins[bin + 2] + x - first) as usize];
                    let value = Vector::<f32, V>::cast_from(grad[((roi * rows + row) * columns + column) * pitch + channel]);
                    sum = fma(value, Vector::new(weight), sum);
                }
            }
        }
    }
    dx[ABSOLUTE_POS] = Vector::cast_from(sum);
}
