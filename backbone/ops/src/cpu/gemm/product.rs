//! The product, and two products in sequence.

use std::ops::Range;

use super::matrix::{Matrix, Sizes};
use super::panels::{Panels, depth_blocks, pack_panel, panel_columns, panel_count, panel_width};
use super::strip::{Prefetch, Strip};
use super::tasks::{for_each_rows, for_each_task, threads_for};
use super::unit::{Routine, Unit, run_on_best_unit};
use crate::cpu::{Scratch, SharedMut};
use crate::epilogue::Epilogue;

/// Products with at least so many rows pack the right matrix once for all tasks. With fewer rows, each task packs a panel just before it
/// uses it, so that packed weights never leave the cache.
const PACK_ONCE_FROM: usize = 512;

/// Most rows of a task, and most rows of a column-major left matrix that a task packs at a time.
const TASK_ROWS: usize = 256;

/// Most rows of a task of [`Chain`]: the intermediate rows have to stay in the second-level cache.
const CHAIN_ROWS: usize = 96;

/// `epilogue(a b)` in row-major order.
///
/// # Panics
/// When a slice is shorter than the sizes and strides require.
pub(crate) fn gemm(a: Matrix, b: Matrix, epilogue: Epilogue<&[f32]>, sizes: Sizes) -> Vec<f32> {
    run_on_best_unit(Product::new(a, b, epilogue, sizes))
}

/// Two products in sequence: `epilogue_2(epilogue_1(a b_1) b_2)`. With many rows the intermediate rows never leave the cache.
///
/// # Panics
/// Like [`gemm`], and when the columns of the first product are not the depth of the second.
pub(crate) fn gemm_chain(a: Matrix, [first, second]: [(Matrix, Epilogue<&[f32]>, Sizes); 2]) -> Vec<f32> {
    let first = Product::new(a, first.0, first.1, first.2);
    // The left matrix of the second product does not exist yet, so this `Product` has no rows.
    let second = Product::new(Matrix::rows(&[], second.2.inner), second.0, second.1, Sizes { rows: 0, ..second.2 });
    assert_eq!(first.sizes.columns, second.sizes.inner, "gemm_chain: the columns of the first product are not the depth of the second");
    second.epilogue.check(first.sizes.rows, second.sizes.columns);
    run_on_best_unit(Chain { first, second })
}

/// A product whose slices are long enough.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    a: Matrix<'a>,
    b: Matrix<'a>,
    epilogue: Epilogue<&'a [f32]>,
    sizes: Sizes,
}

impl<'a> Product<'a> {
    pub(super) fn new(a: Matrix<'a>, b: Matrix<'a>, epilogue: Epilogue<&'a [f32]>, sizes: Sizes) -> Self {
        let Sizes { rows, columns, inner } = sizes;
        assert!(
            a.holds(rows, inner) && b.holds(inner, columns),
            "gemm: a matrix is too short for the product {rows} x {inner} times {inner} x {columns}"
        );
        assert!([a, b].iter().all(|matrix| matrix.row == 1 || matrix.column == 1), "gemm: neither stride of a matrix is 1");
        if rows > 0 {
            epilogue.check(rows, columns);
        }
        Self { a, b, epilogue, sizes }
    }
}

impl Routine for Product<'_> {
    type Output = Vec<f32>;

    unsafe fn run<U: Unit>(self) -> Vec<f32> {
        let Sizes { rows, columns, inner } = self.sizes;
        // Not filled with zeros first, which would cost a pass over the memory.
        let mut y = Vec::with_capacity(rows * columns);
        if rows == 0 || columns == 0 {
            return y;
        }
        let threads = threads_for(rows * columns * inner);
        let target = SharedMut::from_ptr(y.as_mut_ptr());
        if self.a.column == 1 && rows >= PACK_ONCE_FROM {
            // SAFETY: the caller guarantees the unit, and `Product::new` checked the matrices. Each task writes its own rows.
            unsafe {
                let panels = Panels::pack::<U>(self.b, self.sizes, threads);
                for_each_rows(threads, rows, TASK_ROWS, |rows| {
                    let a = self.a.values.as_ptr().add(rows.start * self.a.row);
                    panels.multiply::<U>(a, self.a.row, rows.len(), target, rows.start * columns, &self.epilogue);
                });
            }
        } else {
            let panels = panel_count::<U>(columns);
            // Every task packs the panels it needs, so rows are split only if there are too few panels for all threads.
            let row_tasks = if panels >= 2 * threads { 1 } else { (2 * threads).min(rows.div_ceil(U::ROWS)) };
            let row_tasks = row_tasks.max(rows.div_ceil(if self.a.column == 1 { PACK_ONCE_FROM } else { TASK_ROWS }));
            let task_rows = rows.div_ceil(row_tasks).next_multiple_of(U::ROWS);
            let row_tasks = rows.div_ceil(task_rows);
            let task_panels = panels.div_ceil((4 * threads).div_ceil(row_tasks).min(panels));
            let panel_tasks = panels.div_ceil(task_panels);
            for_each_task(threads, row_tasks * panel_tasks, |task| {
                let (part, block) = (task % panel_tasks, task / panel_tasks);
                let rows = block * task_rows..rows.min((block + 1) * task_rows);
                let panels = part * task_panels..panels.min((part + 1) * task_panels);
                // SAFETY: as above; each task writes its rows of its panels.
                unsafe { self.block::<U>(target, rows, panels) };
            });
        }
        // SAFETY: the tasks cover all rows and columns, and each wrote all of its elements.
        unsafe { y.set_len(rows * columns) };
        y
    }
}

