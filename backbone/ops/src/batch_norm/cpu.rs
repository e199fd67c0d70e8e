//! Batch norm on the CPU: parallel sums over blocks of rows, with the channels in vectors.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::{BatchNormGradOps, BatchNormGrads, BatchNormOps, MomentsOps};
use crate::cpu::simd::{Kernel, dispatch, fma};
use crate::cpu::{contiguous, tensor, values};

/// Rows of a task. Fixed, so that sums do not depend on the number of threads.
const ROWS: usize = 64;

impl MomentsOps for Flex {
    fn moments(x: FloatTensor<Self>, _like: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = contiguous(x);
        let channels = x.layout().shape().last().copied().unwrap_or(1);
        let x = values(&x);
        let block = ROWS * channels;
        // Two passes: the one-pass formula loses the variance of data with a large mean.
        let mean = over_rows(x.par_chunks(block), channels, x.len(), |x, sums| dispatch(Sums { x, sums }));
        let variance = over_rows(x.par_chunks(block), channels, x.len(), |x, sums| dispatch(Squares { x, mean: &mean, sums }));
        tensor([mean, variance].concat(), [2, channels])
    }
}

impl BatchNormOps for Flex {
    fn normalise_batch(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        moments: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self> {
        let [x, weight, bias, moments] = [x, weight, bias, moments].map(contiguous);
        let (weight, bias) = (values(&weight), values(&bias));
        let (mean, variance) = values(&moments).split_at(weight.len());
        let scale: Vec<f32> = variance.iter().zip(weight).map(|(variance, weight)| weight / (variance + eps).sqrt()).collect();
        // Rounded like PyTorch, so that results near 0 have PyTorch's sign and a ReLU passes the values that it passes in PyTorch.
        let shift: Vec<f32> = bias.iter().zip(mean).zip(&scale).map(|((bias, mean), scale)| bias - mean * scale).collect();
        let block = ROWS * weight.len();
        let mut y = vec![0.0; values(&x).len()];
        y.par_chunks_mut(block)
            .zip(values(&x).par_chunks(block))
            .for_each(|(y, x)| dispatch(Forward { y, x, scale: &scale, shift: &shift }));
        tensor(y, x.layout().shape().clone())
    }
}

impl BatchNormGradOps for Flex {
    fn normalise_batch_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        moments: FloatTensor<Self>,
        eps: f32,
    ) -> BatchNormGrads<Self> {
        let [grad, x, weight, moments] = [grad, x, weight, moments].map(contiguous);
        let (weight, len) = (values(&weight), values(&x).len());
        let channels = weight.len();
        let (mean, variance) = values(&moments).split_at(channels);
        let scale: Vec<f32> = variance.iter().map(|variance| 1.0 / (variance + eps).sqrt()).collect();
        let block = ROWS * channels;
        let pairs = values(&grad).par_chunks(block).zip(values(&x).par_chunks(block));
        // Means over the rows: of the gradient, and of the gradient times the normalised input.
        let means = over_rows(pairs, 2 * channels, 2 * len, |(grad, x), sums| {
            let (plain, along) = sums.split_at_mut(channels);
            dispatch(GradientSums { grad, x, mean, scale: &scale, plain, along });
        });
        let (plain, along) = means.split_at(channels);
        let slope: Vec<f32> = scale.iter().zip(along).map(|(scale, along)| scale * along).collect();
        let gain: Vec<f32> = scale.iter().zip(weight).map(|(scale, weight)| scale * weight).collect();
        let mut dx = vec![0.0; len];
        dx.par_chunks_mut(block).zip(values(&grad).par_chunks(block).zip(values(&x).par_chunks(block))).for_each(|(dx, (grad, x))| {
            dispatch(Backward { dx, grad, x, mean, plain, slope: &slope, gain: &gain });
        });
        let rows = (len / channels.max(1)) as f32;
        let summed = |means: &[f32]| means.iter().map(|mean| mean * rows).collect();
        BatchNormGrads {
            x: tensor(dx, x.layout().shape().clone()),
            weight: tensor(summed(along), [channels]),
            bias: tensor(summed(plain), bias.layout().shape().clone()),
            moments: tensor(vec![0.0; 2 * channels], [2, channels]),
        }
    }
}

