//! The convolution on the CPU and its gradients.
//!
//! * `direct.rs`: a matrix product whose rows are pixels read in place. `winograd.rs`: 3x3 kernels of stride 1 with many channels.
//! * `patches.rs`: im2col and its transpose, for the gradients of strided convolutions.
//! * `weights.rs`: weights packed for both forward algorithms. `problem.rs`: sizes and slices.

mod direct;
mod patches;
mod problem;
mod weights;
mod winograd;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;

use super::window::Window;
use super::{ConvGradOps, ConvGrads, ConvOps, FusedConvOps};
use crate::cpu::gemm::{Matrix, Sizes, gemm, run_on_best_unit};
use crate::cpu::{contiguous, dims, tensor, values};
use crate::epilogue::{Epilogue, EpilogueParts};
use direct::Direct;
use patches::{patches, patches_backward};
use problem::Convolution;
use winograd::Winograd;

impl ConvOps for Flex {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
        biased: bool,
    ) -> FloatTensor<Self> {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let epilogue = Epilogue::bias(biased.then(|| values(&bias)));
        let convolution = Convolution::new(values(&x), dims(&x), values(&weight), dims(&weight), window, epilogue);
        tensor(convolve(&convolution), convolution.shape())
    }
}

impl FusedConvOps for Flex {
    fn convolve_fused(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        window: Window,
        parts: EpilogueParts,
    ) -> FloatTensor<Self> {
        let [x, weight, scale, bias, residual] = [x, weight, scale, bias, residual].map(contiguous);
        let epilogue = parts.select([&scale, &bias, &residual].map(values));
        let convolution = Convolution::new(values(&x), dims(&x), values(&weight), dims(&weight), window, epilogue);
        tensor(convolve(&convolution), convolution.shape())
    }
}

impl ConvGradOps for Flex {
    fn convolve_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
        biased: bool,
    ) -> ConvGrads<Self> {
        let [grad, x, weight] = [grad, x, weight].map(contiguous);
        let (shape, [outputs, inputs, kernel_height, kernel_width]) = (dims::<4>(&x), dims::<4>(&weight));
        let result_shape @ [batch, rows, columns, _] = dims::<4>(&grad);
        let taps = kernel_height * kernel_width;
        let (size, pixels) = (taps * inputs, batch * rows * columns);
        let full = [0, 1].map(|axis| (window.kernel[axis] - 1).checked_sub(window.padding[axis]));
        let (dx, by_tap) = if let ([1, 1], [Some(above), Some(left)]) = (window.stride, full) {
            // The gradient of the input is the convolution of the output's gradient with the kernel rotated by 180 degrees.
            let rotated = rotated_kernel(values(&weight), dims(&weight));
            let back = Window { padding: [above, left], ..window };
            let kernel = [inputs, outputs, kernel_height, kernel_width];
            let dx = convolve(&Convolution::new(values(&grad), result_shape, &rotated, kernel, back, Epilogue::default()));
            (dx, weight_grad_by_tap(values(&x), shape, values(&grad), outputs, window))
        } else {
            let rows_of_weight = transpose_last(values(&weight), inputs, taps);
            let sizes = Sizes { rows: pixels, columns: size, inner: outputs };
            let dpatches = gemm(Matrix::rows(values(&grad), outputs), Matrix::rows(&rows_of_weight, size), Epilogue::default(), sizes);
            let patches = patches(values(&x), shape, window);
            let sizes = Sizes { rows: outputs, columns: size, inner: pixels };
            let dweight = gemm(Matrix::columns(values(&grad), outputs), Matrix::rows(&patches, size), Epilogue::default(), sizes);
            (patches_backward(&dpatches, shape, window), dweight)
        };
        let dbias = if biased {
            let mut sums = vec![0.0; outputs];
            for row in values(&grad).chunks_exact(outputs) {
                sums.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
            }
            sums
        } else {
            vec![0.0; bias.layout().shape().num_elements()]
        };
        ConvGrads {
            x: tensor(dx, shape),
            // `[out, tap, in]` to `[out, in, tap]`.
            weight: tensor(transpose_last(&by_tap, taps, inputs), weight.layout().shape().clone()),
            bias: tensor(dbias, bias.layout().shape().clone()),
        }
    }
}

/// Transposes the last two axes, `[.., first, second]` to `[.., second, first]`.
fn transpose_last(values: &[f32], first: usize, second: usize) -> Vec<f32> {
    let mut transposed = vec![0.0; values.len()];
    let size = (first * second).max(1);
    for (transposed, values) in transposed.chunks_exact_mut(size).zip(values.chunks_exact(size)) {
        for (j, row) in transposed.chunks_exact_mut(first).enumerate() {
            row.iter_mut().enumerate().for_each(|(i, value)| *value = values[i * second + j]);
        }
    }
    transposed
}

