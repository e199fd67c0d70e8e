//! Epilogues on the CPU, applied to sums while they are in the first-level cache.

use super::math;
use super::simd::{Kernel, fma};
use crate::epilogue::{Epilogue, Pointwise};

impl<'a> Epilogue<&'a [f32]> {
    /// # Panics
    /// When a slice does not fit a result of `rows` by `columns`.
    pub(crate) fn check(&self, rows: usize, columns: usize) {
        let fits = |slice: Option<&[f32]>, length: usize| slice.is_none_or(|slice| slice.len() == length);
        assert!(fits(self.scale, columns) && fits(self.bias, columns), "gemm: scale or bias does not have {columns} values");
        assert!(fits(self.residual, rows * columns), "gemm: the residual is not {rows} x {columns}");
    }

    /// The values at which sums start: the bias, unless a scale has to be multiplied first.
    pub(crate) fn start(&self) -> Option<&'a [f32]> {
        if self.scale.is_none() { self.bias } else { None }
    }

    /// Whether sums that started at [`start`](Self::start) are final.
    pub(crate) fn is_empty(&self) -> bool {
        self.scale.is_none() && self.residual.is_none() && self.activation == Pointwise::Identity
    }

    /// Applies the whole epilogue to sums that started at 0. They belong to the columns from `column` on; `offset` is the position of the
    /// first in the result.
    #[inline(always)]
    pub(crate) fn whole<const FMA: bool>(&self, sums: &mut [f32], column: usize, offset: usize) {
        if let Some(bias) = self.start() {
            sums.iter_mut().zip(&bias[column..]).for_each(|(sum, bias)| *sum += bias);
        }
        self.finish::<FMA>(sums, column, offset);
    }

    /// Applies the rest of the epilogue to sums that started at [`start`](Self::start). Arguments as for [`whole`](Self::whole).
    #[inline(always)]
    pub(crate) fn finish<const FMA: bool>(&self, values: &mut [f32], column: usize, offset: usize) {
        let count = values.len();
        if let Some(scale) = self.scale {
            let scale = &scale[column..][..count];
            match self.bias {
                Some(bias) => {
                    for ((value, scale), bias) in values.iter_mut().zip(scale).zip(&bias[column..][..count]) {
                        *value = fma::<FMA>(*value, *scale, *bias);
                    }
                }
                None => values.iter_mut().zip(scale).for_each(|(value, scale)| *value *= scale),
            }
        }
        if let Some(residual) = self.residual {
            values.iter_mut().zip(&residual[offset..][..count]).for_each(|(value, residual)| *value += residual);
        }
        self.activation.apply_to::<FMA>(values);
    }
}

impl Pointwise {
    /// Applies the function to every value.
    #[inline(always)]
    pub(crate) fn apply_to<const FMA: bool>(self, values: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Relu => values.iter_mut().for_each(|value| *value = math::relu(*value)),
            Self::Gelu => values.iter_mut().for_each(|value| *value = math::gelu::<FMA>(*value)),
            Self::Silu => values.iter_mut().for_each(|value| *value = math::silu::<FMA>(*value)),
            Self::Sigmoid => values.iter_mut().for_each(|value| *value = math::sigmoid::<FMA>(*value)),
        }
    }
}

/// [`Epilogue::finish`] for every row of a tile.
pub(super) struct Finish<'a> {
    pub(super) epilogue: Epilogue<&'a [f32]>,
    /// `[rows, stride]`. Only the first `count` values of each row belong to the tile; its owner has exclusive access to them.
    pub(super) values: *mut f32,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) count: usize,
    /// First column of the tile in the result.
    pub(super) column: usize,
    /// Position of the tile's first value in the result.
    pub(super) offset: usize,
    /// Distance between rows of the result.
    pub(super) offset_row: usize,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for row in 0..self.rows {
            // SAFETY: see `values`. One slice for each row, because the values between rows may belong to other tasks.
            let values = unsafe { std::slice::from_raw_parts_mut(self.values.add(row * self.stride), self.count) };
            self.epilogue.finish::<FMA>(values, self.column, self.offset + row * self.offset_row);
        }
    }
}
