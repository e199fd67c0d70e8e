//! Batch norm on GPUs: a unit sums a vector of channels over a block of rows, then the sums of the blocks are added.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{BatchNormGradOps, BatchNormGrads, BatchNormOps, MomentsOps};
use crate::cube::{Rows, cast, cubes, element, empty, float32, vector_size};

/// Rows of a block.
const BLOCK: usize = 128;

impl MomentsOps for CubeBackend {
    fn moments(x: FloatTensor<Self>, _like: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = Rows::new(x);
        // Two passes: the one-pass formula loses the variance of data with a large mean.
        let mean = over_rows(&x, None);
        let variance = over_rows(&x, Some(mean.clone()));
        Self::float_cat(vec![mean, variance], 0)
    }
}

/// The mean over the rows of `x` or, given `mean`, the variance around it; `[1, channels]`, float32.
fn over_rows(x: &Rows, mean: Option<CubeTensor>) -> CubeTensor {
    let (rows, channels) = (x.count(), x.width());
    let size = vector_size(&[x], 4);
    let (width, blocks) = (channels / size, rows.div_ceil(BLOCK));
    let sums = empty(&x.tensor, [blocks, channels], DType::F32);
    let (client, units, squares) = (sums.client.clone(), blocks * width, mean.is_some());
    let mean = mean.map_or_else(|| sums.clone(), float32);
    let (count, dim) = cubes(&client, units);
    // SAFETY: surplus units return at once; blocks end at `rows`. Without squares the mean is not read.
    unsafe {
        block_means::launch_unchecked(
            &client,
            count,
            dim,
            size,
            x.tensor.clone().into_buffer_arg(),
            mean.into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            rows,
            width,
            x.pitch / size,
            units,
            squares,
            element(&x.tensor),
        );
    }
    CubeBackend::float_sum_dim(sums, 0)
}

/// Splits moments into means and variances.
fn split(moments: &CubeTensor) -> [CubeTensor; 2] {
    let channels = moments.meta.shape()[1];
    [0, 1].map(|row: usize| float32(CubeBackend::float_slice(moments.clone(), &[(row..row + 1).into(), (0..channels).into()])))
}

impl BatchNormOps for CubeBackend {
    fn normalise_batch(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        moments: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let (x, weight, bias, [mean, variance]) = (Rows::new(x), float32(weight), float32(bias), split(&moments));
        let y = empty(&x.tensor, x.tensor.meta.shape().clone(), x.tensor.dtype);
        let size = vector_size(&[&x], 4);
        let (width, pitch) = (x.width() / size, x.pitch / size);
        let units = x.count() * width;
        let (client, dtype) = (y.client.clone(), element(&y));
        let (count, dim) = cubes(&client, units);
        // SAFETY: surplus units return at once.
        unsafe {
            forward::launch_unchecked(
                &client,
                count,
                dim,
                size,
                x.tensor.into_buffer_arg(),
                weight.into_buffer_arg(),
                bias.into_buffer_arg(),
                mean.into_buffer_arg(),
                variance.into_buffer_arg(),
                y.clone().into_buffer_arg(),
                width,
                pitch,
                eps,
                units,
                dtype,
            );
        }
        y
    }
}

impl BatchNormGradOps for CubeBackend {
    fn normalise_batch_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        moments: FloatTensor<Self>,
        eps: f32,
    ) -> BatchNormGrads<Self> {
        let (weight_dtype, bias_dtype, bias_shape) = (weight.dtype, bias.dtype, bias.meta.shape().clone());
        let (grad, x, weight, [mean, variance]) = (Rows::new(grad), Rows::new(x), float32(weight), split(&moments));
        let size = vector_size(&[&grad, &x], 4);
        let (rows, channels, width) = (x.count(), x.width(), x.width() / size);
        let (x_pitch, grad_pitch) = (x.pitch / size, grad.pitch / size);
        let dx = empty(&x.tensor, x.tensor.meta.shape().clone(), x.tensor.dtype);
        let (client, dtype) = (dx.client.clone(), element(&dx));
        let blocks = rows.div_ceil(BLOCK);
        let sums = empty(&dx, [2, blocks, channels], DType::F32);
        let units = blocks * width;
        let (count, dim) = cubes(&client, units);
        // SAFETY: surplus units return at once; blocks end at `rows`.
        unsafe {
            gradient_sums::launch_unchecked(
                &client,
                count,
                dim,
                size,
                grad.tensor.clone().into_buffer_arg(),
                x.tensor.clone().into_buffer_arg(),
                mean.clone().into_buffer_arg(),
                variance.clone().into_buffer_arg(),
                sums.clone().into_buffer_arg(),
                rows,
                width,
                grad_pitch,
                x_pitch,
                eps,
                units,
                dtype,
            );
        }
        let sums = Self::float_sum_dim(sums, 1);
        let part = |index: usize| Self::float_slice(sums.clone(), &[(index..index + 1).into(), (0..1).into(), (0..channels).into()]);
        let [plain, along] = [0, 1].map(|index| float32(part(index)));
        let units = rows * width;
        let (count, dim) = cubes(&client, units);
        // SAFETY: surplus units return at once.
        unsafe {
            backward::launch_unchecked(
                &client,
                count,
                dim,
                size,
                grad.tensor.into_buffer_arg(),
                x.tensor.into_buffer_arg(),
                weight.into_buffer_arg(),
                mean.into_buffer_arg(),
                variance.into_buffer_arg(),
                plain.clone().into_buffer_arg(),
                along.clone().into_buffer_arg(),
                dx.clone().into_buffer_arg(),
                rows,
                width,
                grad_pitch,
                x_pitch,
                eps,
                units,
                dtype,
            );
        }
        let shaped = |sums: CubeTensor, shape: Shape, dtype: DType| cast(Self::float_reshape(sums, shape), dtype);
        BatchNormGrads {
            x: dx,
            weight: shaped(along, Shape::from([channels]), weight_dtype),
            bias: shaped(plain, bias_shape, bias_dtype),
            moments: Self::float_zeros(Shape::from([2, channels]), &moments.device, moments.dtype.into()),
        }
    }
}

