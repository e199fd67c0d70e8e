//! The convolution on the CPU: by Winograd's transform where it pays, directly elsewhere, and its gradients.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;

use super::direct::Direct;
use super::patches::{patches, patches_backward};
use super::winograd::Winograd;
use super::{ConvGradOps, ConvGrads, ConvOps, FusedConvOps, Window};
use crate::flex::{contiguous, dims, tensor, values};
use crate::matmul::{Epilogue, Factor, Pointwise, Sizes, product, run_blocked, threads_for};

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
        tensor(convolution.run(), convolution.shape())
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
        parts: [bool; 3],
        activation: Pointwise,
    ) -> FloatTensor<Self> {
        let [x, weight, scale, bias, residual] = [x, weight, scale, bias, residual].map(contiguous);
        let epilogue = Epilogue {
            scale: parts[0].then(|| values(&scale)),
            bias: parts[1].then(|| values(&bias)),
            residual: parts[2].then(|| values(&residual)),
            activation,
        };
        let convolution = Convolution::new(values(&x), dims(&x), values(&weight), dims(&weight), window, epilogue);
        tensor(convolution.run(), convolution.shape())
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
            // The gradient of the input is the convolution of the gradient with the kernel turned by half a turn.
            let turned = turned_kernel(values(&weight), dims(&weight));
            let back = Window { padding: [above, left], ..window };
            let kernel = [inputs, outputs, kernel_height, kernel_width];
            let dx = Convolution::new(values(&grad), result_shape, &turned, kernel, back, Epilogue::default()).run();
            (dx, weight_grad_by_tap(values(&x), shape, values(&grad), outputs, window))
        } else {
            let rows_of_weight = by_pixel(values(&weight), inputs, taps);
            let sizes = Sizes { rows: pixels, columns: size, inner: outputs };
            let dpatches = product(Factor::rows(values(&grad), outputs), Factor::rows(&rows_of_weight, size), Epilogue::default(), sizes);
            let patches = patches(values(&x), shape, window);
            let sizes = Sizes { rows: outputs, columns: size, inner: pixels };
            let dweight = product(Factor::columns(values(&grad), outputs), Factor::rows(&patches, size), Epilogue::default(), sizes);
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
            weight: tensor(by_pixel(&by_tap, taps, inputs), weight.layout().shape().clone()),
            bias: tensor(dbias, bias.layout().shape().clone()),
        }
    }
}

/// `[.., first, second]` to `[.., second, first]`.
fn by_pixel(values: &[f32], first: usize, second: usize) -> Vec<f32> {
    let mut turned = vec![0.0; values.len()];
    let size = (first * second).max(1);
    for (turned, values) in turned.chunks_exact_mut(size).zip(values.chunks_exact(size)) {
        for (j, row) in turned.chunks_exact_mut(first).enumerate() {
            row.iter_mut().enumerate().for_each(|(i, value)| *value = values[i * second + j]);
        }
    }
    turned
}

/// The kernel `[out, in, height, width]` as `[in, out, height, width]`, turned by half a turn.
fn turned_kernel(weight: &[f32], [outputs, inputs, height, width]: [usize; 4]) -> Vec<f32> {
    let taps = height * width;
    let mut turned = vec![0.0; weight.len()];
    for (input, target) in turned.chunks_exact_mut((outputs * taps).max(1)).enumerate() {
        for (output, target) in target.chunks_exact_mut(taps).enumerate() {
            let kernel = &weight[(output * inputs + input) * taps..][..taps];
            target.iter_mut().zip(kernel.iter().rev()).for_each(|(value, weight)| *value = *weight);
        }
    }
    turned
}

/// The gradient of the weight for stride 1, `[out, tap, in]`: a product of the gradient with the padded image moved by the tap. Both lie
/// on the grid of the padded image, with zeros where the gradient has no pixel, so that a move is one offset.
fn weight_grad_by_tap(x: &[f32], [batch, height, width, channels]: [usize; 4], grad: &[f32], outputs: usize, window: Window) -> Vec<f32> {
    let [kernel_height, kernel_width] = window.kernel;
    let [rows, columns] = window.count([height, width]);
    let grid = [height + 2 * window.padding[0], width + 2 * window.padding[1]];
    let image = on_grid(x, [batch, height, width, channels], grid, window.padding);
    let grad = on_grid(grad, [batch, rows, columns, outputs], grid, [0, 0]);
    let taps = kernel_height * kernel_width;
    let mut result = vec![0.0; outputs * taps * channels];
    for tap in 0..taps {
        let moved = tap / kernel_width * grid[1] + tap % kernel_width;
        let sizes = Sizes { rows: outputs, columns: channels, inner: batch * grid[0] * grid[1] - moved };
        let right = Factor::rows(&image[moved * channels..], channels);
        let part = product(Factor::columns(&grad, outputs), right, Epilogue::default(), sizes);
        for (row, part) in result.chunks_exact_mut(taps * channels).zip(part.chunks_exact(channels)) {
            row[tap * channels..][..channels].copy_from_slice(part);
        }
    }
    result
}

/// Images on a larger grid, with zeros around them.
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

/// A convolution whose slices fit.
#[derive(Clone, Copy)]
pub(super) struct Convolution<'a> {
    pub(super) x: &'a [f32],
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    /// `[outputs, channels, kernel height, kernel width]`
    pub(super) weight: &'a [f32],
    pub(super) outputs: usize,
    pub(super) window: Window,
    pub(super) epilogue: Epilogue<'a>,
}

impl<'a> Convolution<'a> {
    /// # Panics
    /// When a slice is not as long as its shape says. The public functions checked the shapes against each other.
    pub(super) fn new(
        x: &'a [f32],
        [batch, height, width, channels]: [usize; 4],
        weight: &'a [f32],
        [outputs, inputs, ..]: [usize; 4],
        window: Window,
        epilogue: Epilogue<'a>,
    ) -> Self {
        let convolution = Self { x, batch, height, width, channels, weight, outputs, window, epilogue };
        let [rows, columns] = window.count([height, width]);
        assert!(x.len() == batch * height * width * channels && inputs == channels, "conv2d: the image does not fit");
        assert!(weight.len() == outputs * inputs * window.kernel[0] * window.kernel[1], "conv2d: the weight does not fit");
        epilogue.check(batch * rows * columns, outputs);
        convolution
    }

    fn shape(&self) -> [usize; 4] {
        let [rows, columns] = self.window.count([self.height, self.width]);
        [self.batch, rows, columns, self.outputs]
    }

    pub(super) fn threads(&self) -> usize {
        threads_for(self.shape().iter().product::<usize>() * self.channels * self.window.kernel[0] * self.window.kernel[1])
    }

    fn run(&self) -> Vec<f32> {
        if self.shape().contains(&0) {
            return Vec::new();
        }
        let pointwise = self.window == Window { kernel: [1, 1], stride: [1, 1], padding: [0, 0] };
        if pointwise {
            let sizes = Sizes { rows: self.batch * self.height * self.width, columns: self.outputs, inner: self.channels };
            return product(Factor::rows(self.x, self.channels), Factor::columns(self.weight, self.channels), self.epilogue, sizes);
        }
        if Winograd::pays(self) { run_blocked(Winograd(*self)) } else { run_blocked(Direct(*self)) }
    }
}
