//! S4ND (Nguyen et al. 2022, "S4ND: Modeling Images and Videos as Multidimensional Signals Using State Spaces"): a depthwise convolution
//! over the whole map. Its kernel is the outer product of two one-dimensional kernels, each the impulse response of a linear state space.
//!
//! ```text
//! inv_dt, A, P, B, C ─ DplrKernel ─> [channels, 2, length]    forward and backward kernels
//!        along the height and along the width ─> a matrix [size, size] per channel ─> y = rows * x * columns + D x
//! ```
//!
//! The kernel is that of S4 (Gu et al. 2021): the generating function of the impulse response at the roots of unity, then an inverse Fourier
//! transform. For the state matrix `diag(A) - P P*`, the function is a sum over the states and a correction of rank 1. The official code uses
//! complex numbers; here products are real, and the poles at half the sampling rate have been cancelled analytically.

#![allow(
    non_snake_case,
    reason = "`A_real`, `B`, `C`, `D` and `P` are the official parameter names; the derive drops a narrower attribute"
)]

use std::f64::consts::PI;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution, TensorData};

use crate::checkpoint::StateDict;

/// Shape and initialisation of an S4ND layer.
#[derive(Clone, Debug, PartialEq)]
pub struct S4ndConfig {
    /// Input channels.
    pub inputs: usize,
    /// Output channels of a dense layer; none for a depthwise layer.
    pub outputs: Option<usize>,
    /// Number of states. Conjugate pairs are stored once.
    pub d_state: usize,
    /// Lengths of the kernels per direction, vertical and horizontal.
    pub lengths: [usize; 2],
    /// Range of the initial step sizes.
    pub dt_range: [f64; 2],
}

impl S4ndConfig {
    /// Kernels per input channel: one per output of a dense layer and direction.
    pub fn kernel_channels(&self) -> usize {
        2 * self.outputs.unwrap_or(1)
    }

    /// Number of parameters of the layer.
    pub fn num_params(&self) -> usize {
        let state = self.d_state / 2;
        let kernel = self.inputs + (2 * self.kernel_channels() * self.inputs + 6) * state;
        self.inputs + 2 * kernel
    }

    /// A layer with random weights.
    pub fn init(&self, device: &Device) -> S4nd {
        let kernel = |length| DplrKernel::new(self.inputs, self.kernel_channels(), self.d_state, length, self.dt_range, device);
        S4nd {
            D: Param::from_tensor(Tensor::random([1, self.inputs], Distribution::Normal(0.0, 1.0), device)),
            kernel: self.lengths.map(kernel).into(),
        }
    }
}

/// The official `S4ND` with one bidirectional kernel per axis (`bidirectional`, `trank` 1) and no activation or projection (`linear`).
#[derive(Module, Debug)]
pub struct S4nd {
    /// Skip connection, `[1, channels]`; unused in a dense layer, as in the official code.
    pub D: Param<Tensor<2>>,
    /// The kernels along the height and the width.
    pub kernel: Vec<DplrKernel>,
}

impl S4nd {
    /// The depthwise layer: `[batch, height, width, channels]` to the same shape and type. Computed in float32, as in the official code.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, height, width, channels] = x.dims();
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        // Channels first, so that one batched product per axis multiplies every channel's map by its matrix.
        let map: Tensor<3> = x.clone().permute([3, 1, 0, 2]).reshape([channels, height, batch * width]);
        let [rows, columns] = [(0, height), (1, width)].map(|(axis, size)| self.kernel[axis].matrices(size));
        let y = vision_ops::matmul(rows.swap_dims(1, 2), map).reshape([channels, height * batch, width]);
        let y = vision_ops::matmul(y, columns);
        let y: Tensor<4> = y.reshape([channels, height, batch, width]).permute([2, 1, 3, 0]);
        (y + x * self.D.val().reshape([1, 1, 1, -1])).cast(dtype)
    }

    /// The dense layer, followed by an average over `patch` by `patch` positions: `[batch, height, width, inputs]` to
    /// `[batch, height / patch, width / patch, outputs]`, sizes rounded down.
    ///
    /// Both are linear, so together they are one strided convolution of width `2 length + patch` with padding `length`.
    pub fn forward_pooled(&self, x: Tensor<4>, patch: usize) -> Tensor<4> {
        let [rows, columns] = [0, 1].map(|axis| self.kernel[axis].pooled(patch));
        let padding = [0, 1].map(|axis| self.kernel[axis].length);
        // From `[inputs, outputs, ...]` to the layout of a convolution.
        let weight = (rows.unsqueeze_dim::<4>(3) * columns.unsqueeze_dim::<4>(2)).swap_dims(0, 1);
        vision_ops::conv2d(x, weight, None, [patch; 2], padding)
    }
}

