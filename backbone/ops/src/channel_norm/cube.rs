//! LayerNorm over channels on GPUs: the units of a plane (a warp) share a row.
//!
//! A row is read three times, for its mean, its variance and its result; the second and third time it comes from the cache. On devices
//! with one plane size, a plane processes a row and its sums are plane operations. On others, sums use shared memory. The gradients of
//! weight and bias are sums over all rows, first within blocks of rows and then over the blocks.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::{ChannelNormGradOps, ChannelNormGrads, ChannelNormOps};
use crate::cube::math::over_vector;
use crate::cube::{Rows, cast, cubes, element, empty, float32, vector_size};

/// Units of a cube.
const UNITS: usize = 128;
/// Rows of a block in the sums for the gradients of weight and bias.
const BLOCK: usize = 128;

/// The units that share a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Team {
    /// Number of units.
    lanes: usize,
    /// Whether the units are a plane.
    planes: bool,
}

impl Team {
    /// For devices with planes of several sizes.
    const SHARED: Self = Self { lanes: 32, planes: false };

    /// The team for a device.
    fn of(client: &Client) -> Self {
        let hardware = &client.properties().hardware;
        let lanes = hardware.plane_size_max as usize;
        let planes = hardware.plane_size_min == hardware.plane_size_max
            && (2..=UNITS).contains(&lanes)
            && client.properties().features.plane.contains(cubecl::ir::features::Plane::Ops);
        if planes { Self { lanes, planes } } else { Self::SHARED }
    }

    /// The launch size for `rows` rows.
    fn launch(self, client: &Client, rows: usize) -> (CubeCount, CubeDim) {
        let dim = CubeDim::new_2d(self.lanes as u32, self.rows() as u32);
        (cubecl::calculate_cube_count_elemwise(client, rows * self.lanes, dim), dim)
    }

    /// Rows of a cube.
    fn rows(self) -> usize {
        UNITS / self.lanes
    }
}

impl ChannelNormOps for CubeBackend {
    fn channel_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        let team = Team::of(&x.client);
        normalise(x, weight, bias, eps, team)
    }
}

fn normalise(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, eps: f32, team: Team) -> CubeTensor {
    let (x, weight, bias) = (Rows::new(x), float32(weight), float32(bias));
    let y = empty(&x.tensor, x.tensor.meta.shape().clone(), x.tensor.dtype);
    let size = vector_size(&[&x], 4);
    let (rows, width, pitch) = (x.count(), x.width() / size, x.pitch / size);
    let (client, dtype) = (y.client.clone(), element(&y));
    let (count, dim) = team.launch(&client, rows);
    // SAFETY: surplus teams read the last row and write nothing.
    unsafe {
        forward::launch_unchecked(
            &client,
            count,
            dim,
            size,
            x.tensor.into_buffer_arg(),
            weight.into_buffer_arg(),
            bias.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            rows,
            width,
            pitch,
            eps,
            team,
            dtype,
        );
    }
    y
}

impl ChannelNormGradOps for CubeBackend {
    fn channel_norm_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
    ) -> ChannelNormGrads<Self> {
        let (weight_dtype, bias_dtype, bias_shape) = (weight.dtype, bias.dtype, bias.meta.shape().clone());
        let (grad, x, weight) = (Rows::new(grad), Rows::new(x), float32(weight));
        let dx = empty(&x.tensor, x.tensor.meta.shape().clone(), x.tensor.dtype);
        let size = vector_size(&[&grad, &x], 4);
        let (rows, channels, width) = (x.count(), x.width(), x.width() / size);
        let (x_pitch, grad_pitch) = (x.pitch / size, grad.pitch / size);
        let (client, dtype) = (dx.client.clone(), element(&dx));
        let team = Team::of(&client);
        let stats = empty(&dx, [rows, 2], DType::F32);
        let (count, dim) = team.launch(&client, rows);
        // SAFETY: as in the forward pass.
        unsafe {
            backward::launch_unchecked(
                &client,
                count,
                dim,
                size,
                grad.tensor.clone().into_buffer_arg(),
                x.tensor.clone().into_buffer_arg(),
                weight.clone().into_buffer_arg(),
                dx.clone().into_buffer_arg(),
                stats.clone().into_buffer_arg(),
                rows,
                width,
                grad_pitch,
                x_pitch,
                eps,
                team,
                dtype,
            );
        }
        let blocks = rows.div_ceil(BLOCK);
        let sums = empty(&dx, [2, blocks, channels], DType::F32);
        let units = blocks * width;
        let (count, dim) = cubes(&client, units);
        // SAFETY: surplus units return at once; blocks end at `rows`.
        unsafe {
            parameter_gradients::launch_unchecked(
                &client,
                count,
                dim,
                size,
                grad.tensor.into_buffer_arg(),
                x.tensor.into_buffer_arg(),
                stats.into_buffer_arg(),
                sums.clone().into_buffer_arg(),
                rows,
                width,
                grad_pitch,
                x_pitch,
                units,
                dtype,
            );
        }
        let sums = Self::float_sum_dim(sums, 1);
        let part = |index: usize, shape: Shape, dtype: DType| {
            let part = Self::float_slice(sums.clone(), &[(index..index + 1).into(), (0..1).into(), (0..channels).into()]);
            cast(Self::float_reshape(part, shape), dtype)
        };
        ChannelNormGrads { x: dx, weight: part(0, Shape::from([channels]), weight_dtype), bias: part(1, bias_shape, bias_dtype) }
    }
}

