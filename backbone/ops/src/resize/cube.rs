//! Bilinear resize on GPUs: a unit computes a vector of channels of one pixel.
//!
//! To the kernels, a channels-first map is many images of one channel. A map whose memory is channels last is read in that layout, and
//! its result has the same layout. The gradient of an input pixel is gathered from the output pixels that read it, which needs no atomic
//! additions.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{ArgmaxOps, ResizeGradOps, ResizeGrads, ResizeOps};
use crate::cube::{Rows, cast, cubes, element, empty, vector_size};

impl ResizeOps for CubeBackend {
    fn resize(x: FloatTensor<Self>, size: [usize; 2], align_corners: bool) -> FloatTensor<Self> {
        let [_, _, height, width] = x.meta.shape().dims::<4>();
        let map = Map::new(x);
        let y = map.like(size);
        let (grid, vector, units) = map.grid([height, width], size, align_corners, size);
        let (client, dtype) = (y.client.clone(), element(&y));
        let (count, dim) = cubes(&client, units);
        let (from, to) = (map.rows.tensor.clone().into_buffer_arg(), y.clone().into_buffer_arg());
        // SAFETY: surplus units return at once, and neighbours are clamped to the map.
        unsafe { forward::launch_unchecked(&client, count, dim, vector, from, to, grid, units, align_corners, dtype) };
        if map.last { Self::float_permute(y, &[0, 3, 1, 2]) } else { y }
    }
}

impl ResizeGradOps for CubeBackend {
    fn resize_backward(grad: FloatTensor<Self>, x: FloatTensor<Self>, size: [usize; 2], align_corners: bool) -> ResizeGrads<Self> {
        let [_, _, height, width] = x.meta.shape().dims::<4>();
        let map = Map::new(cast(grad, x.dtype));
        let dx = map.like([height, width]);
        let (grid, vector, units) = map.grid([height, width], size, align_corners, [height, width]);
        let (client, dtype) = (dx.client.clone(), element(&dx));
        let (count, dim) = cubes(&client, units);
        let (from, to) = (map.rows.tensor.clone().into_buffer_arg(), dx.clone().into_buffer_arg());
        // SAFETY: surplus units return at once, and reads are limited to pixels of the gradient.
        unsafe { backward::launch_unchecked(&client, count, dim, vector, from, to, grid, units, align_corners, dtype) };
        ResizeGrads { x: if map.last { Self::float_permute(dx, &[0, 3, 1, 2]) } else { dx } }
    }
}

impl ArgmaxOps for CubeBackend {
    fn argmax_of_resized(scores: FloatTensor<Self>, size: [usize; 2]) -> IntTensor<Self> {
        let scores = into_contiguous(scores);
        let [_, channels, height, width] = scores.meta.shape().dims::<4>();
        let labels = empty(&scores, [1, 1, size[0], size[1]], DType::U32);
        let units = size[0] * size[1];
        let (client, dtype) = (scores.client.clone(), element(&scores));
        let (count, dim) = cubes(&client, units);
        // SAFETY: surplus units return at once, and neighbours are clamped to the map.
        unsafe {
            argmax::launch_unchecked(
                &client,
                count,
                dim,
                scores.into_buffer_arg(),
                labels.clone().into_buffer_arg(),
                channels,
                height,
                width,
                size[1],
                scale(height, size[0], false),
                scale(width, size[1], false),
                units,
                dtype,
            );
        }
        labels
    }
}

/// A map as the kernels see it: `[images, height, width, inner]`.
struct Map {
    rows: Rows,
    images: usize,
    inner: usize,
    /// Whether the memory is channels last. Otherwise every channel is an image.
    last: bool,
    batch: usize,
    channels: usize,
}

impl Map {
    /// From a tensor `[batch, channels, height, width]`.
    fn new(x: CubeTensor) -> Self {
        let [batch, channels, height, width] = x.meta.shape().dims::<4>();
        let last = CubeBackend::float_permute(x.clone(), &[0, 2, 3, 1]);
        // A map with one channel or one pixel has both layouts and counts as channels first.
        let is_last = !x.is_contiguous() && channels > 1 && height * width > 1 && last.meta.strides()[3] == 1;
        if is_last {
            return Self { rows: Rows::new(last), images: batch, inner: channels, last: true, batch, channels };
        }
        let flat = CubeBackend::float_reshape(into_contiguous(x), [batch * channels, height, width, 1].into());
        Self { rows: Rows::new(flat), images: batch * channels, inner: 1, last: false, batch, channels }
    }