/// Means over `values / width` rows. `add` sums a block of rows in float32; the sums of the blocks are added in float64.
fn over_rows<T: Send>(
    blocks: impl IndexedParallelIterator<Item = T>,
    width: usize,
    values: usize,
    add: impl Fn(T, &mut [f32]) + Send + Sync,
) -> Vec<f32> {
    let mut partial = vec![0.0; blocks.len() * width];
    partial.par_chunks_mut(width.max(1)).zip(blocks).for_each(|(sums, block)| add(block, sums));
    let mut sums = vec![0.0_f64; width];
    for block in partial.chunks_exact(width.max(1)) {
        sums.iter_mut().zip(block).for_each(|(sum, part)| *sum += f64::from(*part));
    }
    let rows = (values / width.max(1)) as f64;
    sums.into_iter().map(|sum| (sum / rows) as f32).collect()
}

struct Sums<'a> {
    x: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for x in self.x.chunks_exact(self.sums.len()) {
            self.sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
        }
    }
}

struct Squares<'a> {
    x: &'a [f32],
    mean: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for Squares<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for x in self.x.chunks_exact(self.sums.len()) {
            for ((sum, x), mean) in self.sums.iter_mut().zip(x).zip(self.mean) {
                *sum = fma::<FMA>(x - mean, x - mean, *sum);
            }
        }
    }
}

struct Forward<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let channels = self.scale.len();
        for (y, x) in self.y.chunks_exact_mut(channels).zip(self.x.chunks_exact(channels)) {
            for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(self.scale).zip(self.shift) {
                *y = fma::<FMA>(*x, *scale, *shift);
            }
        }
    }
}

struct GradientSums<'a> {
    grad: &'a [f32],
    x: &'a [f32],
    mean: &'a [f32],
    /// `1 / sqrt(variance + eps)`
    scale: &'a [f32],
    /// `sum(g)`
    plain: &'a mut [f32],
    /// `sum(g n)`
    along: &'a mut [f32],
}

impl Kernel for GradientSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let channels = self.mean.len();
        for (grad, x) in self.grad.chunks_exact(channels).zip(self.x.chunks_exact(channels)) {
            let sums = self.plain.iter_mut().zip(self.along.iter_mut());
            for ((((plain, along), (grad, x)), mean), scale) in sums.zip(grad.iter().zip(x)).zip(self.mean).zip(self.scale) {
                *plain += grad;
                *along = fma::<FMA>(*grad, (x - mean) * scale, *along);
            }
        }
    }
}

/// `dx = weight * scale * (g - mean(g) - n * mean(g n))`, with `n` the normalised input and `g` the gradient of the output.
struct Backward<'a> {
    dx: &'a mut [f32],
    grad: &'a [f32],
    x: &'a [f32],
    mean: &'a [f32],
    /// `mean(g)`
    plain: &'a [f32],
    /// `scale * mean(g n)`
    slope: &'a [f32],
    /// `scale * weight`
    gain: &'a [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let channels = self.mean.len();
        let rows = self.dx.chunks_exact_mut(channels).zip(self.grad.chunks_exact(channels).zip(self.x.chunks_exact(channels)));
        for (dx, (grad, x)) in rows {
            let of_channel = self.mean.iter().zip(self.plain).zip(self.slope.iter().zip(self.gain));
            for ((dx, (grad, x)), ((mean, plain), (slope, gain))) in dx.iter_mut().zip(grad.iter().zip(x)).zip(of_channel) {
                *dx = gain * fma::<FMA>(mean - x, *slope, grad - plain);
            }
        }
    }
}
