//! Panels of the right factor, strips of the result, and the product made of them.

use std::ops::Range;

use rayon::prelude::*;

use super::epilogue::Finish;
use super::unit::{Blocked, Tile, Unit, VECTORS};
use super::{Epilogue, Factor, Product, Sizes, threads_for};
use crate::flex::Scratch;
use crate::simd::dispatch;

/// Depth of a block. A panel of 48 columns is then 192 KiB and stays in the second-level cache.
pub(crate) const DEPTH: usize = 1024;

/// Rows from which the right factor is packed once for all tasks. With fewer, each task packs the panels it needs just before it uses
/// them, so that packed weights never leave the cache.
const PACK_ONCE_FROM: usize = 512;

/// Most rows of a task, and rows of a transposed left factor that it packs.
const TASK_ROWS: usize = 256;

/// Most rows of a task of [`Chain`]: the intermediate rows have to stay in the second-level cache.
const CHAIN_ROWS: usize = 96;

/// Largest tile of all units, in values.
const EDGE: usize = 8 * 48;

/// The result, of which every task writes its own part.
#[derive(Clone, Copy)]
pub(crate) struct Target(*mut f32);

// SAFETY: tasks write disjoint elements, as everything that makes strips promises.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    pub(crate) fn new(values: *mut f32) -> Self {
        Self(values)
    }

    /// The element at `offset`.
    ///
    /// # Safety
    /// `offset` lies inside the result.
    #[inline(always)]
    pub(crate) unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller keeps the contract above.
        unsafe { self.0.add(offset) }
    }
}

/// Splits the depth so that a panel stays in the cache; at least one block.
pub(crate) fn depth_blocks(depths: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let count = depths.len().div_ceil(DEPTH).max(1);
    let size = depths.len().div_ceil(count).next_multiple_of(8);
    (0..count).map(move |index| (depths.start + index * size).min(depths.end)..(depths.start + (index + 1) * size).min(depths.end))
}

/// Runs tasks `0..count`, in order when there is one thread.
pub(crate) fn for_each_task(threads: usize, count: usize, task: impl Fn(usize) + Send + Sync) {
    if threads == 1 {
        (0..count).for_each(task);
    } else {
        (0..count).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Columns of panel `panel` of a matrix.
pub(crate) fn panel_columns<U: Unit>(panel: usize, columns: usize) -> Range<usize> {
    let most = VECTORS * U::LANES;
    panel * most..columns.min((panel + 1) * most)
}

/// Number of panels of a matrix.
pub(crate) fn panel_count<U: Unit>(columns: usize) -> usize {
    columns.div_ceil(VECTORS * U::LANES)
}

/// Values of a row of a panel of so many columns: whole vectors.
pub(crate) fn panel_width<U: Unit>(count: usize) -> usize {
    count.next_multiple_of(U::LANES)
}

/// A right factor in panels: for each block of the depth, for each panel, `[depth, width]` with zeros behind the last column.
pub(crate) struct Panels {
    values: Scratch,
    columns: usize,
    blocks: Vec<Range<usize>>,
}

impl Panels {
    /// Room for a matrix `[inner, columns]` whose depth is split into `blocks`, to be filled by [`Panels::at`].
    pub(crate) fn with_blocks<U: Unit>(blocks: Vec<Range<usize>>, columns: usize) -> Self {
        let inner = blocks.last().map_or(0, |block| block.end);
        Self { values: Scratch::unset(inner * panel_width::<U>(columns)), columns, blocks }
    }

    /// Packs `b: [inner, columns]`.
    ///
    /// # Safety
    /// The processor has the unit, and `b` holds that matrix.
    unsafe fn pack<U: Unit>(b: Factor, Sizes { columns, inner, .. }: Sizes, threads: usize) -> Self {
        let mut panels = Self::with_blocks::<U>(depth_blocks(0..inner).collect(), columns);
        let target = Target::new(panels.values.as_mut_ptr());
        let count = panel_count::<U>(columns);
        for_each_task(threads, panels.blocks.len() * count, |task| {
            let (block, columns) = (task / count, panel_columns::<U>(task % count, columns));
            // SAFETY: this panel of this block belongs to this task alone.
            unsafe { pack_panel::<U>(target.at(panels.offset::<U>(block, columns.start)), b, columns, panels.blocks[block].clone()) };
        });
        panels
    }

    /// Blocks of the depth.
    pub(crate) fn blocks(&self) -> &[Range<usize>] {
        &self.blocks
    }

    /// Where the panel that begins with column `column` lies for a block of the depth.
    pub(crate) fn offset<U: Unit>(&self, block: usize, column: usize) -> usize {
        let Range { start, end } = self.blocks[block];
        start * panel_width::<U>(self.columns) + column * (end - start)
    }

    /// The panel that begins with column `column`, for a block of the depth.
    pub(crate) fn panel<U: Unit>(&self, block: usize, column: usize) -> *const f32 {
        self.values[self.offset::<U>(block, column)..].as_ptr()
    }

    /// All panels.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    /// For tasks that fill the panels.
    pub(crate) fn target(&mut self) -> Target {
        Target::new(self.values.as_mut_ptr())
    }

    /// `rows` rows of the product into the target.
    ///
    /// # Safety
    /// The processor has the unit, `a` is readable for `rows` rows that are `a_row` apart, the target is writable for as many rows of
    /// `columns` values from `offset` that are `columns` apart, and nobody else uses those.
    unsafe fn multiply<U: Unit>(&self, a: *const f32, a_row: usize, rows: usize, target: Target, offset: usize, epilogue: &Epilogue) {
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
                    soon: Soon::NOTHING,
                };
                // SAFETY: passed on.
                unsafe { strip.run::<U>(epilogue) };
            }
        }
    }
}

