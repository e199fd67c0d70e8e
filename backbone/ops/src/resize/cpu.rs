//! The resize on the CPU, in the memory layout of the input: a task processes one plane (channels first) or one row of pixels (channels
//! last).

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::taps::{Tap, taps};
use super::{ResizeGradOps, ResizeGrads, ResizeOps};
use crate::cpu::simd::{Kernel, dispatch, fma};
use crate::cpu::{as_channels_first, contiguous, dims, stored_channels_last, tensor, to_channels_last, values};

impl ResizeOps for Flex {
    fn resize(x: FloatTensor<Self>, size: [usize; 2], align_corners: bool) -> FloatTensor<Self> {
        let [batch, channels, height, width] = dims::<4>(&x);
        let (rows, columns) = (taps(height, size[0], align_corners), taps(width, size[1], align_corners));
        if let Some(x) = stored_channels_last(&x) {
            let mut y = vec![0.0; batch * size[0] * size[1] * channels];
            y.par_chunks_mut(size[1] * channels).enumerate().for_each(|(task, y)| {
                let (image, row) = (task / size[0], task % size[0]);
                let x = &values(&x)[image * height * width * channels..][..height * width * channels];
                dispatch(ForwardRow { y, x, channels, width, row: &rows[row], columns: &columns });
            });
            return as_channels_first(&tensor(y, [batch, size[0], size[1], channels]));
        }
        let x = contiguous(x);
        let mut y = vec![0.0; batch * channels * size[0] * size[1]];
        y.par_chunks_mut(size[0] * size[1])
            .zip(values(&x).par_chunks(height * width))
            .for_each(|(y, x)| dispatch(Forward { y, x, width, rows: &rows, columns: &columns }));
        tensor(y, [batch, channels, size[0], size[1]])
    }
}

impl ResizeGradOps for Flex {
    fn resize_backward(grad: FloatTensor<Self>, x: FloatTensor<Self>, size: [usize; 2], align_corners: bool) -> ResizeGrads<Self> {
        let [batch, channels, height, width] = dims::<4>(&x);
        let (rows, columns) = (taps(height, size[0], align_corners), taps(width, size[1], align_corners));
        if stored_channels_last(&x).is_some() {
            let grad = to_channels_last(&grad);
            let (line, image_size) = (width * channels, size[0] * size[1] * channels);
            let mut dx = vec![0.0; batch * height * line];
            dx.par_chunks_mut(line).enumerate().for_each(|(task, dx)| {
                let grad = &values(&grad)[task / height * image_size..][..image_size];
                dispatch(BackwardRow { dx, grad, channels, row: task % height, rows: &rows, columns: &columns });
            });
            return ResizeGrads { x: as_channels_first(&tensor(dx, [batch, height, width, channels])) };
        }
        let grad = contiguous(grad);
        let mut dx = vec![0.0; batch * channels * height * width];
        dx.par_chunks_mut(height * width)
            .zip(values(&grad).par_chunks(size[0] * size[1]))
            .for_each(|(dx, grad)| dispatch(Backward { dx, grad, width, rows: &rows, columns: &columns }));
        ResizeGrads { x: tensor(dx, [batch, channels, height, width]) }
    }
}

/// Resize and argmax, with one task for each row of the result.
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

/// Interpolates between two rows of a plane.
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

/// A row of the result with all its channels.
struct ForwardRow<'a> {
    /// `[columns, channels]`
    y: &'a mut [f32],
    /// `[height, width, channels]`
    x: &'a [f32],
    channels: usize,
    width: usize,
    row: &'a Tap,
    columns: &'a [Tap],
}

impl Kernel for ForwardRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { y, x, channels, width, row, columns } = self;
        let mut mixed = vec![0.0; width * channels];
        mix_rows::<FMA>(&mut mixed, x, width * channels, row);
        for (y, tap) in y.chunks_exact_mut(channels).zip(columns) {
            let (low, high) = (&mixed[tap.low * channels..][..channels], &mixed[tap.high * channels..][..channels]);
            for ((y, low), high) in y.iter_mut().zip(low).zip(high) {
                *y = fma::<FMA>(tap.weight, high - low, *low);
            }
        }
    }
}

/// The gradient of a row of the input with all its channels.
struct BackwardRow<'a> {
    /// `[width, channels]`
    dx: &'a mut [f32],
    /// The gradient of the result, `[rows, columns, channels]`.
    grad: &'a [f32],
    channels: usize,
    row: usize,
    rows: &'a [Tap],
    columns: &'a [Tap],
}

impl Kernel for BackwardRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { dx, grad, channels, row, rows, columns } = self;
        for (tap, grad) in rows.iter().zip(grad.chunks_exact(columns.len() * channels)) {
            let weight = if tap.low == row { 1.0 - tap.weight } else { 0.0 } + if tap.high == row { tap.weight } else { 0.0 };
            if weight == 0.0 {
                continue;
            }
            for (tap, grad) in columns.iter().zip(grad.chunks_exact(channels)) {
                for (share, at) in [(weight * (1.0 - tap.weight), tap.low), (weight * tap.weight, tap.high)] {
                    for (dx, grad) in dx[at * channels..][..channels].iter_mut().zip(grad) {
                        *dx = fma::<FMA>(share, *grad, *dx);
                    }
                }
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
