//! Softmax, cross entropy and argmax on the CPU: a task processes a run of pixels over all channels, so that values stay in the cache
//! between passes.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::{CrossEntropyGradOps, CrossEntropyGrads, CrossEntropyOps, IGNORED, SoftmaxGradOps, SoftmaxGrads, SoftmaxOps};
use crate::cpu::math::{exp, ln};
use crate::cpu::simd::{Kernel, dispatch};
use crate::cpu::{SharedMut, contiguous, dims, tensor, values};

/// Pixels of a task.
const TILE: usize = 256;

/// One value for each pixel of a tile.
type Pixels = [f32; TILE];

impl SoftmaxOps for Flex {
    fn channel_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = contiguous(x);
        let mut y = vec![0.0; values(&x).len()];
        let output = SharedMut::new(&mut y);
        each_tile(dims(&x), |tile| dispatch(Forward { tile, x: values(&x), output }));
        tensor(y, x.layout().shape().clone())
    }
}

impl SoftmaxGradOps for Flex {
    fn channel_softmax_backward(grad: FloatTensor<Self>, x: FloatTensor<Self>) -> SoftmaxGrads<Self> {
        let (grad, x) = (contiguous(grad), contiguous(x));
        let mut dx = vec![0.0; values(&x).len()];
        let output = SharedMut::new(&mut dx);
        each_tile(dims(&x), |tile| dispatch(Backward { tile, x: values(&x), grad: values(&grad), output }));
        SoftmaxGrads { x: tensor(dx, x.layout().shape().clone()) }
    }
}

impl CrossEntropyOps for Flex {
    fn cross_entropy(logits: FloatTensor<Self>, targets: Arc<Vec<u32>>) -> FloatTensor<Self> {
        let logits = contiguous(logits);
        let [batch, _, height, width] = dims::<4>(&logits);
        let mut loss = vec![0.0; batch * height * width];
        let output = SharedMut::new(&mut loss);
        each_tile(dims(&logits), |tile| dispatch(Loss { tile, logits: values(&logits), targets: &targets, output }));
        tensor(loss, [batch, height, width])
    }
}

impl CrossEntropyGradOps for Flex {
    fn cross_entropy_backward(grad: FloatTensor<Self>, logits: FloatTensor<Self>, targets: Arc<Vec<u32>>) -> CrossEntropyGrads<Self> {
        let (grad, logits) = (contiguous(grad), contiguous(logits));
        let mut dlogits = vec![0.0; values(&logits).len()];
        let output = SharedMut::new(&mut dlogits);
        each_tile(dims(&logits), |tile| {
            dispatch(LossGrad { tile, logits: values(&logits), grad: values(&grad), targets: &targets, output });
        });
        CrossEntropyGrads { logits: tensor(dlogits, logits.layout().shape().clone()) }
    }
}

/// A run of pixels of one image.
#[derive(Clone, Copy)]
struct Tile {
    image: usize,
    first: usize,
    len: usize,
    channels: usize,
    pixels: usize,
}

impl Tile {
    /// Position of the tile in channel `channel` of a `[batch, channels, pixels]` buffer.
    #[inline(always)]
    fn start(&self, channel: usize) -> usize {
        (self.image * self.channels + channel) * self.pixels + self.first
    }

    /// Position of the tile in a `[batch, pixels]` buffer.
    #[inline(always)]
    fn map(&self) -> usize {
        self.image * self.pixels + self.first
    }

    /// Maximum `m` over the channels and sum of `exp(x - m)`.
    #[inline(always)]
    fn normaliser<const FMA: bool>(&self, x: &[f32]) -> (Pixels, Pixels) {
        let (mut largest, mut sum) = ([f32::NEG_INFINITY; TILE], [0.0; TILE]);
        for channel in 0..self.channels {
            for (largest, x) in largest.iter_mut().zip(&x[self.start(channel)..][..self.len]) {
                *largest = largest.max(*x);
            }
        }
        for channel in 0..self.channels {
            for ((sum, largest), x) in sum.iter_mut().zip(&largest).zip(&x[self.start(channel)..][..self.len]) {
                *sum += exp::<FMA>(x - largest);
            }
        }
        (largest, sum)
    }
}

/// Runs `work` on every tile in parallel.
fn each_tile([batch, channels, height, width]: [usize; 4], work: impl Fn(Tile) + Sync) {
    let pixels = height * width;
    let tiles = pixels.div_ceil(TILE);
    (0..batch * tiles).into_par_iter().for_each(|task| {
        let first = task % tiles * TILE;
        work(Tile { image: task / tiles, first, len: TILE.min(pixels - first), channels, pixels });
    });
}