/// A one-dimensional kernel for every channel (official `SSMKernelDPLR` of rank 1 with one state space for all channels).
///
/// Complex parameters have their real and imaginary parts on the last axis.
#[derive(Module, Debug)]
pub struct DplrKernel {
    /// Logarithm of the step size, `[channels, 1]`.
    pub inv_dt: Param<Tensor<2>>,
    /// Output projection for both directions, `[2 * outputs, channels, states / 2, 2]`, adjusted to the length of the kernel. The official
    /// code adjusts it in the first forward pass and records that in `l_kernel`.
    pub C: Param<Tensor<4>>,
    /// Input projection, `[1, 1, states / 2, 2]`.
    pub B: Param<Tensor<4>>,
    /// Logarithm of the negated real part of the diagonal, `[1, states / 2]`.
    pub A_real: Param<Tensor<2>>,
    /// Negated imaginary part of the diagonal, `[1, states / 2]`.
    pub A_imag: Param<Tensor<2>>,
    /// The rank-1 factor that is subtracted from the diagonal, `[1, 1, states / 2, 2]`.
    pub P: Param<Tensor<4>>,
    /// Length of the kernel per direction.
    #[module(skip)]
    length: usize,
}

impl DplrKernel {
    /// A kernel with the official initialisation `fourier`: the states track the frequencies `0, 1/2, 1, …` of a sliding window.
    ///
    /// `kernel_channels` counts both directions, `length` is that of the kernel per direction, `dt_range` the range of the step sizes.
    pub fn new(channels: usize, kernel_channels: usize, d_state: usize, length: usize, dt_range: [f64; 2], device: &Device) -> Self {
        let states = d_state / 2;
        let [low, high] = dt_range.map(f64::ln);
        let inv_dt = Tensor::<2>::random([channels, 1], Distribution::Uniform(low, high), device);
        let shape = [kernel_channels, channels, states, 2];
        // The complex number has standard deviation 1.
        let c = Tensor::<4>::random(shape, Distribution::Normal(0.0, 0.5_f64.sqrt()), device);
        let state = StateSpace::fourier(states);
        let steps: Vec<f64> = inv_dt.clone().into_data().iter::<f64>().map(f64::exp).collect();
        let draws: Vec<f64> = c.into_data().iter::<f64>().collect();
        let settled: Vec<f32> = draws
            .chunks(2 * states)
            .enumerate()
            .flat_map(|(row, c)| state.settled(c, steps[row % channels], length))
            .map(|value| value as f32)
            .collect();
        let vector = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [1, states]), device);
        let pairs = |values: &[f64]| {
            let values: Vec<f32> = values.iter().flat_map(|value| [*value as f32, 0.0]).collect();
            Param::from_tensor(Tensor::from_data(TensorData::new(values, [1, 1, states, 2]), device))
        };
        Self {
            inv_dt: Param::from_tensor(inv_dt.detach()),
            C: Param::from_tensor(Tensor::from_data(TensorData::new(settled, shape), device)),
            B: pairs(&state.projection),
            A_real: Param::from_tensor(vector(state.decay.iter().map(|value| value.ln() as f32).collect())),
            A_imag: Param::from_tensor(vector(state.frequency.iter().map(|value| *value as f32).collect())),
            P: pairs(&state.projection),
            length,
        }
    }

    /// Length of the kernel per direction.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The kernel, `[channels, 2 * outputs, length]`: first the weights of the positions `0, 1, 2, …` before an output, then those of the
    /// positions `1, 2, 3, …` after it.
    pub fn forward(&self) -> Tensor<3> {
        let (device, length) = (self.inv_dt.val().device(), self.length);
        let nodes = length / 2 + 1;
        let [kernel_channels, channels, states, _] = self.C.val().dims();
        let dt = self.inv_dt.val().exp();

        // Eigenvalues times step size, [channels, states].
        let w_re = self.A_real.val().exp().neg() * dt.clone();
        let w_im = self.A_imag.val().neg() * dt.clone();

        // Numerators of the sums: every product of (B, P) with (C, conj P), [channels, 2 (kernel_channels + 1), states].
        let [p_re, p_im] = parts(self.P.val());
        let [b_re, b_im] = parts(self.B.val());
        let [c_re, c_im] = parts(self.C.val());
        let across = |x: Tensor<3>| x.expand([1, channels, states]);
        let right_re = Tensor::cat(vec![c_re, across(p_re.clone())], 0);
        let right_im = Tensor::cat(vec![c_im, across(p_im.clone().neg())], 0);
        let product = |re: Tensor<3>, im: Tensor<3>| {
            let v_re = right_re.clone() * re.clone() - right_im.clone() * im.clone();
            let v_im = right_re.clone() * im + right_im.clone() * re;
            [v_re, v_im]
        };
        let [[bv_re, bv_im], [pv_re, pv_im]] = [product(b_re, b_im), product(p_re, p_im)];
        let dt = dt.reshape([1, channels, 1]);
        let v_re = Tensor::cat(vec![bv_re, pv_re], 0) * dt.clone();
        let v_im = Tensor::cat(vec![bv_im, pv_im], 0) * dt;
        let crossed = v_re.clone() * w_re.clone().unsqueeze::<3>() + v_im * w_im.clone().unsqueeze::<3>();
        let numerators = Tensor::cat(vec![v_re, crossed], 2).swap_dims(0, 1);

        // A conjugate pair contributes 2 (z Re v - Re(v conj w)) / (z^2 - 2 z Re w + |w|^2) at z = 2 i tan(theta). Multiplied by
        // cos^2, numerator and denominator stay finite at theta = pi / 2; one factor 1 / cos remains.
        let angles: Vec<f64> = (0..nodes).map(|node| PI * node as f64 / length as f64).collect();
        let at_nodes = |f: fn(f64) -> f64| -> Tensor<3> {
            let values: Vec<f32> = angles.iter().map(|angle| f(*angle) as f32).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, nodes]), &device)
        };
        let (cos, sin) = (at_nodes(|angle| snapped(angle.cos())), at_nodes(f64::sin));
        let modulus = (w_re.clone().square() + w_im.square()).unsqueeze_dim::<3>(2);
        let d_re = modulus * cos.clone().square() - sin.clone().square() * 4.0;
        let d_im = w_re.unsqueeze_dim::<3>(2) * (sin.clone() * cos.clone() * -4.0);
        let scale = (d_re.clone().square() + d_im.clone().square()).recip() * 2.0;
        let (d_re, d_im) = (d_re * scale.clone(), d_im.neg() * scale);
        let (sin, negated) = (sin * 2.0, cos.clone().neg());
        let of_v = Tensor::cat(vec![d_im.clone() * sin.clone().neg(), d_re.clone() * sin], 2);
        let of_crossed = Tensor::cat(vec![d_re * negated.clone(), d_im * negated], 2);
        let sums = vision_ops::matmul(numerators, Tensor::cat(vec![of_v, of_crossed], 1));

        // The correction of rank 1: r_BC - r_BQ r_PC / (1 + r_PQ).
        let rows = |from: usize, count: usize| {
            let re = sums.clone().slice(s![.., from..from + count, ..nodes]);
            [re, sums.clone().slice(s![.., from..from + count, nodes..])]
        };
        let [bc_re, bc_im] = rows(0, kernel_channels);
        let [bq_re, bq_im] = rows(kernel_channels, 1);
        let [pc_re, pc_im] = rows(kernel_channels + 1, kernel_channels);
        let [pq_re, pq_im] = rows(2 * kernel_channels + 1, 1);
        let (e_re, e_im) = (pq_re * cos.clone() + 1.0, pq_im * cos.clone());
        let scale = cos / (e_re.clone().square() + e_im.clone().square());
        let g_re = (bq_re.clone() * e_re.clone() + bq_im.clone() * e_im.clone()) * scale.clone();
        let g_im = (bq_im * e_re - bq_re * e_im) * scale;
        let k_re = bc_re - g_re.clone() * pc_re.clone() + g_im.clone() * pc_im.clone();
        let k_im = bc_im - g_re * pc_im - g_im * pc_re;
        vision_ops::linear(Tensor::cat(vec![k_re, k_im], 2), inverse_transform(length, &device), None)
    }

    /// For a depthwise layer: the matrices `[channels, size, size]` that multiply a line of `size` positions from the right.
    fn matrices(&self, size: usize) -> Tensor<3> {
        let kernel = self.forward();
        let [channels, _, length] = kernel.dims();
        let device = kernel.device();
        let direction = |row: usize, wanted: usize| -> Tensor<2> {
            let values: Tensor<2> = kernel.clone().slice(s![.., row..=row, ..wanted.min(length)]).reshape([channels as i32, -1]);
            if wanted <= length {
                return values;
            }
            Tensor::cat(vec![values, Tensor::zeros([channels, wanted - length], &device)], 1)
        };
        let before = direction(0, size);
        if size == 1 {
            return before.unsqueeze_dim(2);
        }
        // One period of a circulant matrix of twice the size. Read with a stride of one less, it shifts by one per row.
        let behind = direction(1, size - 1).flip([1]);
        let period = Tensor::cat(vec![before, Tensor::zeros([channels, 1], &device), behind], 1);
        let repeated: Tensor<2> = period.unsqueeze_dim::<3>(1).repeat_dim(1, size).reshape([channels, 2 * size * size]);
        let shifted: Tensor<3> = repeated.slice(s![.., ..size * (2 * size - 1)]).reshape([channels, size, 2 * size - 1]);
        shifted.slice(s![.., .., ..size])
    }

    /// For a dense layer followed by an average over `patch` positions: the kernel `[channels, outputs, 2 length + patch]` of the strided
    /// convolution.
    fn pooled(&self, patch: usize) -> Tensor<3> {
        let kernel = self.forward();
        let [channels, both, length] = kernel.dims();
        let (device, outputs) = (kernel.device(), both / 2);
        let before = kernel.clone().slice(s![.., ..outputs, ..]).flip([2]);
        let window = Tensor::cat(vec![before, kernel.slice(s![.., outputs.., ..])], 2);
        let zeros = |count: usize| Tensor::zeros([channels, outputs, count], &device);
        let shifted = |shift: usize| {
            let mut pieces = vec![zeros(shift + 1), window.clone()];
            if shift + 1 < patch {
                pieces.push(zeros(patch - shift - 1));
            }
            Tensor::cat(pieces, 2)
        };
        let sum = (1..patch).fold(shifted(0), |sum, shift| sum + shifted(shift));
        debug_assert_eq!(sum.dims()[2], 2 * length + patch);
        sum / patch as f64
    }
}

