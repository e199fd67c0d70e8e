//! Rows of the left matrix times one panel.

use std::ops::Range;

use super::unit::{Tile, Unit};
use crate::cpu::SharedMut;
use crate::cpu::epilogue::Finish;
use crate::cpu::simd::dispatch;
use crate::epilogue::Epilogue;

/// Values of the largest tile of all units.
const EDGE: usize = 8 * 48;

/// Memory to prefetch while a [`Strip`] is computed: `rows` runs of `depth` values, which start `row` values apart.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    pub(super) first: *const f32,
    pub(super) row: usize,
    pub(super) rows: usize,
}

impl Prefetch {
    pub(crate) const NONE: Self = Self { first: std::ptr::null(), row: 0, rows: 0 };
}

/// Rows of the left matrix times one panel: a column of tiles.
pub(crate) struct Strip {
    /// Element `(i, k)` of the left matrix is `a[i / ROWS * a_tile + i % ROWS * a_row + k * a_step]`.
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    pub(crate) a_step: usize,
    pub(crate) a_tile: usize,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// `[depth, width]`, where `width` is `columns.len()` rounded up to whole vectors.
    pub(crate) panel: *const f32,
    /// Columns of the panel in the result, for the epilogue.
    pub(crate) columns: Range<usize>,
    pub(crate) target: SharedMut,
    /// Position of the first result in `target`.
    pub(crate) offset: usize,
    /// Distance between rows of the result.
    pub(crate) y_row: usize,
    /// Whether this is the first block of the depth: sums start at the bias, not at the values in `target`.
    pub(crate) first: bool,
    /// Whether this is the last block of the depth, after which the epilogue is applied.
    pub(crate) last: bool,
    pub(crate) prefetch: Prefetch,
}

impl Strip {
    /// Computes the strip.
    ///
    /// # Safety
    /// The processor has the unit, the left matrix and the panel are readable as described, there are at most as many columns as in a
    /// panel, no other task accesses their values in the target, and these are initialised unless `first` is set.
    pub(crate) unsafe fn run<U: Unit>(&self, epilogue: &Epilogue<&[f32]>) {
        let count = self.columns.len();
        let vectors = count.div_ceil(U::LANES);
        let width = vectors * U::LANES;
        let whole = count == width;
        let mut start = [0.0_f32; EDGE];
        let mut edge = [0.0_f32; EDGE];
        if self.first
            && let Some(bias) = epilogue.start()
        {
            start[..count].copy_from_slice(&bias[self.columns.clone()]);
        }
        let tiles = self.rows.div_ceil(U::ROWS);
        let prefetch_rows = self.prefetch.rows.div_ceil(tiles.max(1));
        for tile in 0..tiles {
            let row = tile * U::ROWS;
            let height = U::ROWS.min(self.rows - row);
            let offset = self.offset + row * self.y_row;
            // SAFETY: the caller has exclusive access to these elements.
            let y = unsafe { self.target.at(offset) };
            let (y_tile, y_row) = if whole { (y, self.y_row) } else { (edge.as_mut_ptr(), width) };
            if !whole && !self.first {
                for i in 0..height {
                    // SAFETY: as above; `edge` has `ROWS` rows of a panel's width.
                    unsafe { std::ptr::copy_nonoverlapping(y.add(i * self.y_row), y_tile.add(i * width), count) };
                }
            }
            let (start, start_row) = if self.first { (start.as_ptr(), 0) } else { (y_tile.cast_const(), y_row) };
            let prefetch_first = (tile * prefetch_rows).min(self.prefetch.rows);
            let tile = Tile {
                depth: self.depth,
                a: self.a.wrapping_add(tile * self.a_tile),
                a_row: self.a_row,
                a_step: self.a_step,
                panel: self.panel,
                start,
                start_row,
                y: y_tile,
                y_row,
                prefetch: self.prefetch.first.wrapping_add(prefetch_first * self.prefetch.row),
                prefetch_row: self.prefetch.row,
                prefetch_rows: prefetch_rows.min(self.prefetch.rows - prefetch_first),
            };
            // SAFETY: `height` rows of the left matrix and of the result exist. A tile with surplus columns is computed in `edge`.
            unsafe { U::tile(height, vectors, tile) };
            if self.last && !epilogue.is_empty() {
                let (column, offset_row) = (self.columns.start, self.y_row);
                dispatch(Finish { epilogue: *epilogue, values: y_tile, stride: y_row, rows: height, count, column, offset, offset_row });
            }
            if !whole {
                for i in 0..height {
                    // SAFETY: as above.
                    unsafe { std::ptr::copy_nonoverlapping(y_tile.add(i * width), y.add(i * self.y_row), count) };
                }
            }
        }
    }
}
