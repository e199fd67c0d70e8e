//! The resize on the CPU: one task takes one plane.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::{ResizeGradOps, ResizeGrads, ResizeOps, Tap, taps};
use crate::flex::{contiguous, dims, tensor, values};
use crate::simd::{Kernel, dispatch, fma};

impl ResizeOps for Flex {
    fn resize(x: FloatTensor<Self>, size: [usize; 2], align_corners: bool) -> FloatTensor<Self> {
        let x = contiguous(x);
        let [batch, channels, height, width] = dims::<4>(&x);
        let (rows, columns) = (taps(height, size[0], align_corners), taps(width, size[1], align_corners));
        let mut y = vec![0.0; batch * channels * size[0] * size[1]];
        y.par_chunks_mut(size[0] * size[1])
            .zip(values(&x).par_chunks(height * width))
            .for_each(|(y, x)| dispatch(Forward { y, x, width, rows: &rows, columns: &columns }));
        tensor(y, [batch, channels, size[0], size[1]])
    }
}

impl ResizeGradOps for Flex {
    fn resize_backward(grad: FloatTensor<Self>, x: FloatTensor<Self>, size: [usize; 2], align_corners: bool) -> ResizeGrads<Self> {
        let grad = contiguous(grad);
        let [batch, channels, height, width] = dims::<4>(&x);
        let (rows, columns) = (taps(height, size[0], align_corners), taps(width, size[1], align_corners));
        let mut dx = vec![0.0; batch * channels * height * width];
        dx.par_chunks_mut(height * width)
            .zip(values(&grad).par_chunks(size[0] * size[1]))
            .for_each(|(dx, grad)| dispatch(Backward { dx, grad, width, rows: &rows, columns: &columns }));
        ResizeGrads { x: tensor(dx, [batch, channels, height, width]) }
    }
}

/// Resize and argmax, one task a row.
pub(super) fn argmax_resized(scores: &[f32], [channels, height, width]: [usize; 3], size: [usize; 2]) -> Vec<u32> {
    let (rows, columns) = (taps(height, size[0], false), taps(width, size[1], false));
    let mut labels = vec![0; size[0] * size[1]];
    labels
        .par_chunks_mut(size[1])
        .zip(&rows)
        .for_each(|(labels, row)| dispatch(ArgmaxRow { labels, scores, channels, height, width, row, columns: &columns }));
    labels
}

struct ArgmaxRow<'a> {
    labels: &'a mut [u32],
    scores: &'a [f32],
    channels: usize,
    height: usize,
    width: usize,
    row: &'a Tap,
    columns: &'a [Tap],
}

impl Kernel for ArgmaxRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { labels, scores, channels, height, width, row, columns } = self;
        let (mut mixed, mut best) = (vec![0.0; width], vec![f32::NEG_INFINITY; columns.len()]);
        for channel in 0..channels {
            mix_rows::<FMA>(&mut mixed, &scores[channel * height * width..][..height * width], width, row);
            for (((label, best), tap), channel) in labels.iter_mut().zip(&mut best).zip(columns).zip(std::iter::repeat(channel as u32)) {
                let (low, high) = (mixed[tap.low], mixed[tap.high]);
                let score = fma::<FMA>(tap.weight, high - low, low);
                if score > *best {
                    *best = score;
                    *label = channel;
                }
            }
        }
    }
}

/// The interpolation between two rows of a plane.
#[inline(always)]
fn mix_rows<const FMA: bool>(mixed: &mut [f32], plane: &[f32], width: usize, row: &Tap) {
    let (low, high) = (&plane[row.low * width..][..width], &plane[row.high * width..][..width]);
    for ((mixed, low), high) in mixed.iter_mut().zip(low).zip(high) {
        *mixed = fma::<FMA>(row.weight, high - low, *low);
    }
}

struct Forward<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    width: usize,
    rows: &'a [Tap],
    columns: &'a [Tap],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { y, x, width, rows, columns } = self;
        let mut mixed = vec![0.0; width];
        for (row, y) in rows.iter().zip(y.chunks_exact_mut(columns.len())) {
            mix_rows::<FMA>(&mut mixed, x, width, row);
            for (y, tap) in y.iter_mut().zip(columns) {
                let (low, high) = (mixed[tap.low], mixed[tap.high]);
                *y = fma::<FMA>(tap.weight, high - low, low);
            }
        }
    }
}

struct Backward<'a> {
    dx: &'a mut [f32],
    grad: &'a [f32],
    width: usize,
    rows: &'a [Tap],
    columns: &'a [Tap],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { dx, grad, width, rows, columns } = self;
        let mut mixed = vec![0.0; width];
        for (row, grad) in rows.iter().zip(grad.chunks_exact(columns.len())) {
            mixed.fill(0.0);
            for (grad, tap) in grad.iter().zip(columns) {
                let high = grad * tap.weight;
                mixed[tap.low] += grad - high;
                mixed[tap.high] += high;
            }
            for (weight, at) in [(1.0 - row.weight, row.low), (row.weight, row.high)] {
                for (dx, mixed) in dx[at * width..][..width].iter_mut().zip(&mixed) {
                    *dx = fma::<FMA>(weight, *mixed, *dx);
                }
            }
        }
    }
}