/// The real and imaginary parts of `[a, b, states, 2]`.
fn parts(x: Tensor<4>) -> [Tensor<3>; 2] {
    [0, 1].map(|part| x.clone().slice(s![.., .., .., part..=part]).squeeze_dim::<3>(3))
}

/// The cosine with rounding errors at right angles replaced by 0.
fn snapped(cosine: f64) -> f64 {
    if cosine.abs() < 1e-12 { 0.0 } else { cosine }
}

/// The inverse Fourier transform `[length, 2 (length / 2 + 1)]` from the real and imaginary parts at the nodes to the kernel. It includes the
/// bilinear transform's factor `e^(i theta)`, which shifts the positions by a half.
fn inverse_transform(length: usize, device: &Device) -> Tensor<2> {
    let nodes = length / 2 + 1;
    let mut values = Vec::with_capacity(2 * nodes * length);
    for position in 0..length {
        for part in [f64::cos, |angle: f64| -angle.sin()] {
            values.extend((0..nodes).map(|node| {
                // All nodes but the first and the one at half the sampling rate also stand for their conjugates.
                let weight = if node == 0 || 2 * node == length { 1.0 } else { 2.0 } / length as f64;
                // Reduce the angle in integers, because large angles lose digits.
                let angle = PI * (node * (2 * position + 1) % (2 * length)) as f64 / length as f64;
                (weight * part(angle)) as f32
            }));
        }
    }
    Tensor::from_data(TensorData::new(values, [length, 2 * nodes]), device)
}