/// The contribution of a block of rows to the mean over all rows, or with `squares` to the variance.
#[cube(launch_unchecked)]
fn block_means<F: Float, V: Size>(
    x: &[Vector<F, V>],
    mean: &[Vector<f32, V>],
    sums: &mut [Vector<f32, V>],
    rows: usize,
    width: usize,
    pitch: usize,
    units: usize,
    #[comptime] squares: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (block, at) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    let mut sum = Vector::<f32, V>::new(0.0_f32);
    for row in block * BLOCK..min((block + 1) * BLOCK, rows) {
        let value = Vector::<f32, V>::cast_from(x[row * pitch + at]);
        if comptime!(squares) {
            let centred = value - mean[at];
            sum += centred * centred;
        } else {
            sum += value;
        }
    }
    sums[ABSOLUTE_POS] = sum / Vector::new(f32::cast_from(rows));
}

/// `1 / sqrt(variance + eps)`
#[cube]
fn inverse_deviation<V: Size>(variance: Vector<f32, V>, eps: f32) -> Vector<f32, V> {
    Vector::new(1.0_f32) / (variance + Vector::new(eps)).sqrt()
}

#[cube(launch_unchecked)]
fn forward<F: Float, V: Size>(
    x: &[Vector<F, V>],
    weight: &[Vector<f32, V>],
    bias: &[Vector<f32, V>],
    mean: &[Vector<f32, V>],
    variance: &[Vector<f32, V>],
    y: &mut [Vector<F, V>],
    width: usize,
    pitch: usize,
    eps: f32,
    units: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (row, at) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    // Rounded like PyTorch, as on the CPU.
    let scale = inverse_deviation::<V>(variance[at], eps) * weight[at];
    let shift = bias[at] - mean[at] * scale;
    y[ABSOLUTE_POS] = Vector::cast_from(fma(Vector::<f32, V>::cast_from(x[row * pitch + at]), scale, shift));
}

/// Sums over a block of rows. The first half of `sums` is of the gradient, the second of the gradient times the normalised input.
#[cube(launch_unchecked)]
fn gradient_sums<F: Float, V: Size>(
    grad: &[Vector<F, V>],
    x: &[Vector<F, V>],
    mean: &[Vector<f32, V>],
    variance: &[Vector<f32, V>],
    sums: &mut [Vector<f32, V>],
    rows: usize,
    width: usize,
    grad_pitch: usize,
    x_pitch: usize,
    eps: f32,
    units: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (block, at) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    let mut plain = Vector::<f32, V>::new(0.0_f32);
    let mut along = Vector::<f32, V>::new(0.0_f32);
    for row in block * BLOCK..min((block + 1) * BLOCK, rows) {
        let g = Vector::<f32, V>::cast_from(grad[row * grad_pitch + at]);
        plain += g;
        along += g * (Vector::<f32, V>::cast_from(x[row * x_pitch + at]) - mean[at]);
    }
    sums[ABSOLUTE_POS] = plain;
    sums[units + ABSOLUTE_POS] = along * inverse_deviation::<V>(variance[at], eps);
}

/// `dx = weight * scale * (g - mean(g) - n * mean(g n))`, with `n` the normalised input, `g` the gradient of the output and
/// `scale = 1 / sqrt(variance + eps)`.
#[cube(launch_unchecked)]
fn backward<F: Float, V: Size>(
    grad: &[Vector<F, V>],
    x: &[Vector<F, V>],
    weight: &[Vector<f32, V>],
    mean: &[Vector<f32, V>],
    variance: &[Vector<f32, V>],
    plain: &[Vector<f32, V>],
    along: &[Vector<f32, V>],
    dx: &mut [Vector<F, V>],
    rows: usize,
    width: usize,
    grad_pitch: usize,
    x_pitch: usize,
    eps: f32,
    units: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (row, at) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    let inverse = inverse_deviation::<V>(variance[at], eps);
    let count = Vector::<f32, V>::new(f32::cast_from(rows));
    let normalised = (Vector::<f32, V>::cast_from(x[row * x_pitch + at]) - mean[at]) * inverse;
    let g = Vector::<f32, V>::cast_from(grad[row * grad_pitch + at]) - plain[at] / count;
    dx[ABSOLUTE_POS] = Vector::cast_from(inverse * weight[at] * (g - normalised * (along[at] / count)));
}
