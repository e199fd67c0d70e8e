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
            let (low, high) = (&x[row.low * width..][..width], &x[row.high * width..][..width]);
            for ((mixed, low), high) in mixed.iter_mut().zip(low).zip(high) {
                *mixed = fma::<FMA>(row.weight, high - low, *low);
            }
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
