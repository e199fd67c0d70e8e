//! What happens to a sum before it is stored.

use crate::simd::{self, Kernel, fma};

/// `activation(scale * sum + bias + residual)`; what is not given is left out.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// `[columns]`
    pub(crate) scale: Option<&'a [f32]>,
    /// `[columns]`
    pub(crate) bias: Option<&'a [f32]>,
    /// Of the result's layout.
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) activation: Pointwise,
}

/// A function of one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pointwise {
    /// `x`.
    #[default]
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// Exact GELU, as [`crate::gelu`].
    Gelu,
    /// SiLU, as [`crate::silu`].
    Silu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl<'a> Epilogue<'a> {
    pub(crate) fn bias(bias: Option<&'a [f32]>) -> Self {
        Self { bias, ..Self::default() }
    }

    /// # Panics
    /// When a slice does not fit a result of this size.
    pub(crate) fn check(&self, rows: usize, columns: usize) {
        let fits = |slice: Option<&[f32]>, length: usize| slice.is_none_or(|slice| slice.len() == length);
        assert!(fits(self.scale, columns) && fits(self.bias, columns), "matmul: scale or bias does not fit");
        assert!(fits(self.residual, rows * columns), "matmul: the residual does not fit");
    }

    /// The bias, when it can be added where a tile adds its start: only a scale has to come before it.
    pub(super) fn start(&self) -> Option<&'a [f32]> {
        if self.scale.is_none() { self.bias } else { None }
    }

    /// Whether anything is left to do behind the sum and its start.
    pub(super) fn is_empty(&self) -> bool {
        self.scale.is_none() && self.residual.is_none() && self.activation == Pointwise::Identity
    }

    /// All of it for one row of bare sums that belong to the columns from `column` and to the results from `offset`.
    #[inline(always)]
    pub(crate) fn whole<const FMA: bool>(&self, sums: &mut [f32], column: usize, offset: usize) {
        if let Some(bias) = self.start() {
            sums.iter_mut().zip(&bias[column..]).for_each(|(sum, bias)| *sum += bias);
        }
        self.finish::<FMA>(sums, column, offset);
    }

    /// What is left to do for one row of values that belong to the columns from `column` and to the results from `offset`.
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
    /// Applies it to every value.
    #[inline(always)]
    pub(crate) fn apply_to<const FMA: bool>(self, values: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Relu => values.iter_mut().for_each(|value| *value = simd::relu(*value)),
            Self::Gelu => values.iter_mut().for_each(|value| *value = simd::gelu::<FMA>(*value)),
            Self::Silu => values.iter_mut().for_each(|value| *value = simd::silu::<FMA>(*value)),
            Self::Sigmoid => values.iter_mut().for_each(|value| *value = simd::sigmoid::<FMA>(*value)),
        }
    }
}

/// [`Epilogue::finish`] for the rows of a tile.
pub(super) struct Finish<'a> {
    pub(super) epilogue: Epilogue<'a>,
    /// `[rows, stride]`, of which the first `count` values of a row are meant; they belong to whoever makes this.
    pub(super) values: *mut f32,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) count: usize,
    pub(super) column: usize,
    /// Index of the first value in the result, and from row to row.
    pub(super) offset: usize,
    pub(super) offset_row: usize,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for row in 0..self.rows {
            // SAFETY: see `values`. Rows are taken one by one, as what lies between them may belong to others.
            let values = unsafe { std::slice::from_raw_parts_mut(self.values.add(row * self.stride), self.count) };
            self.epilogue.finish::<FMA>(values, self.column, self.offset + row * self.offset_row);
        }
    }
}