    /// An uninitialised map of another size in the same layout.
    fn like(&self, [height, width]: [usize; 2]) -> CubeTensor {
        let (batch, channels) = (self.batch, self.channels);
        let shape = if self.last { [batch, height, width, channels] } else { [batch, channels, height, width] };
        empty(&self.rows.tensor, shape, self.rows.tensor.dtype)
    }

    /// For a kernel of the resize from `from` to `to` that reads this map and writes one of size `made`: its sizes, the vector size and the
    /// number of units.
    fn grid(&self, from: [usize; 2], to: [usize; 2], align_corners: bool, made: [usize; 2]) -> (GridLaunch, usize, usize) {
        let vector = vector_size(&[&self.rows], 4);
        let inner = self.inner / vector;
        let scale = |axis: usize| scale(from[axis], to[axis], align_corners);
        let grid = GridLaunch::new(from[0], from[1], to[0], to[1], scale(0), scale(1), inner, self.rows.pitch / vector);
        (grid, vector, self.images * made[0] * made[1] * inner)
    }
}

/// Sizes of a resize that do not require compiling a kernel again. Channels are counted in vectors.
#[derive(CubeType, CubeLaunch)]
struct Grid {
    height: usize,
    width: usize,
    to_height: usize,
    to_width: usize,
    /// Input pixels per output pixel.
    scale_y: f32,
    scale_x: f32,
    /// Channels of a pixel.
    inner: usize,
    /// Distance between pixels of the map that is read.
    pitch: usize,
}

/// Input pixels per output pixel, computed like PyTorch.
fn scale(from: usize, to: usize, align_corners: bool) -> f32 {
    match align_corners {
        true if to > 1 => (from - 1) as f32 / (to - 1) as f32,
        true => 0.0,
        false => from as f32 / to as f32,
    }
}

/// The first of the two neighbours that an output pixel reads along an axis, and the weight of the second.
#[cube]
fn tap(index: usize, from: usize, scale: f32, #[comptime] align_corners: bool) -> (usize, f32) {
    let index = f32::cast_from(index);
    let position = if comptime!(align_corners) { index * scale } else { max(scale * (index + 0.5_f32) - 0.5_f32, 0.0_f32) };
    let low = min(usize::cast_from(position), from - 1);
    (low, position - f32::cast_from(low))
}

/// The range of output pixels that may read input pixel `index`.
#[cube]
fn readers(index: usize, to: usize, scale: f32, #[comptime] align_corners: bool) -> (usize, usize) {
    let shift = if comptime!(align_corners) { 0.0_f32 } else { 0.5_f32 };
    let index = f32::cast_from(index);
    let end = f32::cast_from(to);
    let mut first = 0.0_f32;
    let mut last = end;
    if scale > 0.0_f32 {
        // One pixel more on each side, because of rounding.
        first = min(max((index - 1.0_f32 + shift) / scale - shift - 1.0_f32, 0.0_f32), end);
        last = min(max((index + 1.0_f32 + shift) / scale - shift + 2.0_f32, 0.0_f32), end);
    }
    (usize::cast_from(first), usize::cast_from(last.ceil()))
}

/// The weight with which an output pixel reads input pixel `index`.
#[cube]
fn share(output: usize, index: usize, from: usize, scale: f32, #[comptime] align_corners: bool) -> f32 {
    let (low, weight) = tap(output, from, scale, align_corners);
    let mut share = 0.0_f32;
    if low == index {
        share += 1.0_f32 - weight;
    }
    if min(low + 1, from - 1) == index {
        share += weight;
    }
    share
}