/// Packs the columns `columns` of the depths `depths` of `b` as `[depth, width]`, with zeros behind the last one.
///
/// # Safety
/// The processor has the unit, `b` holds these elements, and `panel` is writable for the panel.
unsafe fn pack_panel<U: Unit>(panel: *mut f32, b: Factor, columns: Range<usize>, depths: Range<usize>) {
    let (count, width) = (columns.len(), panel_width::<U>(columns.len()));
    if depths.is_empty() {
        return;
    }
    // SAFETY: the last element read is that of the last column and depth, which `b` holds; the panel has `depths.len() * width` values.
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
            U::turn(panel, width, source.as_ptr(), b.column, depths.len(), count, |k| k * width);
        }
    }
}

/// Memory to be asked for meanwhile: `rows` runs of the strip's depth, `row` apart.
#[derive(Clone, Copy)]
pub(crate) struct Soon {
    first: *const f32,
    row: usize,
    rows: usize,
}

impl Soon {
    pub(crate) const NOTHING: Self = Self { first: std::ptr::null(), row: 0, rows: 0 };
}

/// Some rows times one panel: tiles one below the other.
pub(crate) struct Strip {
    /// Element `(i, k)` of the left factor is `a[i / ROWS * a_tile + i % ROWS * a_row + k * a_step]`.
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    pub(crate) a_step: usize,
    pub(crate) a_tile: usize,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// `[depth, width]`, `width` being whole vectors.
    pub(crate) panel: *const f32,
    /// Columns of the result, for the epilogue.
    pub(crate) columns: Range<usize>,
    pub(crate) target: Target,
    /// Where the first value goes, and how far apart rows are.
    pub(crate) offset: usize,
    pub(crate) y_row: usize,
    /// Whether the sums begin here, rather than with what the result holds, and whether they end here.
    pub(crate) first: bool,
    pub(crate) last: bool,
    pub(crate) soon: Soon,
}

impl Strip {
    /// Computes the strip.
    ///
    /// # Safety
    /// The processor has the unit, the left factor and the panel are readable as described, the columns are at most those of a panel,
    /// and their values in the target belong to the caller alone and hold numbers if `first` is not set.
    pub(crate) unsafe fn run<U: Unit>(&self, epilogue: &Epilogue) {
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
        let soon_rows = self.soon.rows.div_ceil(tiles.max(1));
        for tile in 0..tiles {
            let row = tile * U::ROWS;
            let height = U::ROWS.min(self.rows - row);
            let offset = self.offset + row * self.y_row;
            // SAFETY: the caller owns these elements.
            let y = unsafe { self.target.at(offset) };
            let (y_tile, y_row) = if whole { (y, self.y_row) } else { (edge.as_mut_ptr(), width) };
            if !whole && !self.first {
                for i in 0..height {
                    // SAFETY: as above; `edge` has `ROWS` rows of a panel's width.
                    unsafe { std::ptr::copy_nonoverlapping(y.add(i * self.y_row), y_tile.add(i * width), count) };
                }
            }
            let (start, start_row) = if self.first { (start.as_ptr(), 0) } else { (y_tile.cast_const(), y_row) };
            let soon_first = (tile * soon_rows).min(self.soon.rows);
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
                soon: self.soon.first.wrapping_add(soon_first * self.soon.row),
                soon_row: self.soon.row,
                soon_rows: soon_rows.min(self.soon.rows - soon_first),
            };
            // SAFETY: `height` rows of the left factor and of the result exist; a tile at the right edge goes to `edge`.
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

impl Blocked for Product<'_> {
    type Output = Vec<f32>;

    unsafe fn run<U: Unit>(self) -> Vec<f32> {
        let Sizes { rows, columns, inner } = self.sizes;
        // Not filled with zeros first: that would be a pass over the memory for nothing.
        let mut y = Vec::with_capacity(rows * columns);
        if rows == 0 || columns == 0 {
            return y;
        }
        let threads = threads_for(rows * columns * inner);
        let target = Target::new(y.as_mut_ptr());
        if self.a.column == 1 && rows >= PACK_ONCE_FROM {
            // SAFETY: the caller vouches for the unit, and `Product::new` checked the factors. Tasks own rows of the result.
            unsafe {
                let panels = Panels::pack::<U>(self.b, self.sizes, threads);
                for_each_rows(threads, rows, TASK_ROWS, |rows| {
                    let a = self.a.values.as_ptr().add(rows.start * self.a.row);
                    panels.multiply::<U>(a, self.a.row, rows.len(), target, rows.start * columns, &self.epilogue);
                });
            }
        } else {
            let panels = panel_count::<U>(columns);
            // Panels are packed by every task that needs them, so rows are split only when the panels do not go round.
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
                // SAFETY: as above; a task owns its rows of its panels.
                unsafe { self.block::<U>(target, rows, panels) };
            });
        }
        // SAFETY: the tasks covered all rows and columns, and each wrote all of its elements.
        unsafe { y.set_len(rows * columns) };
        y
    }
}