/// The kernel `[out, in, height, width]` as `[in, out, height, width]`, rotated by 180 degrees.
fn rotated_kernel(weight: &[f32], [outputs, inputs, height, width]: [usize; 4]) -> Vec<f32> {
    let taps = height * width;
    let mut rotated = vec![0.0; weight.len()];
    for (input, target) in rotated.chunks_exact_mut((outputs * taps).max(1)).enumerate() {
        for (output, target) in target.chunks_exact_mut(taps).enumerate() {
            let kernel = &weight[(output * inputs + input) * taps..][..taps];
            target.iter_mut().zip(kernel.iter().rev()).for_each(|(value, weight)| *value = *weight);
        }
    }
    rotated
}

/// The gradient of the weight for stride 1, `[out, tap, in]`: for each tap, the product of the gradient with the padded image shifted by
/// the tap. Gradient and image are copied to the grid of the padded image, so that a shift is one offset into the slice; the gradient is 0
/// where it has no pixel.
fn weight_grad_by_tap(x: &[f32], [batch, height, width, channels]: [usize; 4], grad: &[f32], outputs: usize, window: Window) -> Vec<f32> {
    let [kernel_height, kernel_width] = window.kernel;
    let [rows, columns] = window.count([height, width]);
    let grid = [height + 2 * window.padding[0], width + 2 * window.padding[1]];
    let image = on_grid(x, [batch, height, width, channels], grid, window.padding);
    let grad = on_grid(grad, [batch, rows, columns, outputs], grid, [0, 0]);
    let taps = kernel_height * kernel_width;
    let mut result = vec![0.0; outputs * taps * channels];
    for tap in 0..taps {
        let shift = tap / kernel_width * grid[1] + tap % kernel_width;
        let sizes = Sizes { rows: outputs, columns: channels, inner: batch * grid[0] * grid[1] - shift };
        let right = Matrix::rows(&image[shift * channels..], channels);
        let part = gemm(Matrix::columns(&grad, outputs), right, Epilogue::default(), sizes);
        for (row, part) in result.chunks_exact_mut(taps * channels).zip(part.chunks_exact(channels)) {
            row[tap * channels..][..channels].copy_from_slice(part);
        }
    }
    result
}

/// Copies images to a larger grid of zeros, at `[above, left]`.
fn on_grid(values: &[f32], [batch, height, width, channels]: [usize; 4], grid: [usize; 2], [above, left]: [usize; 2]) -> Vec<f32> {
    let mut result = vec![0.0; batch * grid[0] * grid[1] * channels];
    for image in 0..batch {
        for row in 0..height {
            let source = &values[(image * height + row) * width * channels..][..width * channels];
            result[((image * grid[0] + row + above) * grid[1] + left) * channels..][..source.len()].copy_from_slice(source);
        }
    }
    result
}

/// Runs the fastest algorithm for the convolution.
fn convolve(convolution: &Convolution) -> Vec<f32> {
    let Convolution { x, batch, height, width, channels, weight, outputs, window, epilogue } = *convolution;
    if convolution.shape().contains(&0) {
        return Vec::new();
    }
    if window.is_pointwise() {
        let sizes = Sizes { rows: batch * height * width, columns: outputs, inner: channels };
        return gemm(Matrix::rows(x, channels), Matrix::columns(weight, channels), epilogue, sizes);
    }
    if Winograd::pays(convolution) { run_on_best_unit(Winograd(*convolution)) } else { run_on_best_unit(Direct(*convolution)) }
}

/// The convolution on every vector unit of this processor, directly and by Winograd's transform.
#[cfg(test)]
pub(super) fn every_way(
    x: &[f32],
    x_shape: [usize; 4],
    weight: &[f32],
    weight_shape: [usize; 4],
    window: Window,
    bias: &[f32],
) -> Vec<(String, Vec<f32>)> {
    use crate::cpu::gemm::run_on_every_unit;
    let convolution = Convolution::new(x, x_shape, weight, weight_shape, window, Epilogue::bias(Some(bias)));
    assert!(Winograd::pays(&convolution), "the sizes are too small for Winograd's transform");
    let named = |name: &'static str| move |(unit, result): (&'static str, Vec<f32>)| (format!("{name}, {unit}"), result);
    let direct = run_on_every_unit(Direct(convolution)).into_iter().map(named("direct"));
    direct.chain(run_on_every_unit(Winograd(convolution)).into_iter().map(named("Winograd"))).collect()
}
