//! Depthwise convolution on the CPU: rows in parallel, channels in vectors.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::{DepthwiseConvGradOps, DepthwiseConvGrads, DepthwiseConvOps, FusedDepthwiseConvOps};
use crate::cpu::simd::{Kernel, LANES, Lanes, dispatch, fma};
use crate::cpu::{contiguous, dims, tensor, values};
use crate::epilogue::Pointwise;

impl DepthwiseConvOps for Flex {
    fn depthwise_conv(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let shape = Shape::new(dims(&x), dims(&weight));
        let taps = by_tap(values(&weight), &shape, false);
        let y = convolve(values(&x), &taps, Some(values(&bias)), Pointwise::Identity, &shape);
        tensor(y, x.layout().shape().clone())
    }
}

impl FusedDepthwiseConvOps for Flex {
    fn depthwise_conv_fused(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        activation: Pointwise,
    ) -> FloatTensor<Self> {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let shape = Shape::new(dims(&x), dims(&weight));
        let taps = by_tap(values(&weight), &shape, false);
        let y = convolve(values(&x), &taps, Some(values(&bias)), activation, &shape);
        tensor(y, x.layout().shape().clone())
    }
}

impl DepthwiseConvGradOps for Flex {
    fn depthwise_conv_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> DepthwiseConvGrads<Self> {
        let [grad, x, weight] = [grad, x, weight].map(contiguous);
        let shape = Shape::new(dims(&x), dims(&weight));
        // The gradient of the input is the gradient of the output convolved with the kernel rotated by 180 degrees.
        let dx = convolve(values(&grad), &by_tap(values(&weight), &shape, true), None, Pointwise::Identity, &shape);
        let (dweight, dbias) = parameter_grads(values(&x), values(&grad), &shape);
        DepthwiseConvGrads {
            x: tensor(dx, x.layout().shape().clone()),
            weight: tensor(dweight, weight.layout().shape().clone()),
            bias: tensor(dbias, bias.layout().shape().clone()),
        }
    }
}

#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    k: usize,
}

impl Shape {
    fn new([batch, height, width, channels]: [usize; 4], [_, _, k, _]: [usize; 4]) -> Self {
        Self { batch, height, width, channels, k }
    }

    /// Values of a row of pixels.
    fn row(&self) -> usize {
        self.width * self.channels
    }
}

/// The kernel as `[k * k, channels]`, rotated by 180 degrees if `rotated`.
fn by_tap(weight: &[f32], shape: &Shape, rotated: bool) -> Vec<f32> {
    let taps = shape.k * shape.k;
    let mut by_tap = vec![0.0; weight.len()];
    for (channel, kernel) in weight.chunks_exact(taps).enumerate() {
        for (tap, value) in kernel.iter().enumerate() {
            let tap = if rotated { taps - 1 - tap } else { tap };
            by_tap[tap * shape.channels + channel] = *value;
        }
    }
    by_tap
}

fn convolve(x: &[f32], taps: &[f32], bias: Option<&[f32]>, activation: Pointwise, shape: &Shape) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let zeros = vec![0.0; shape.channels];
    y.par_chunks_mut(shape.row().max(1))
        .enumerate()
        .for_each(|(row, y)| dispatch(Row { y, x, taps, bias: bias.unwrap_or(&zeros), zeros: &zeros, row, activation, shape: *shape }));
    y
}

/// The convolution of one row of pixels.
struct Row<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    /// `[k * k, channels]`
    taps: &'a [f32],
    bias: &'a [f32],
    /// A pixel of the padding.
    zeros: &'a [f32],
    /// `image * height + row`.
    row: usize,
    activation: Pointwise,
    shape: Shape,
}

/// The taps of a kernel of side `size`, centred at `at`, that lie inside `0..extent`: the first tap, the end of the taps, and the position
/// of the first tap.
#[inline(always)]
fn inside(at: usize, extent: usize, size: usize) -> (usize, usize, usize) {
    let half = size / 2;
    let first = half.saturating_sub(at);
    let end = size.min(extent + half - at);
    (first, end, at + first - half)
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        match self.shape.k {
            3 => self.three::<FMA>(),
            _ => self.any::<FMA>(),
        }
    }
}