impl Product<'_> {
    /// Computes the elements of some rows and panels, and packs the panels it needs.
    ///
    /// # Safety
    /// The processor has the unit, both ranges lie inside the result, and no other task accesses these elements.
    unsafe fn block<U: Unit>(&self, target: SharedMut, rows: Range<usize>, panels: Range<usize>) {
        let Sizes { columns, inner, .. } = self.sizes;
        let column_major = self.a.column != 1;
        let blocks: Vec<_> = depth_blocks(0..inner).collect();
        let deepest = blocks.iter().map(Range::len).max().unwrap_or(0);
        let mut panel = Scratch::unset(deepest * panel_width::<U>(panel_columns::<U>(panels.start, columns).len()));
        let mut packed = Scratch::unset(if column_major { rows.len().next_multiple_of(U::ROWS) * deepest } else { 0 });
        for (index, block) in blocks.iter().enumerate() {
            let depth = block.len();
            if column_major {
                self.pack_left::<U>(&mut packed, rows.clone(), block.clone());
            }
            for number in panels.clone() {
                let own = panel_columns::<U>(number, columns);
                // SAFETY: the columns and depths lie inside `b`, and the buffer fits the first panel, which is the widest.
                unsafe { pack_panel::<U>(panel.as_mut_ptr(), self.b, own.clone(), block.clone()) };
                let next = if number + 1 < panels.end && self.b.row == 1 { panel_columns::<U>(number + 1, columns) } else { 0..0 };
                let prefetch = if next.is_empty() {
                    Prefetch::NONE
                } else {
                    Prefetch {
                        first: &raw const self.b.values[next.start * self.b.column + block.start],
                        row: self.b.column,
                        rows: next.len(),
                    }
                };
                let (a, a_row, a_step, a_tile) = if column_major {
                    (packed.as_ptr(), 1, U::ROWS, U::ROWS * depth)
                } else {
                    (self.a.values.as_ptr().wrapping_add(rows.start * self.a.row + block.start), self.a.row, 1, U::ROWS * self.a.row)
                };
                let strip = Strip {
                    a,
                    a_row,
                    a_step,
                    a_tile,
                    rows: rows.len(),
                    depth,
                    panel: panel.as_ptr(),
                    offset: rows.start * columns + own.start,
                    columns: own,
                    target,
                    y_row: columns,
                    first: index == 0,
                    last: index + 1 == blocks.len(),
                    prefetch,
                };
                // SAFETY: `Product::new` checked the matrices; the caller guarantees the elements of the result.
                unsafe { strip.run::<U>(&self.epilogue) };
            }
        }
    }

    /// Packs rows of a column-major left matrix as `[tile, depth, ROWS]`.
    fn pack_left<U: Unit>(&self, packed: &mut [f32], rows: Range<usize>, depths: Range<usize>) {
        let tiles = rows.clone().step_by(U::ROWS).zip(packed.chunks_exact_mut((U::ROWS * depths.len()).max(1)));
        for (row, tile) in tiles {
            let height = U::ROWS.min(rows.end - row);
            for (k, target) in depths.clone().zip(tile.chunks_exact_mut(U::ROWS)) {
                let (values, rest) = target.split_at_mut(height);
                values.copy_from_slice(&self.a.values[k * self.a.column + row..][..height]);
                rest.fill(0.0);
            }
        }
    }
}

/// Two products in sequence.
#[derive(Clone, Copy)]
struct Chain<'a> {
    first: Product<'a>,
    /// Its left matrix is the result of `first`.
    second: Product<'a>,
}

impl Routine for Chain<'_> {
    type Output = Vec<f32>;

    unsafe fn run<U: Unit>(self) -> Vec<f32> {
        let Self { first, second } = self;
        let (Sizes { rows, columns: hidden, inner }, columns) = (first.sizes, second.sizes.columns);
        let sizes = Sizes { rows, ..second.sizes };
        if first.a.column != 1 || rows < PACK_ONCE_FROM {
            // SAFETY: the caller guarantees the unit, and the second left matrix has the size of the first result.
            return unsafe {
                let between = first.run::<U>();
                Product { a: Matrix::rows(&between, hidden), sizes, ..second }.run::<U>()
            };
        }
        let mut y = Vec::with_capacity(rows * columns);
        let threads = threads_for(rows * hidden * (inner + columns));
        let target = SharedMut::from_ptr(y.as_mut_ptr());
        // SAFETY: the caller guarantees the unit, and the matrices were checked. Each task writes its own rows and its own buffer.
        unsafe {
            let panels = [Panels::pack::<U>(first.b, first.sizes, threads), Panels::pack::<U>(second.b, sizes, threads)];
            for_each_rows(threads, rows, CHAIN_ROWS, |rows| {
                let mut between = Scratch::unset(rows.len() * hidden);
                let a = first.a.values.as_ptr().add(rows.start * first.a.row);
                panels[0].multiply::<U>(a, first.a.row, rows.len(), SharedMut::new(&mut between), 0, &first.epilogue);
                panels[1].multiply::<U>(between.as_ptr(), hidden, rows.len(), target, rows.start * columns, &second.epilogue);
            });
            y.set_len(rows * columns);
        }
        y
    }
}
