//! Matrix product of float32 on the CPU, for the shapes of a backbone and its heads: a tall left factor of pixels, a weight on the
//! right that changes from layer to layer, and something to be done with every sum before it is stored.
//!
//! A general library packs both factors on every call and stores bare sums. Here only the right factor is packed, into [`Panels`] of a
//! few vectors across; rows of the left factor are read where they lie, which also lets a convolution read pixels of an image
//! ([`crate::conv2d()`]). An [`Epilogue`] (scale, bias, residual, activation) is applied while a tile is in the first-level cache.
//!
//! Every element of the result is one sum over the depth in a fixed order, whatever the number of threads.
//!
//! * `blocked.rs`: panels, strips, and the product made of them, for any vector [`Unit`].
//! * `unit.rs`: the tile in AVX-512, in AVX2 and in plain Rust for other processors.

mod blocked;
mod epilogue;
#[cfg(test)]
mod tests;
mod unit;

pub(crate) use blocked::{Panels, Soon, Strip, Target, depth_blocks, for_each_task, panel_columns, panel_count, panel_width};
pub(crate) use epilogue::Epilogue;
pub use epilogue::Pointwise;
#[cfg(test)]
pub(crate) use unit::run_by_every_unit;
pub(crate) use unit::{Blocked, Unit, run_blocked};

/// A factor in memory: element `(i, j)` is `values[i * row + j * column]`, and one of the strides is 1.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl<'a> Factor<'a> {
    /// A matrix whose rows are contiguous and hold `length` values.
    pub(crate) fn rows(values: &'a [f32], length: usize) -> Self {
        Self { values, row: length, column: 1 }
    }

    /// A matrix whose columns are contiguous and hold `length` values.
    pub(crate) fn columns(values: &'a [f32], length: usize) -> Self {
        Self { values, row: 1, column: length }
    }

    /// Whether the values reach to the last element of a matrix of this size.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// The product is `[rows, inner] x [inner, columns]`.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) inner: usize,
}

/// Products below this many multiply-adds run on one thread: waking the others costs more.
const PARALLEL_FROM: usize = 1 << 18;

/// Threads that a product of so many multiply-adds is split for.
pub(crate) fn threads_for(multiplications: usize) -> usize {
    if multiplications < PARALLEL_FROM { 1 } else { rayon::current_num_threads() }
}

/// The product in row-major order, each element by way of the epilogue.
///
/// # Panics
/// When a slice is shorter than the sizes and strides say.
pub(crate) fn product(a: Factor, b: Factor, epilogue: Epilogue, sizes: Sizes) -> Vec<f32> {
    run_blocked(Product::new(a, b, epilogue, sizes))
}

/// `second(first(a))`: two products one behind the other, whose intermediate rows never leave the cache when there are many.
///
/// # Panics
/// As [`product`], and when the columns of the first are not the depth of the second.
pub(crate) fn chain(a: Factor, [first, second]: [(Factor, Epilogue, Sizes); 2]) -> Vec<f32> {
    let first = Product::new(a, first.0, first.1, first.2);
    // The left factor of the second product is what the first makes; its place is not known here.
    let second = Product::new(Factor::rows(&[], second.2.inner), second.0, second.1, Sizes { rows: 0, ..second.2 });
    assert!(first.sizes.columns == second.sizes.inner, "matmul: the products do not fit together");
    second.epilogue.check(first.sizes.rows, second.sizes.columns);
    run_blocked(blocked::Chain { first, second })
}

/// A product whose slices fit.
#[derive(Clone, Copy)]
struct Product<'a> {
    a: Factor<'a>,
    b: Factor<'a>,
    epilogue: Epilogue<'a>,
    sizes: Sizes,
}

impl<'a> Product<'a> {
    fn new(a: Factor<'a>, b: Factor<'a>, epilogue: Epilogue<'a>, sizes: Sizes) -> Self {
        let Sizes { rows, columns, inner } = sizes;
        assert!(a.holds(rows, inner) && b.holds(inner, columns), "matmul: a factor does not fit");
        assert!([a, b].iter().all(|factor| factor.row == 1 || factor.column == 1), "matmul: a factor has no contiguous side");
        if rows > 0 {
            epilogue.check(rows, columns);
        }
        Self { a, b, epilogue, sizes }
    }
}