/// The sum over the lanes of a row, returned to every lane.
#[cube]
fn over_lanes(value: f32, shared: &mut Shared<[f32]>, #[comptime] team: Team) -> f32 {
    if comptime!(team.planes) {
        plane_sum(value)
    } else {
        let (lane, first) = (UNIT_POS_X as usize, UNIT_POS_Y as usize * team.lanes);
        shared[first + lane] = value;
        sync_cube();
        let mut sum = 0.0_f32;
        for other in 0..team.lanes {
            sum += shared[first + other];
        }
        // All lanes must have read before the next sum overwrites the buffer.
        sync_cube();
        sum
    }
}

/// Mean and `1 / sqrt(variance + eps)` of the row that starts at `first`.
#[cube]
fn moments<F: Float, V: Size>(
    x: &[Vector<F, V>],
    first: usize,
    width: usize,
    eps: f32,
    shared: &mut Shared<[f32]>,
    #[comptime] team: Team,
) -> (f32, f32) {
    let channels = f32::cast_from(width * V::value());
    let mut sum = Vector::<f32, V>::new(0.0_f32);
    let mut at = UNIT_POS_X as usize;
    while at < width {
        sum += Vector::cast_from(x[first + at]);
        at += team.lanes;
    }
    let mean = over_lanes(over_vector::<V>(sum), shared, team) / channels;
    let mut squares = Vector::<f32, V>::new(0.0_f32);
    let mut at = UNIT_POS_X as usize;
    while at < width {
        let centred = Vector::<f32, V>::cast_from(x[first + at]) - Vector::new(mean);
        squares += centred * centred;
        at += team.lanes;
    }
    let variance = over_lanes(over_vector::<V>(squares), shared, team) / channels;
    (mean, 1.0_f32 / (variance + eps).sqrt())
}

#[cube(launch_unchecked)]
fn forward<F: Float, V: Size>(
    x: &[Vector<F, V>],
    weight: &[Vector<f32, V>],
    bias: &[Vector<f32, V>],
    y: &mut [Vector<F, V>],
    rows: usize,
    width: usize,
    pitch: usize,
    eps: f32,
    #[comptime] team: Team,
    #[define(F)] _dtype: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let row = CUBE_POS * team.rows() + UNIT_POS_Y as usize;
    // Surplus teams repeat the last row and discard the result, because every unit must reach the barriers.
    let own = row < rows;
    let row = min(row, rows - 1);
    let (mean, scale) = moments::<F, V>(x, row * pitch, width, eps, &mut shared, team);
    if own {
        let mut at = UNIT_POS_X as usize;
        while at < width {
            let x = Vector::<f32, V>::cast_from(x[row * pitch + at]);
            let normalised = (x - Vector::new(mean)) * Vector::new(scale);
            y[row * width + at] = Vector::cast_from(fma(normalised, weight[at], bias[at]));
            at += team.lanes;
        }
    }
}