/// The initial state space of a kernel, with one state of each conjugate pair.
struct StateSpace {
    /// Negated real parts of the diagonal of A.
    decay: Vec<f64>,
    /// Negated imaginary parts of the diagonal of A.
    frequency: Vec<f64>,
    /// `B` and `P`, which are equal and real.
    projection: Vec<f64>,
}

impl StateSpace {
    /// Lower bound of the negated real parts and of the frequencies in the official initialisation.
    const FLOOR: f64 = 1e-4;

    /// HiPPO's truncated Fourier basis, diagonalised: frequencies `pi k` in falling order to 0; all projections are 1 except that of the
    /// constant function.
    fn fourier(states: usize) -> Self {
        let frequency = |k: usize| (PI * k as f64).max(Self::FLOOR);
        let projection = |k: usize| if k == 0 { 0.5_f64.sqrt() } else { 1.0 };
        Self {
            decay: vec![Self::FLOOR; states],
            frequency: (0..states).rev().map(frequency).collect(),
            projection: (0..states).rev().map(projection).collect(),
        }
    }

    /// `c (1 - dA^length)` for a row `c` of complex numbers and the matrix `dA` of one step. This truncates an infinite kernel to `length`
    /// positions.
    fn settled(&self, c: &[f64], dt: f64, length: usize) -> Vec<f64> {
        let half = dt / 2.0;
        // 1 / (1 - dt/2 A) on the diagonal.
        let inverse: Vec<[f64; 2]> = (self.decay.iter().zip(&self.frequency))
            .map(|(decay, frequency)| {
                let (re, im) = (1.0 + half * decay, half * frequency);
                [re / (re * re + im * im), -im / (re * re + im * im)]
            })
            .collect();
        let gain: f64 = self.projection.iter().zip(&inverse).map(|(p, inverse)| 2.0 * p * p * inverse[0]).sum();
        let mut row = c.to_vec();
        for _ in 0..length {
            // Sherman-Morrison: the inverse of a diagonal plus rank 1, summed over both states of every conjugate pair.
            let seen: f64 = (row.chunks(2).zip(&inverse).zip(&self.projection))
                .map(|((x, inverse), p)| 2.0 * p * (x[0] * inverse[0] - x[1] * inverse[1]))
                .sum();
            let taken = half * seen / (1.0 + half * gain);
            for ((x, inverse), p) in row.chunks_mut(2).zip(&inverse).zip(&self.projection) {
                let [re, im] = [x[0] - p * taken, x[1]];
                (x[0], x[1]) = (re * inverse[0] - im * inverse[1], re * inverse[1] + im * inverse[0]);
            }
            let seen: f64 = row.chunks(2).zip(&self.projection).map(|(x, p)| 2.0 * p * x[0]).sum();
            for (index, x) in row.chunks_mut(2).enumerate() {
                let (decay, frequency, p) = (self.decay[index], self.frequency[index], self.projection[index]);
                let [re, im] = [x[0], x[1]];
                x[0] = re - half * (decay * re - frequency * im + p * seen);
                x[1] = im - half * (decay * im + frequency * re);
            }
        }
        c.iter().zip(row).map(|(start, end)| start - end).collect()
    }
}