impl Row<'_> {
    /// The pixel under a tap of the kernel centred at column `at_x`; zeros in the padding.
    #[inline(always)]
    fn pixel(&self, at_x: usize, ky: usize, kx: usize) -> &[f32] {
        let Shape { height, width, channels, k, .. } = self.shape;
        let (image, at_y) = (self.row / height, self.row % height);
        let y = (at_y + ky).checked_sub(k / 2).filter(|y| *y < height);
        let x = (at_x + kx).checked_sub(k / 2).filter(|x| *x < width);
        match (y, x) {
            (Some(y), Some(x)) => &self.x[((image * height + y) * width + x) * channels..][..channels],
            _ => self.zeros,
        }
    }

    /// A 3x3 kernel: the nine input pixels are looked up once for each output pixel, so the loop over channels has no branches.
    #[inline(always)]
    fn three<const FMA: bool>(mut self) {
        let (channels, activation) = (self.shape.channels, self.activation);
        let y = std::mem::take(&mut self.y);
        let taps: [&[f32]; 9] = std::array::from_fn(|tap| &self.taps[tap * channels..][..channels]);
        let (bias, _) = self.bias.as_chunks::<LANES>();
        for (at_x, target) in y.chunks_exact_mut(channels).enumerate() {
            let pixels: [&[f32]; 9] = std::array::from_fn(|tap| self.pixel(at_x, tap / 3, tap % 3));
            let (blocks, rest) = target.as_chunks_mut::<LANES>();
            let (weights, values) = (taps.map(|tap| tap.as_chunks::<LANES>().0), pixels.map(|pixel| pixel.as_chunks::<LANES>().0));
            for (block, (target, bias)) in blocks.iter_mut().zip(bias).enumerate() {
                let mut sum = *bias;
                for (values, weights) in values.iter().zip(&weights) {
                    let (values, weights): (&Lanes, &Lanes) = (&values[block], &weights[block]);
                    for lane in 0..LANES {
                        sum[lane] = fma::<FMA>(values[lane], weights[lane], sum[lane]);
                    }
                }
                activation.apply_to::<FMA>(&mut sum);
                *target = sum;
            }
            let first = channels - rest.len();
            for (channel, target) in (first..channels).zip(rest.iter_mut()) {
                *target = (0..9).fold(self.bias[channel], |sum, tap| fma::<FMA>(pixels[tap][channel], taps[tap][channel], sum));
            }
            activation.apply_to::<FMA>(rest);
        }
    }

    /// A kernel of any size.
    #[inline(always)]
    fn any<const FMA: bool>(mut self) {
        let Shape { channels, k, .. } = self.shape;
        let y = std::mem::take(&mut self.y);
        for (at_x, target) in y.chunks_exact_mut(channels).enumerate() {
            target.copy_from_slice(self.bias);
            for (tap, weights) in self.taps.chunks_exact(channels).enumerate() {
                let pixel = self.pixel(at_x, tap / k, tap % k);
                for ((sum, value), weight) in target.iter_mut().zip(pixel).zip(weights) {
                    *sum = fma::<FMA>(*value, *weight, *sum);
                }
            }
            self.activation.apply_to::<FMA>(target);
        }
    }
}

/// Rows that a task sums. Fixed, so that the result does not depend on the number of threads.
const ROWS: usize = 16;

/// The gradients of the kernel and the bias.
fn parameter_grads(x: &[f32], grad: &[f32], shape: &Shape) -> (Vec<f32>, Vec<f32>) {
    let Shape { batch, height, channels, k, .. } = *shape;
    let taps = k * k;
    let rows = batch * height;
    let partial: Vec<Vec<f32>> = (0..rows.div_ceil(ROWS))
        .into_par_iter()
        .map(|task| {
            let mut sums = vec![0.0; (taps + 1) * channels];
            for row in task * ROWS..rows.min((task + 1) * ROWS) {
                dispatch(RowGrad { sums: &mut sums, x, grad, row, shape: *shape });
            }
            sums
        })
        .collect();
    let mut sums = vec![0.0; (taps + 1) * channels];
    for part in &partial {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    let dbias = sums.split_off(taps * channels);
    let dweight = (0..channels * taps).map(|i| sums[i % taps * channels + i / taps]).collect();
    (dweight, dbias)
}

/// Adds the contribution of one row of pixels to the gradients of the kernel and the bias.
struct RowGrad<'a> {
    /// `[k * k + 1, channels]`, with the bias last
    sums: &'a mut [f32],
    x: &'a [f32],
    grad: &'a [f32],
    row: usize,
    shape: Shape,
}

impl Kernel for RowGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { sums, x, grad, row, shape } = self;
        let Shape { height, width, channels, k, .. } = shape;
        let (image, at_y) = (row / height, row % height);
        let (ky_first, ky_end, y_first) = inside(at_y, height, k);
        for at_x in 0..width {
            let (kx_first, kx_end, x_first) = inside(at_x, width, k);
            let grad = &grad[(row * width + at_x) * channels..][..channels];
            for ky in ky_first..ky_end {
                for kx in kx_first..kx_end {
                    let position = (image * height + y_first + ky - ky_first) * width + x_first + kx - kx_first;
                    let source = &x[position * channels..][..channels];
                    let sums = &mut sums[(ky * k + kx) * channels..][..channels];
                    for ((sum, source), grad) in sums.iter_mut().zip(source).zip(grad) {
                        *sum = fma::<FMA>(*source, *grad, *sum);
                    }
                }
            }
            for (sum, grad) in sums[k * k * channels..].iter_mut().zip(grad) {
                *sum += grad;
            }
        }
    }
}
