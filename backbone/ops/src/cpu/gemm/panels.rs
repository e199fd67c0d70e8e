//! Right matrices packed into panels.

use std::ops::Range;

use super::matrix::{Matrix, Sizes};
use super::strip::{Prefetch, Strip};
use super::tasks::for_each_task;
use super::unit::{Unit, VECTORS};
use crate::cpu::{Scratch, SharedMut};
use crate::epilogue::Epilogue;

/// Depth of a block. A panel of 48 columns then takes 192 KiB and stays in the second-level cache.
const DEPTH: usize = 1024;

/// Splits the depth into equal blocks of at most [`DEPTH`], so that a panel stays in the cache. Yields at least one block.
pub(crate) fn depth_blocks(depths: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let count = depths.len().div_ceil(DEPTH).max(1);
    let size = depths.len().div_ceil(count).next_multiple_of(8);
    (0..count).map(move |index| (depths.start + index * size).min(depths.end)..(depths.start + (index + 1) * size).min(depths.end))
}

/// The columns of panel `panel` of a matrix.
pub(crate) fn panel_columns<U: Unit>(panel: usize, columns: usize) -> Range<usize> {
    let most = VECTORS * U::LANES;
    panel * most..columns.min((panel + 1) * most)
}

/// Number of panels of a matrix.
pub(crate) fn panel_count<U: Unit>(columns: usize) -> usize {
    columns.div_ceil(VECTORS * U::LANES)
}

/// Values in a row of a panel of `count` columns: whole vectors.
pub(crate) fn panel_width<U: Unit>(count: usize) -> usize {
    count.next_multiple_of(U::LANES)
}

/// A packed right matrix: for each block of the depth and each panel, `[depth, width]` with zeros after the last column.
pub(crate) struct Panels {
    values: Scratch,
    columns: usize,
    blocks: Vec<Range<usize>>,
}

impl Panels {
    /// Unfilled panels for a matrix `[inner, columns]` whose depth is split into `blocks`; write them through [`Panels::target`].
    pub(crate) fn with_blocks<U: Unit>(blocks: Vec<Range<usize>>, columns: usize) -> Self {
        let inner = blocks.last().map_or(0, |block| block.end);
        Self { values: Scratch::unset(inner * panel_width::<U>(columns)), columns, blocks }
    }

    /// Packs `b: [inner, columns]`.
    ///
    /// # Safety
    /// The processor has the unit, and `b` holds a matrix of these sizes.
    pub(super) unsafe fn pack<U: Unit>(b: Matrix, Sizes { columns, inner, .. }: Sizes, threads: usize) -> Self {
        let mut panels = Self::with_blocks::<U>(depth_blocks(0..inner).collect(), columns);
        let target = SharedMut::new(&mut panels.values);
        let count = panel_count::<U>(columns);
        for_each_task(threads, panels.blocks.len() * count, |task| {
            let (block, columns) = (task / count, panel_columns::<U>(task % count, columns));
            // SAFETY: only this task writes this panel of this block.
            unsafe { pack_panel::<U>(target.at(panels.offset::<U>(block, columns.start)), b, columns, panels.blocks[block].clone()) };
        });
        panels
    }

    /// The blocks of the depth.
    pub(crate) fn blocks(&self) -> &[Range<usize>] {
        &self.blocks
    }

    /// Position of the panel that starts at column `column`, for a block of the depth.
    pub(crate) fn offset<U: Unit>(&self, block: usize, column: usize) -> usize {
        let Range { start, end } = self.blocks[block];
        start * panel_width::<U>(self.columns) + column * (end - start)
    }

    /// The panel that starts at column `column`, for a block of the depth.
    pub(crate) fn panel<U: Unit>(&self, block: usize, column: usize) -> *const f32 {
        self.values[self.offset::<U>(block, column)..].as_ptr()
    }

    /// The values of all panels.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Access for the tasks that fill the panels.
    pub(crate) fn target(&mut self) -> SharedMut {
        SharedMut::new(&mut self.values)
    }

    /// Multiplies `rows` rows of the left matrix and writes the result to `target` from `offset` on.
    ///
    /// # Safety
    /// The processor has the unit, `a` is readable for `rows` rows that are `a_row` apart, and `target` holds as many rows of `columns`
    /// values from `offset`, which no other task accesses.
    pub(super) unsafe fn multiply<U: Unit>(
        &self,
        a: *const f32,
        a_row: usize,
        rows: usize,
        target: SharedMut,
        offset: usize,
        epilogue: &Epilogue<&[f32]>,
    ) {
        for (index, block) in self.blocks.iter().enumerate() {
            for panel in 0..panel_count::<U>(self.columns) {
                let columns = panel_columns::<U>(panel, self.columns);
                let strip = Strip {
                    a: a.wrapping_add(block.start),
                    a_row,
                    a_step: 1,
                    a_tile: U::ROWS * a_row,
                    rows,
                    depth: block.len(),
                    panel: self.panel::<U>(index, columns.start),
                    offset: offset + columns.start,
                    columns,
                    target,
                    y_row: self.columns,
                    first: index == 0,
                    last: index + 1 == self.blocks.len(),
                    prefetch: Prefetch::NONE,
                };
                // SAFETY: the caller guarantees the conditions above.
                unsafe { strip.run::<U>(epilogue) };
            }
        }
    }
}

/// Packs the columns `columns` and rows `depths` of `b` as `[depth, width]`, with zeros after the last column.
///
/// # Safety
/// The processor has the unit, `b` holds these elements, and `panel` is writable for `depth * width` values.
pub(super) unsafe fn pack_panel<U: Unit>(panel: *mut f32, b: Matrix, columns: Range<usize>, depths: Range<usize>) {
    let (count, width) = (columns.len(), panel_width::<U>(columns.len()));
    if depths.is_empty() {
        return;
    }
    // SAFETY: reads end at the last column and depth, which `b` holds; the panel has `depths.len() * width` values.
    unsafe {
        if b.column == 1 {
            for (k, depth) in depths.enumerate() {
                let source = &b.values[depth * b.row + columns.start..][..count];
                let (values, rest) = std::slice::from_raw_parts_mut(panel.add(k * width), width).split_at_mut(count);
                values.copy_from_slice(source);
                rest.fill(0.0);
            }
        } else {
            let source = &b.values[columns.start * b.column + depths.start..];
            U::transpose(panel, width, source.as_ptr(), b.column, depths.len(), count, |k| k * width);
        }
    }
}