#[cube(launch_unchecked)]
fn forward<F: Float, V: Size>(
    x: &[Vector<F, V>],
    y: &mut [Vector<F, V>],
    grid: Grid,
    units: usize,
    #[comptime] align_corners: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (channel, rest) = (ABSOLUTE_POS % grid.inner, ABSOLUTE_POS / grid.inner);
    let (column, rest) = (rest % grid.to_width, rest / grid.to_width);
    let (row, image) = (rest % grid.to_height, rest / grid.to_height);
    let (top, below) = tap(row, grid.height, grid.scale_y, align_corners);
    let (left, right) = tap(column, grid.width, grid.scale_x, align_corners);
    let bottom = min(top + 1, grid.height - 1);
    let beside = min(left + 1, grid.width - 1);
    let first = image * grid.height;
    let right = Vector::<f32, V>::new(right);
    let below = Vector::<f32, V>::new(below);
    let a = Vector::<f32, V>::cast_from(x[((first + top) * grid.width + left) * grid.pitch + channel]);
    let b = Vector::<f32, V>::cast_from(x[((first + top) * grid.width + beside) * grid.pitch + channel]);
    let c = Vector::<f32, V>::cast_from(x[((first + bottom) * grid.width + left) * grid.pitch + channel]);
    let d = Vector::<f32, V>::cast_from(x[((first + bottom) * grid.width + beside) * grid.pitch + channel]);
    let one = Vector::<f32, V>::new(1.0_f32);
    let above = a * (one - right) + b * right;
    let under = c * (one - right) + d * right;
    y[ABSOLUTE_POS] = Vector::cast_from(above * (one - below) + under * below);
}

#[cube(launch_unchecked)]
fn backward<F: Float, V: Size>(
    grad: &[Vector<F, V>],
    dx: &mut [Vector<F, V>],
    grid: Grid,
    units: usize,
    #[comptime] align_corners: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (channel, rest) = (ABSOLUTE_POS % grid.inner, ABSOLUTE_POS / grid.inner);
    let (column, rest) = (rest % grid.width, rest / grid.width);
    let (row, image) = (rest % grid.height, rest / grid.height);
    let (first_row, last_row) = readers(row, grid.to_height, grid.scale_y, align_corners);
    let (first_column, last_column) = readers(column, grid.to_width, grid.scale_x, align_corners);
    let mut sum = Vector::<f32, V>::new(0.0_f32);
    for y in first_row..last_row {
        let vertical = share(y, row, grid.height, grid.scale_y, align_corners);
        if vertical > 0.0_f32 {
            for x in first_column..last_column {
                let weight = vertical * share(x, column, grid.width, grid.scale_x, align_corners);
                let value = Vector::<f32, V>::cast_from(grad[((image * grid.to_height + y) * grid.to_width + x) * grid.pitch + channel]);
                sum = fma(value, Vector::new(weight), sum);
            }
        }
    }
    dx[ABSOLUTE_POS] = Vector::cast_from(sum);
}

/// One unit for each pixel: the channel with the largest resized score; ties give the lowest.
#[cube(launch_unchecked)]
fn argmax<F: Float>(
    scores: &[F],
    labels: &mut [u32],
    channels: usize,
    height: usize,
    width: usize,
    to_width: usize,
    scale_y: f32,
    scale_x: f32,
    units: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (top, below) = tap(ABSOLUTE_POS / to_width, height, scale_y, false);
    let (left, right) = tap(ABSOLUTE_POS % to_width, width, scale_x, false);
    let bottom = min(top + 1, height - 1);
    let beside = min(left + 1, width - 1);
    let mut best = 0_u32;
    let mut largest = 0.0_f32;
    for channel in 0..channels {
        let first = channel * height;
        let a = f32::cast_from(scores[(first + top) * width + left]);
        let b = f32::cast_from(scores[(first + top) * width + beside]);
        let c = f32::cast_from(scores[(first + bottom) * width + left]);
        let d = f32::cast_from(scores[(first + bottom) * width + beside]);
        let above = a * (1.0_f32 - right) + b * right;
        let under = c * (1.0_f32 - right) + d * right;
        let value = above * (1.0_f32 - below) + under * below;
        if channel == 0 || value > largest {
            largest = value;
            best = channel as u32;
        }
    }
    labels[ABSOLUTE_POS] = best;
}
