//! LayerNorm on the CPU: rows in parallel; a row is read from memory once and stays in the first-level cache.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::{ChannelNormGradOps, ChannelNormGrads, ChannelNormOps};
use crate::cpu::simd::{Kernel, LANES, Lanes, dispatch, fma, lane_sum};
use crate::cpu::{contiguous, map_blocks, tensor, values};

/// Rows of a task. Fixed, so that the partial sums of the parameter gradients do not depend on the number of threads.
const ROWS: usize = 64;

impl ChannelNormOps for Flex {
    fn channel_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        let [weight, bias] = [weight, bias].map(contiguous);
        let (weight, bias) = (values(&weight), values(&bias));
        map_blocks(x, ROWS * weight.len(), |x| dispatch(Forward { x, weight, bias, eps }))
    }
}

impl ChannelNormGradOps for Flex {
    fn channel_norm_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
    ) -> ChannelNormGrads<Self> {
        let [grad, x, weight] = [grad, x, weight].map(contiguous);
        let channels = values(&weight).len();
        let block = ROWS * channels;
        let mut dx = vec![0.0; values(&x).len()];
        let tasks = dx.len().div_ceil(block);
        // For each task the gradient of the weight, then that of the bias.
        let mut partial = vec![0.0; tasks * 2 * channels];
        dx.par_chunks_mut(block)
            .zip(partial.par_chunks_mut(2 * channels))
            .zip(values(&x).par_chunks(block).zip(values(&grad).par_chunks(block)))
            .for_each(|((dx, partial), (x, grad))| {
                let (dweight, dbias) = partial.split_at_mut(channels);
                dispatch(Backward { dx, dweight, dbias, x, grad, weight: values(&weight), eps });
            });
        let mut sums = vec![0.0; 2 * channels];
        for task in partial.chunks(2 * channels) {
            sums.iter_mut().zip(task).for_each(|(sum, part)| *sum += part);
        }
        let dbias = sums.split_off(channels);
        ChannelNormGrads {
            x: tensor(dx, x.layout().shape().clone()),
            weight: tensor(sums, [channels]),
            bias: tensor(dbias, bias.layout().shape().clone()),
        }
    }
}

struct Forward<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let channels = self.weight.len();
        for x in self.x.chunks_exact_mut(channels) {
            let (mean, scale) = statistics::<FMA>(x, self.eps);
            for ((x, weight), bias) in x.iter_mut().zip(self.weight).zip(self.bias) {
                *x = fma::<FMA>((*x - mean) * scale, *weight, *bias);
            }
        }
    }
}

struct Backward<'a> {
    dx: &'a mut [f32],
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
    x: &'a [f32],
    grad: &'a [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let channels = self.weight.len();
        let rows = self.dx.chunks_exact_mut(channels).zip(self.x.chunks_exact(channels).zip(self.grad.chunks_exact(channels)));
        for (dx, (x, grad)) in rows {
            let (mean, scale) = statistics::<FMA>(x, self.eps);
            // dx = scale * (g - mean(g) - n * mean(g n)), with n the normalised row and g its gradient.
            for ((((dx, x), grad), dweight), dbias) in
                dx.iter_mut().zip(x).zip(grad).zip(self.dweight.iter_mut()).zip(self.dbias.iter_mut())
            {
                let normal = (x - mean) * scale;
                *dweight = fma::<FMA>(*grad, normal, *dweight);
                *dbias += grad;
                *dx = normal;
            }
            let count = channels as f32;
            let mean_g = sum::<FMA, 2>([grad, self.weight], |[grad, weight]| grad * weight) / count;
            let mean_gn = sum::<FMA, 3>([grad, self.weight, dx], |[grad, weight, normal]| grad * weight * normal) / count;
            for ((dx, grad), weight) in dx.iter_mut().zip(grad).zip(self.weight) {
                *dx = scale * (grad * weight - mean_g - *dx * mean_gn);
            }
        }
    }
}

/// Mean and `1 / sqrt(variance + eps)` of a row, in two passes: the one-pass formula loses the variance of data with a large mean.
#[inline(always)]
fn statistics<const FMA: bool>(x: &[f32], eps: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum::<FMA, 1>([x], |[x]| x) / count;
    let variance = sum::<FMA, 1>([x], |[x]| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// Sum of `term` over the elements of slices of the same length, with one accumulator for each lane.
#[inline(always)]
fn sum<const FMA: bool, const N: usize>(slices: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f32 {
    let mut lanes: Lanes = [0.0; LANES];
    let parts = slices.map(|slice| slice.as_chunks::<LANES>());
    let blocks = parts.iter().map(|(blocks, _)| blocks.len()).min().unwrap_or(0);
    for block in 0..blocks {
        // Indexing whole blocks keeps bounds checks out of the inner loop.
        let values = parts.map(|(blocks, _)| blocks[block]);
        for lane in 0..LANES {
            lanes[lane] += term(std::array::from_fn(|slice| values[slice][lane]));
        }
    }
    let rest = parts.iter().map(|(_, rest)| rest.len()).min().unwrap_or(0);
    for lane in 0..rest {
        lanes[lane] += term(parts.map(|(_, rest)| rest[lane]));
    }
    lane_sum(&lanes)
}