#[cube(launch_unchecked)]
fn backward<F: Float, V: Size>(
    grad: &[Vector<F, V>],
    x: &[Vector<F, V>],
    weight: &[Vector<f32, V>],
    dx: &mut [Vector<F, V>],
    stats: &mut [f32],
    rows: usize,
    width: usize,
    grad_pitch: usize,
    x_pitch: usize,
    eps: f32,
    #[comptime] team: Team,
    #[define(F)] _dtype: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let row = CUBE_POS * team.rows() + UNIT_POS_Y as usize;
    let own = row < rows;
    let row = min(row, rows - 1);
    let (mean, scale) = moments::<F, V>(x, row * x_pitch, width, eps, &mut shared, team);
    let mut plain = Vector::<f32, V>::new(0.0_f32);
    let mut along = Vector::<f32, V>::new(0.0_f32);
    let mut at = UNIT_POS_X as usize;
    while at < width {
        let g = Vector::<f32, V>::cast_from(grad[row * grad_pitch + at]) * weight[at];
        let normalised = (Vector::<f32, V>::cast_from(x[row * x_pitch + at]) - Vector::new(mean)) * Vector::new(scale);
        plain += g;
        along += g * normalised;
        at += team.lanes;
    }
    let channels = f32::cast_from(width * V::value());
    let plain = over_lanes(over_vector::<V>(plain), &mut shared, team) / channels;
    let along = over_lanes(over_vector::<V>(along), &mut shared, team) / channels;
    if own {
        let mut at = UNIT_POS_X as usize;
        while at < width {
            let g = Vector::<f32, V>::cast_from(grad[row * grad_pitch + at]) * weight[at];
            let normalised = (Vector::<f32, V>::cast_from(x[row * x_pitch + at]) - Vector::new(mean)) * Vector::new(scale);
            dx[row * width + at] = Vector::cast_from((g - Vector::new(plain) - normalised * Vector::new(along)) * Vector::new(scale));
            at += team.lanes;
        }
        if UNIT_POS_X == 0 {
            stats[row * 2] = mean;
            stats[row * 2 + 1] = scale;
        }
    }
}

/// Sums over a block of rows. The first half of `sums` is of the gradient times the normalised input, the second of the gradient.
#[cube(launch_unchecked)]
fn parameter_gradients<F: Float, V: Size>(
    grad: &[Vector<F, V>],
    x: &[Vector<F, V>],
    stats: &[f32],
    sums: &mut [Vector<f32, V>],
    rows: usize,
    width: usize,
    grad_pitch: usize,
    x_pitch: usize,
    units: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (block, at) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    let mut weight = Vector::<f32, V>::new(0.0_f32);
    let mut bias = Vector::<f32, V>::new(0.0_f32);
    for row in block * BLOCK..min((block + 1) * BLOCK, rows) {
        let g = Vector::<f32, V>::cast_from(grad[row * grad_pitch + at]);
        let centred = Vector::<f32, V>::cast_from(x[row * x_pitch + at]) - Vector::new(stats[row * 2]);
        weight += g * centred * Vector::new(stats[row * 2 + 1]);
        bias += g;
    }
    sums[ABSOLUTE_POS] = weight;
    sums[units + ABSOLUTE_POS] = bias;
}

#[cfg(test)]
mod tests {
    use burn::backend::Dispatch;
    use burn::prelude::Tensor;

    use super::super::reference;
    use super::*;
    use crate::testing::{assert_close_values, cpu, gpu, random_tensor, values};

    /// The norm by sums in shared memory, even on devices with one plane size.
    #[burn::backend::backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
    pub trait SharedNormOps: burn::backend::Backend {
        #[fusion(dtype = x, shape = { let _ = (weight, bias, eps); x.clone() })]
        fn shared_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;
    }

    impl SharedNormOps for CubeBackend {
        fn shared_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
            normalise(x, weight, bias, eps, Team::SHARED)
        }
    }

    #[test]
    fn sums_in_shared_memory_equal_the_reference() {
        let Some(device) = gpu() else { return };
        for (rows, channels) in [(1, 1), (3, 5), (70, 40), (9, 200)] {
            let tensors = |device: &burn::prelude::Device| -> (Tensor<2>, Tensor<1>, Tensor<1>) {
                (random_tensor([rows, channels], 3, device), random_tensor([channels], 4, device), random_tensor([channels], 5, device))
            };
            let (x, weight, bias) = tensors(&cpu());
            let expected = values(reference::channel_norm(x, Some(weight), Some(bias), 1e-5));
            let (x, weight, bias) = tensors(&device);
            let y = <Dispatch as SharedNormOps>::shared_norm(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), 1e-5);
            // Float32 rounding of two orders of summation.
            assert_close_values(&format!("{rows} rows of {channels}"), &values(Tensor::<2>::from_dispatch(y)), &expected, 2e-5);
        }
    }
}
