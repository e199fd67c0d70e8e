//! Depthwise convolution on GPUs: a unit computes a run of neighbouring pixels for a vector of channels.
//!
//! Neighbouring units compute neighbouring channels, so they read neighbouring memory, and the pixels of a run share most of their inputs.
//! The gradient of the input is the same convolution with the kernel rotated by 180 degrees. That of the weight is a sum over all pixels,
//! first within blocks of rows and then over the blocks.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{DepthwiseConvGradOps, DepthwiseConvGrads, DepthwiseConvOps, FusedDepthwiseConvOps};
use crate::cube::epilogue::pointwise;
use crate::cube::{Rows, cast, cubes, element, empty, float32, vector_size};
use crate::epilogue::Pointwise;

/// Pixels that a unit computes.
const RUN: usize = 4;
/// Approximate number of units that the sum over all pixels is split into.
const SUMMING_UNITS: usize = 1 << 16;

impl DepthwiseConvOps for CubeBackend {
    fn depthwise_conv(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let side = weight.meta.shape()[2];
        let bias = float32(bias);
        convolve(Rows::new(x), float32(weight), &bias, side, Direction::Forward(Pointwise::Identity))
    }
}

impl FusedDepthwiseConvOps for CubeBackend {
    fn depthwise_conv_fused(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Pointwise,
    ) -> FloatTensor<Self> {
        let side = weight.meta.shape()[2];
        let bias = float32(bias);
        convolve(Rows::new(x), float32(weight), &bias, side, Direction::Forward(activation))
    }
}