struct Forward<'a> {
    tile: Tile,
    x: &'a [f32],
    output: SharedMut,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { tile, x, output } = self;
        let (largest, mut sum) = tile.normaliser::<FMA>(x);
        sum.iter_mut().for_each(|sum| *sum = 1.0 / *sum);
        for channel in 0..tile.channels {
            let start = tile.start(channel);
            // SAFETY: tiles do not overlap.
            let y = unsafe { output.block(start, tile.len) };
            for (((y, x), largest), scale) in y.iter_mut().zip(&x[start..][..tile.len]).zip(&largest).zip(&sum) {
                *y = exp::<FMA>(x - largest) * scale;
            }
        }
    }
}

struct Backward<'a> {
    tile: Tile,
    x: &'a [f32],
    grad: &'a [f32],
    output: SharedMut,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { tile, x, grad, output } = self;
        let (largest, mut sum) = tile.normaliser::<FMA>(x);
        sum.iter_mut().for_each(|sum| *sum = 1.0 / *sum);
        // dx_c = y_c (g_c - sum_k y_k g_k)
        let mut inner = [0.0; TILE];
        for channel in 0..tile.channels {
            let start = tile.start(channel);
            // SAFETY: tiles do not overlap.
            let y = unsafe { output.block(start, tile.len) };
            let pixels = y.iter_mut().zip(&mut inner).zip(x[start..][..tile.len].iter().zip(&grad[start..][..tile.len]));
            for ((((y, inner), (x, g)), largest), scale) in pixels.zip(&largest).zip(&sum) {
                *y = exp::<FMA>(x - largest) * scale;
                *inner += *y * g;
            }
        }
        for channel in 0..tile.channels {
            let start = tile.start(channel);
            // SAFETY: tiles do not overlap.
            let y = unsafe { output.block(start, tile.len) };
            for ((y, g), inner) in y.iter_mut().zip(&grad[start..][..tile.len]).zip(&inner) {
                *y *= g - inner;
            }
        }
    }
}

struct Loss<'a> {
    tile: Tile,
    logits: &'a [f32],
    targets: &'a [u32],
    output: SharedMut,
}

impl Kernel for Loss<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { tile, logits, targets, output } = self;
        let (largest, sum) = tile.normaliser::<FMA>(logits);
        // SAFETY: tiles do not overlap.
        let loss = unsafe { output.block(tile.map(), tile.len) };
        for (((loss, largest), sum), index) in loss.iter_mut().zip(&largest).zip(&sum).zip(0..) {
            let target = targets[tile.map() + index];
            if target != IGNORED {
                *loss = ln::<FMA>(*sum) + largest - logits[tile.start(target as usize) + index];
            }
        }
    }
}

struct LossGrad<'a> {
    tile: Tile,
    logits: &'a [f32],
    grad: &'a [f32],
    targets: &'a [u32],
    output: SharedMut,
}

impl Kernel for LossGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { tile, logits, grad, targets, output } = self;
        let (largest, sum) = tile.normaliser::<FMA>(logits);
        let targets = &targets[tile.map()..][..tile.len];
        // The gradient of the pixel's loss divided by its sum of exponentials; 0 for ignored pixels.
        let mut scale = [0.0; TILE];
        for (((scale, grad), target), sum) in scale.iter_mut().zip(&grad[tile.map()..][..tile.len]).zip(targets).zip(&sum) {
            *scale = if *target == IGNORED { 0.0 } else { grad / sum };
        }
        for channel in 0..tile.channels {
            let start = tile.start(channel);
            // SAFETY: tiles do not overlap.
            let output = unsafe { output.block(start, tile.len) };
            for (((output, x), largest), scale) in output.iter_mut().zip(&logits[start..][..tile.len]).zip(&largest).zip(&scale) {
                *output = exp::<FMA>(x - largest) * scale;
            }
        }
        for (index, target) in targets.iter().enumerate() {
            if *target != IGNORED {
                // SAFETY: as above; `cross_entropy_map` checked that the target is a channel.
                let own = unsafe { output.block(tile.start(*target as usize) + index, 1) };
                own[0] -= grad[tile.map() + index];
            }
        }
    }
}

/// The channel with the largest value at every pixel of `[batch, channels, height, width]`; ties give the lowest.
pub(super) fn argmax(scores: &[f32], [batch, channels, height, width]: [usize; 4]) -> Vec<u32> {
    let pixels = height * width;
    let mut result = vec![0; batch * pixels];
    result.par_chunks_mut(pixels.max(1)).zip(scores.par_chunks((channels * pixels).max(1))).for_each(|(result, scores)| {
        result.par_chunks_mut(TILE).enumerate().for_each(|(tile, result)| {
            let mut best = [f32::NEG_INFINITY; TILE];
            for channel in 0..channels {
                let row = &scores[channel * pixels + tile * TILE..][..result.len()];
                for ((result, best), score) in result.iter_mut().zip(&mut best).zip(row) {
                    if *score > *best {
                        *best = *score;
                        *result = channel as u32;
                    }
                }
            }
        });
    });
    result
}