/// Calls `work` with ranges of at most `most` of `rows` rows, about the same number for every thread.
fn for_each_rows(threads: usize, rows: usize, most: usize, work: impl Fn(Range<usize>) + Send + Sync) {
    let tasks = rows.div_ceil(most).next_multiple_of(threads);
    let size = rows.div_ceil(tasks).next_multiple_of(8);
    for_each_task(threads, rows.div_ceil(size), |task| work(task * size..rows.min((task + 1) * size)));
}

impl Product<'_> {
    /// The elements of some rows and panels; packs what it needs.
    ///
    /// # Safety
    /// The processor has the unit, both ranges lie inside the result, and no other task writes these elements.
    unsafe fn block<U: Unit>(&self, target: Target, rows: Range<usize>, panels: Range<usize>) {
        let Sizes { columns, inner, .. } = self.sizes;
        let transposed = self.a.column != 1;
        let blocks: Vec<_> = depth_blocks(0..inner).collect();
        let deepest = blocks.iter().map(Range::len).max().unwrap_or(0);
        let mut panel = Scratch::unset(deepest * panel_width::<U>(panel_columns::<U>(panels.start, columns).len()));
        let mut packed = Scratch::unset(if transposed { rows.len().next_multiple_of(U::ROWS) * deepest } else { 0 });
        for (index, block) in blocks.iter().enumerate() {
            let depth = block.len();
            if transposed {
                self.pack_left::<U>(&mut packed, rows.clone(), block.clone());
            }
            for number in panels.clone() {
                let own = panel_columns::<U>(number, columns);
                // SAFETY: the columns and the depths lie inside `b`, and the first panel is the widest.
                unsafe { pack_panel::<U>(panel.as_mut_ptr(), self.b, own.clone(), block.clone()) };
                let next = if number + 1 < panels.end && self.b.row == 1 { panel_columns::<U>(number + 1, columns) } else { 0..0 };
                let soon = if next.is_empty() {
                    Soon::NOTHING
                } else {
                    Soon { first: &raw const self.b.values[next.start * self.b.column + block.start], row: self.b.column, rows: next.len() }
                };
                let (a, a_row, a_step, a_tile) = if transposed {
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
                    soon,
                };
                // SAFETY: `Product::new` checked the factors; these elements of the result are this task's.
                unsafe { strip.run::<U>(&self.epilogue) };
            }
        }
    }

    /// Rows of a transposed left factor as `[tile, depth, ROWS]`.
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

/// Two products, the second of the first's result.
#[derive(Clone, Copy)]
pub(super) struct Chain<'a> {
    pub(super) first: Product<'a>,
    /// Its left factor is the result of the first, row by row.
    pub(super) second: Product<'a>,
}

impl Blocked for Chain<'_> {
    type Output = Vec<f32>;

    unsafe fn run<U: Unit>(self) -> Vec<f32> {
        let Self { first, second } = self;
        let (Sizes { rows, columns: hidden, inner }, columns) = (first.sizes, second.sizes.columns);
        let sizes = Sizes { rows, ..second.sizes };
        if first.a.column != 1 || rows < PACK_ONCE_FROM {
            // SAFETY: passed on; the second left factor is as large as the sizes say.
            return unsafe {
                let between = first.run::<U>();
                Product { a: Factor::rows(&between, hidden), sizes, ..second }.run::<U>()
            };
        }
        let mut y = Vec::with_capacity(rows * columns);
        let threads = threads_for(rows * hidden * (inner + columns));
        let target = Target::new(y.as_mut_ptr());
        // SAFETY: the caller vouches for the unit, and the factors were checked. Tasks own rows of the result, and all of their buffer.
        unsafe {
            let panels = [Panels::pack::<U>(first.b, first.sizes, threads), Panels::pack::<U>(second.b, sizes, threads)];
            for_each_rows(threads, rows, CHAIN_ROWS, |rows| {
                let mut between = Scratch::unset(rows.len() * hidden);
                let a = first.a.values.as_ptr().add(rows.start * first.a.row);
                panels[0].multiply::<U>(a, first.a.row, rows.len(), Target::new(between.as_mut_ptr()), 0, &first.epilogue);
                panels[1].multiply::<U>(between.as_ptr(), hidden, rows.len(), target, rows.start * columns, &second.epilogue);
            });
            y.set_len(rows * columns);
        }
        y
    }
}