/// Adjusts the `C` of the kernel whose keys begin with `prefix` to `length` positions, as the official code does in its first forward pass.
/// `None`, without a change, when the state space is missing or its projection is not real, as that of every initialisation here is.
pub(crate) fn settle(state: &mut StateDict, prefix: &str, length: usize) -> Option<()> {
    let values = |name: &str| -> Option<Vec<f64>> {
        Some(state.get(&format!("{prefix}{name}"))?.data.iter().map(|value| f64::from(*value)).collect())
    };
    let projection = values("P")?;
    if projection.chunks(2).any(|pair| pair.get(1).is_none_or(|imaginary| *imaginary != 0.0)) {
        return None;
    }
    let space = StateSpace {
        decay: values("A_real")?.into_iter().map(f64::exp).collect(),
        frequency: values("A_imag")?,
        projection: projection.chunks(2).filter_map(|pair| pair.first().copied()).collect(),
    };
    let (steps, states) = (values("inv_dt")?, space.decay.len());
    let c = values("C")?;
    let fit = states > 0 && space.frequency.len() == states && space.projection.len() == states && !steps.is_empty();
    if !fit || !c.len().is_multiple_of(2 * states * steps.len()) {
        return None;
    }
    let rows = c.chunks(2 * states).zip(steps.iter().cycle());
    let settled = rows.flat_map(|(row, step)| space.settled(row, step.exp(), length)).map(|value| value as f32).collect();
    state.get_mut(&format!("{prefix}C"))?.data = settled;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{LoadOptions, load_into, state_dict_of};

    /// The kernel from its definition `k[j] = C dA^j dB`, the response of the state to one impulse, in float64.
    fn impulse_response(state: &StateSpace, c: &[f64], dt: f64, length: usize) -> Vec<f64> {
        // Real and imaginary parts of every state. Conjugates are not stored, so sums over all states are twice a real part.
        let half = dt / 2.0;
        let solve = |x: &mut [[f64; 2]]| {
            let inverse: Vec<[f64; 2]> = (state.decay.iter().zip(&state.frequency))
                .map(|(d, f)| (1.0 + half * d, half * f))
                .map(|(re, im)| [re / (re * re + im * im), -im / (re * re + im * im)])
                .collect();
            let times = |x: [f64; 2], y: [f64; 2]| [x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]];
            let seen: f64 = (0..x.len()).map(|n| 2.0 * state.projection[n] * times(x[n], inverse[n])[0]).sum();
            let gain: f64 = (0..x.len()).map(|n| 2.0 * state.projection[n].powi(2) * inverse[n][0]).sum();
            for n in 0..x.len() {
                x[n][0] -= state.projection[n] * half * seen / (1.0 + half * gain);
                x[n] = times(x[n], inverse[n]);
            }
        };
        let mut x: Vec<[f64; 2]> = state.projection.iter().map(|b| [dt * b, 0.0]).collect();
        solve(&mut x);
        let mut kernel = Vec::new();
        for _ in 0..length {
            kernel.push((0..x.len()).map(|n| 2.0 * (c[2 * n] * x[n][0] - c[2 * n + 1] * x[n][1])).sum());
            let seen: f64 = x.iter().zip(&state.projection).map(|(x, p)| 2.0 * p * x[0]).sum();
            for n in 0..x.len() {
                let [re, im] = x[n];
                x[n][0] = re - half * (state.decay[n] * re - state.frequency[n] * im + state.projection[n] * seen);
                x[n][1] = im - half * (state.decay[n] * im + state.frequency[n] * re);
            }
            solve(&mut x);
        }
        kernel
    }

    #[test]
    fn a_kernel_is_the_impulse_response_of_its_state_space() {
        let device = Device::flex();
        device.seed(5);
        let states = 8;
        let state = StateSpace::fourier(states);
        let c: Vec<f64> = (0..2 * states).map(|n| (1.3 * n as f64).sin()).collect();
        for (length, dt) in [(1, 0.5), (2, 0.3), (7, 0.9), (14, 0.1), (56, 0.02)] {
            let mut kernel = DplrKernel::new(1, 1, 2 * states, length, [0.1, 1.0], &device);
            let settled: Vec<f32> = state.settled(&c, dt, length).into_iter().map(|value| value as f32).collect();
            kernel.C = Param::from_tensor(Tensor::from_data(TensorData::new(settled, [1, 1, states, 2]), &device));
            kernel.inv_dt = Param::from_tensor(Tensor::from_data(TensorData::new(vec![dt.ln() as f32], [1, 1]), &device));
            let expected = impulse_response(&state, &c, dt, length);
            for (value, expected) in kernel.forward().into_data().iter::<f64>().zip(expected) {
                assert!((value - expected).abs() < 2e-5, "length {length}: {value}, not {expected}");
            }
        }
    }

    /// A file from before the first forward pass contains the `C` of the definition.
    #[test]
    fn a_file_that_never_ran_loads_as_the_kernel_it_defines() {
        let device = Device::flex();
        let (states, length, dt) = (8, 14, 0.3_f64);
        let space = StateSpace::fourier(states);
        let c: Vec<f64> = (0..2 * states).map(|n| f64::from((1.3 * n as f32).sin())).collect();
        let kernel = DplrKernel::new(1, 1, 2 * states, length, [0.1, 1.0], &device);
        let mut file = state_dict_of(&kernel, &|path: &str| format!("kernel.{path}"));
        file.get_mut("kernel.C").unwrap().data = c.iter().map(|value| *value as f32).collect();
        file.get_mut("kernel.inv_dt").unwrap().data = vec![dt.ln() as f32];
        settle(&mut file, "kernel.", length).unwrap();
        let (kernel, _) = load_into(kernel, &|path: &str| format!("kernel.{path}"), &file, &LoadOptions::new()).unwrap();
        for (value, expected) in kernel.forward().into_data().iter::<f64>().zip(impulse_response(&space, &c, dt, length)) {
            assert!((value - expected).abs() < 2e-5, "{value}, not {expected}");
        }
        file.get_mut("kernel.P").unwrap().data[1] = 0.5;
        assert!(settle(&mut file, "kernel.", length).is_none(), "another state space");
    }
}
