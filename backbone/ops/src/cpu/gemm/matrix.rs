//! Matrices in memory and the sizes of a product.

/// A matrix in memory: element `(i, j)` is `values[i * row + j * column]`, and one of the strides is 1.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix whose rows hold `length` values.
    pub(crate) fn rows(values: &'a [f32], length: usize) -> Self {
        Self { values, row: length, column: 1 }
    }

    /// A column-major matrix whose columns hold `length` values.
    pub(crate) fn columns(values: &'a [f32], length: usize) -> Self {
        Self { values, row: 1, column: length }
    }

    /// Whether the slice contains the last element of a matrix of this size.
    pub(super) fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// Sizes of a product `[rows, inner] x [inner, columns]`.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) inner: usize,
}