impl DepthwiseConvGradOps for CubeBackend {
    fn depthwise_conv_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> DepthwiseConvGrads<Self> {
        let (weight_dtype, bias_dtype) = (weight.dtype, bias.dtype);
        let (weight_shape, bias_shape) = (weight.meta.shape().clone(), bias.meta.shape().clone());
        let side = weight_shape[2];
        let weight = float32(weight);
        // This gradient does not read the bias, so any buffer will do.
        let dx = convolve(Rows::new(grad.clone()), weight.clone(), &weight, side, Direction::Backward);
        let sums = weight_gradient(Rows::new(grad), Rows::new(x), side);
        let [taps, channels] = sums.meta.shape().dims::<2>();
        let part = |from: usize, to: usize| Self::float_slice(sums.clone(), &[(from..to).into(), (0..channels).into()]);
        let dweight = Self::float_reshape(Self::float_transpose(part(0, taps - 1)), weight_shape);
        let dbias = Self::float_reshape(part(taps - 1, taps), bias_shape);
        DepthwiseConvGrads { x: dx, weight: cast(dweight, weight_dtype), bias: cast(dbias, bias_dtype) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Direction {
    /// The convolution with its bias, followed by an activation.
    Forward(Pointwise),
    /// The transposed convolution, without bias and activation.
    Backward,
}

impl Direction {
    fn activation(self) -> Pointwise {
        match self {
            Self::Forward(activation) => activation,
            Self::Backward => Pointwise::Identity,
        }
    }
}

fn convolve(x: Rows, weight: CubeTensor, bias: &CubeTensor, side: usize, direction: Direction) -> CubeTensor {
    let [batch, height, width, channels] = x.tensor.meta.shape().dims::<4>();
    let y = empty(&x.tensor, [batch, height, width, channels], x.tensor.dtype);
    let size = vector_size(&[&x], 4);
    let (client, dtype) = (y.client.clone(), element(&y));
    let units = batch * height * width.div_ceil(RUN) * (channels / size);
    let (count, dim) = cubes(&client, units);
    let pitch = x.pitch / size;
    // SAFETY: surplus units return at once, and every read and write is checked against the borders of the image.
    unsafe {
        run_of_pixels::launch_unchecked(
            &client,
            count,
            dim,
            size,
            x.tensor.into_buffer_arg(),
            weight.into_buffer_arg(),
            bias.clone().into_buffer_arg(),
            y.clone().into_buffer_arg(),
            height,
            width,
            channels / size,
            pitch,
            units,
            side,
            direction,
            dtype,
        );
    }
    y
}

/// `[side * side + 1, channels]`: the gradient of every weight, then that of the bias.
fn weight_gradient(grad: Rows, x: Rows, side: usize) -> CubeTensor {
    let [batch, height, width, channels] = x.tensor.meta.shape().dims::<4>();
    // A unit holds one sum for each tap; wider vectors would need too many registers.
    let size = vector_size(&[&grad, &x], if side > 3 { 1 } else { 2 });
    let rows = batch * height;
    let blocks = (SUMMING_UNITS * size / channels).clamp(1, rows);
    let block = rows.div_ceil(blocks);
    let blocks = rows.div_ceil(block);
    let taps = side * side + 1;
    let sums = empty(&x.tensor, [blocks, taps, channels], DType::F32);
    let (client, dtype) = (sums.client.clone(), element(&x.tensor));
    let units = blocks * (channels / size);
    let (count, dim) = cubes(&client, units);
    let (grad_pitch, x_pitch) = (grad.pitch / size, x.pitch / size);
    // SAFETY: surplus units return at once, a block ends at the last row, and reads are checked against the borders of the image.
    unsafe {
        block_of_rows::launch_unchecked(
            &client,
            count,
            dim,
            size,
            grad.tensor.into_buffer_arg(),
            x.tensor.into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            rows,
            height,
            width,
            channels / size,
            grad_pitch,
            x_pitch,
            block,
            units,
            side,
            dtype,
        );
    }
    CubeBackend::float_reshape(CubeBackend::float_sum_dim(sums, 0), Shape::from([taps, channels]))
}

/// Reads the weights of a tap for a vector of channels from `[channels, side * side]`.
#[cube]
fn tap_weights<V: Size>(weight: &[f32], channel: usize, tap: usize, #[comptime] taps: usize) -> Vector<f32, V> {
    let mut values = Vector::<f32, V>::new(0.0_f32);
    #[unroll]
    for i in 0..V::value() {
        values.insert(i, weight[(channel * V::value() + i) * taps + tap]);
    }
    values
}

#[cube(launch_unchecked)]
fn run_of_pixels<F: Float, V: Size>(
    x: &[Vector<F, V>],
    weight: &[f32],
    bias: &[f32],
    y: &mut [Vector<F, V>],
    height: usize,
    width: usize,
    channels: usize,
    pitch: usize,
    units: usize,
    #[comptime] side: usize,
    #[comptime] direction: Direction,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let channel = ABSOLUTE_POS % channels;
    let run = ABSOLUTE_POS / channels;
    let runs = width.div_ceil(RUN);
    // Row of the batch, counted over all images.
    let line = run / runs;
    let (first, row) = (run % runs * RUN, line % height);
    let reach = comptime!(side / 2);
    let mut sums = Array::<Vector<f32, V>>::new(RUN);
    let mut start = Vector::<f32, V>::new(0.0_f32);
    if comptime!(matches!(direction, Direction::Forward(_))) {
        #[unroll]
        for i in 0..V::value() {
            start.insert(i, bias[channel * V::value() + i]);
        }
    }
    #[unroll]
    for pixel in 0..RUN {
        sums[pixel] = start;
    }
    #[unroll]
    for dy in 0..side {
        // Row `row + dy - reach` may be above or below the image.
        if row + dy >= reach && row + dy < height + reach {
            let begin = (line + dy - reach) * width;
            let mut weights = Array::<Vector<f32, V>>::new(side);
            #[unroll]
            for dx in 0..side {
                let tap = comptime!(if direction == Direction::Backward { side * side - 1 - dy * side - dx } else { dy * side + dx });
                weights[dx] = tap_weights::<V>(weight, channel, tap, comptime!(side * side));
            }
            #[unroll]
            for column in 0..comptime!(RUN + side - 1) {
                if first + column >= reach && first + column < width + reach {
                    let value = Vector::<f32, V>::cast_from(x[(begin + first + column - reach) * pitch + channel]);
                    #[unroll]
                    for pixel in 0..RUN {
                        if comptime!(column >= pixel && column < pixel + side) {
                            sums[pixel] = fma(value, weights[comptime!(column.wrapping_sub(pixel) % side)], sums[pixel]);
                        }
                    }
                }
            }
        }
    }
    #[unroll]
    for pixel in 0..RUN {
        if first + pixel < width {
            let activation = comptime!(direction.activation());
            y[(line * width + first + pixel) * channels + channel] = Vector::cast_from(pointwise::<V>(sums[pixel], activation));
        }
    }
}

#[cube(launch_unchecked)]
fn block_of_rows<F: Float, V: Size>(
    grad: &[Vector<F, V>],
    x: &[Vector<F, V>],
    sums: &mut [Vector<f32, V>],
    rows: usize,
    height: usize,
    width: usize,
    channels: usize,
    grad_pitch: usize,
    x_pitch: usize,
    block: usize,
    units: usize,
    #[comptime] side: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (part, channel) = (ABSOLUTE_POS / channels, ABSOLUTE_POS % channels);
    let (taps, reach) = comptime!((side * side, side / 2));
    let mut own = Array::<Vector<f32, V>>::new(comptime!(taps + 1));
    #[unroll]
    for tap in 0..comptime!(taps + 1) {
        own[tap] = Vector::new(0.0_f32);
    }
    for line in part * block..min((part + 1) * block, rows) {
        let row = line % height;
        for column in 0..width {
            let g = Vector::<f32, V>::cast_from(grad[(line * width + column) * grad_pitch + channel]);
            own[taps] += g;
            #[unroll]
            for dy in 0..side {
                if row + dy >= reach && row + dy < height + reach {
                    #[unroll]
                    for dx in 0..side {
                        if column + dx >= reach && column + dx < width + reach {
                            let value = x[((line + dy - reach) * width + column + dx - reach) * x_pitch + channel];
                            own[comptime!(dy * side + dx)] += g * Vector::cast_from(value);
                        }
                    }
                }
            }
        }
    }
    #[unroll]
    for tap in 0..comptime!(taps + 1) {
        sums[(part * comptime!(taps + 1) + tap) * channels + channel] = own[tap];
    }
}
