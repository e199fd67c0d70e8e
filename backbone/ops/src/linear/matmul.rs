//! Matrix product on x86-64 with AVX2 or AVX-512, for the shapes of a backbone: a tall, thin left factor and a weight that changes
//! from layer to layer.
//!
//! A general library packs both factors on every call. Here only the right factor is packed, one panel of [`VECTORS`] vectors at a
//! time while it is in the cache; rows of the left factor are read where they lie. That halves what has to be moved when the left
//! factor is small (stages 3 and 4 of a backbone at batch 1 read each weight once), and the bias is added before the sums leave the registers.
//!
//! Every element of the result is one sum over the depth in a fixed order, whatever the number of threads.

use rayon::prelude::*;

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
}

impl Factor<'_> {
    /// Whether the values reach to the last element of a matrix of this size.
    pub(super) fn holds(&self, rows: usize, columns: usize) -> bool {
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

/// Vectors across a tile of the result and across a packed panel; the last panel of a row may have fewer.
const VECTORS: usize = 3;

/// Depth of a block. A panel of 48 columns is then 192 KiB and stays in the second-level cache.
const DEPTH: usize = 1024;

/// Most rows a task treats, and most elements of the left factor it packs when that lies transposed.
const TASK_ROWS: usize = 256;

/// Products below this many multiply-adds run on one thread: waking the others costs more.
pub(super) const PARALLEL_FROM: usize = 1 << 18;

/// `a b + bias` in row-major order, with `bias` per column, or `a b`. `None` when this processor has no AVX2.
///
/// # Panics
/// When a slice is shorter than the sizes and strides say.
pub(super) fn matmul(a: Factor, b: Factor, bias: Option<&[f32]>, sizes: Sizes) -> Option<Vec<f32>> {
    let Sizes { rows, columns, inner } = sizes;
    assert!(bias.is_none_or(|bias| bias.len() == columns), "matmul: the bias does not fit");
    assert!(a.holds(rows, inner) && b.holds(inner, columns), "matmul: a factor does not fit");
    assert!([a, b].iter().all(|factor| factor.row == 1 || factor.column == 1), "matmul: a factor has no contiguous side");
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            return Some(run::<x86::Avx512>(a, b, bias, sizes));
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Some(run::<x86::Avx2>(a, b, bias, sizes));
        }
    }
    None
}

/// The product by each unit this processor has.
#[cfg(test)]
pub(super) fn every_unit(a: Factor, b: Factor, bias: Option<&[f32]>, sizes: Sizes) -> Vec<Vec<f32>> {
    let mut results = Vec::from_iter(matmul(a, b, bias, sizes));
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        results.push(run::<x86::Avx2>(a, b, bias, sizes));
    }
    results
}

/// What a task needs beside its place in the result.
struct Product<'a> {
    a: Factor<'a>,
    b: Factor<'a>,
    bias: Option<&'a [f32]>,
    sizes: Sizes,
}

/// A vector unit.
trait Unit {
    /// Values of a vector.
    const LANES: usize;
    /// Rows of a full tile: with [`VECTORS`] this fills the registers.
    const ROWS: usize;

    /// Copies `[depth, width]` of `b`, whose columns are contiguous, into a panel.
    ///
    /// # Safety
    /// The processor has the unit. `source` is readable at `column * stride + k` for all `column < count` and `k < depth`, and
    /// `panel` writable for `depth * width` values; `width` is a multiple of 8 and at least `count`.
    unsafe fn pack_transposed(panel: *mut f32, width: usize, source: *const f32, stride: usize, depth: usize, count: usize);

    /// A tile of `rows` rows and `vectors` vectors, see [`Tile`].
    ///
    /// # Safety
    /// The processor has the unit, `rows` is in `1..=ROWS` and `vectors` in `1..=VECTORS`, and the pointers of the tile are valid as
    /// described there.
    unsafe fn tile(rows: usize, vectors: usize, tile: Tile);
}

/// `rows` by `width` elements of the result, `width` being a number of vectors.
#[derive(Clone, Copy)]
struct Tile {
    depth: usize,
    /// Element `(i, k)` of the left factor is `a[i * a_row + k * a_step]`.
    a: *const f32,
    a_row: usize,
    a_step: usize,
    /// `[depth, width]`
    panel: *const f32,
    /// Added to row `i` of the sums: the values at `start + i * start_row`.
    start: *const f32,
    start_row: usize,
    /// Row `i` of the result goes to `y + i * y_row`.
    y: *mut f32,
    y_row: usize,
}

fn run<U: Unit>(a: Factor, b: Factor, bias: Option<&[f32]>, sizes: Sizes) -> Vec<f32> {
    let Sizes { rows, columns, inner } = sizes;
    // Not filled with zeros first: that would be a pass over the memory for nothing.
    let mut y = Vec::with_capacity(rows * columns);
    if rows == 0 || columns == 0 {
        return y;
    }
    let width = VECTORS * U::LANES;
    let panels = columns.div_ceil(width);
    let product = Product { a, b, bias, sizes };
    let threads = if rows * columns * inner < PARALLEL_FROM { 1 } else { rayon::current_num_threads() };
    let target = Target(y.as_mut_ptr());
    // Panels are packed once a task: few rows are split by panels, many by rows as well.
    let row_tasks = if a.column == 1 && rows <= TASK_ROWS && panels >= 2 * threads {
        1
    } else {
        rows.div_ceil(TASK_ROWS).max(threads.min(rows.div_ceil(U::ROWS)))
    };
    let task_rows = rows.div_ceil(row_tasks).next_multiple_of(U::ROWS);
    let row_tasks = rows.div_ceil(task_rows);
    let panel_tasks = (4 * threads).div_ceil(row_tasks).clamp(1, panels);
    let task_panels = panels.div_ceil(panel_tasks);
    let task = |index: usize| {
        let (part, block) = (index % panel_tasks, index / panel_tasks);
        let first_panel = part * task_panels;
        let rows = block * task_rows..rows.min((block + 1) * task_rows);
        let columns = first_panel * width..columns.min((first_panel + task_panels) * width);
        if !rows.is_empty() && columns.start < columns.end {
            // SAFETY: `matmul` checked the slices, and these rows and columns of the result belong to this task alone.
            unsafe { product.block::<U>(target, rows, columns) };
        }
    };
    if threads == 1 {
        (0..row_tasks * panel_tasks).for_each(task);
    } else {
        (0..row_tasks * panel_tasks).into_par_iter().with_max_len(1).for_each(task);
    }
    // SAFETY: the tasks covered all rows and columns, and each wrote all of its elements.
    unsafe { y.set_len(rows * columns) };
    y
}

/// The result, of which every task writes its own part.
#[derive(Clone, Copy)]
struct Target(*mut f32);

// SAFETY: tasks write disjoint rows and columns, see `run`.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// The element at `offset`.
    ///
    /// # Safety
    /// `offset` lies inside the result.
    #[inline(always)]
    unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller keeps the contract above.
        unsafe { self.0.add(offset) }
    }
}

impl Product<'_> {
    /// The elements `rows` by `columns` of the result, `columns` starting at the first column of a panel.
    ///
    /// # Safety
    /// The processor has the unit, both ranges lie inside the result, the factors hold what sizes and strides say, and no other task
    /// writes these elements.
    unsafe fn block<U: Unit>(&self, target: Target, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) {
        let most = VECTORS * U::LANES;
        let all = self.sizes.columns;
        let depth_most = DEPTH.min(self.sizes.inner.max(1));
        let mut panel = Vec::<f32>::with_capacity(depth_most * most);
        let transposed = self.a.column != 1;
        let mut packed = Vec::<f32>::with_capacity(if transposed { rows.len().next_multiple_of(U::ROWS) * depth_most } else { 0 });
        let mut start = vec![0.0_f32; most];
        let mut edge = vec![0.0_f32; U::ROWS * most];
        for depth_first in (0..self.sizes.inner.max(1)).step_by(DEPTH) {
            let depth = DEPTH.min(self.sizes.inner - depth_first.min(self.sizes.inner));
            if transposed {
                self.pack_left::<U>(&mut packed, rows.clone(), depth_first, depth);
            }
            for column in columns.clone().step_by(most) {
                let count = most.min(columns.end - column);
                let vectors = count.div_ceil(U::LANES);
                let width = vectors * U::LANES;
                // SAFETY: the columns `column..column + count` and the depths lie inside `b`, and the panel has room for them.
                unsafe { self.pack_panel::<U>(&mut panel, width, column..column + count, depth_first, depth) };
                start.fill(0.0);
                if let Some(bias) = self.bias {
                    start[..count].copy_from_slice(&bias[column..][..count]);
                }
                for row in rows.clone().step_by(U::ROWS) {
                    let height = U::ROWS.min(rows.end - row);
                    let (a, a_row, a_step) = if transposed {
                        (packed[(row - rows.start) * depth..].as_ptr(), 1, U::ROWS)
                    } else {
                        (self.a.values[row * self.a.row + depth_first..].as_ptr(), self.a.row, 1)
                    };
                    // SAFETY: row and column lie inside the result.
                    let y = unsafe { target.at(row * all + column) };
                    let whole = count == width;
                    let first = depth_first == 0;
                    if !whole && !first {
                        for i in 0..height {
                            for j in 0..count {
                                // SAFETY: element `(row + i, column + j)` of the result, which this task owns.
                                edge[i * width + j] = unsafe { *y.add(i * all + j) };
                            }
                        }
                    }
                    let (y_tile, y_row) = if whole { (y, all) } else { (edge.as_mut_ptr(), width) };
                    let (start, start_row) = if first { (start.as_ptr(), 0) } else { (y_tile.cast_const(), y_row) };
                    let tile = Tile { depth, a, a_row, a_step, panel: panel.as_ptr(), start, start_row, y: y_tile, y_row };
                    // SAFETY: `height` rows of `a` and of the result exist; a tile at the right edge goes to `edge`.
                    unsafe { U::tile(height, vectors, tile) };
                    if !whole {
                        for i in 0..height {
                            for j in 0..count {
                                // SAFETY: as above.
                                unsafe { *y.add(i * all + j) = edge[i * width + j] };
                            }
                        }
                    }
                }
            }
        }
    }

    /// Rows of a transposed left factor as `[tile, depth, ROWS]`.
    fn pack_left<U: Unit>(&self, packed: &mut Vec<f32>, rows: std::ops::Range<usize>, depth_first: usize, depth: usize) {
        packed.clear();
        for row in rows.clone().step_by(U::ROWS) {
            let height = U::ROWS.min(rows.end - row);
            for k in depth_first..depth_first + depth {
                packed.extend_from_slice(&self.a.values[k * self.a.column + row..][..height]);
                packed.extend(std::iter::repeat_n(0.0, U::ROWS - height));
            }
        }
    }

    /// Columns of the right factor as `[depth, width]`, with zeros behind the last one.
    ///
    /// # Safety
    /// The processor has the unit, and the panel has the capacity for `depth * width` values.
    unsafe fn pack_panel<U: Unit>(
        &self,
        panel: &mut Vec<f32>,
        width: usize,
        columns: std::ops::Range<usize>,
        depth_first: usize,
        depth: usize,
    ) {
        let (column, count) = (columns.start, columns.len());
        panel.clear();
        if self.b.column == 1 {
            for k in depth_first..depth_first + depth {
                panel.extend_from_slice(&self.b.values[k * self.b.row + column..][..count]);
                panel.extend(std::iter::repeat_n(0.0, width - count));
            }
        } else if depth > 0 {
            let source = &self.b.values[column * self.b.column + depth_first..];
            // SAFETY: the last value read is `(count - 1) * stride + depth - 1` of `source`, which `matmul` checked, and the routine
            // fills all `depth * width` values.
            unsafe {
                U::pack_transposed(panel.as_mut_ptr(), width, source.as_ptr(), self.b.column, depth, count);
                panel.set_len(depth * width);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Tile, Unit};

    pub(crate) struct Avx512;
    pub(crate) struct Avx2;

    /// One tile with `ROWS` rows: `ROWS * VECTORS` sums in registers.
    macro_rules! tile {
        ($name:ident, $features:literal, $load:ident, $store:ident, $set:ident, $fma:ident, $add:ident, $zero:ident, $lanes:literal) => {
            #[target_feature(enable = $features)]
            unsafe fn $name<const ROWS: usize, const VECTORS: usize>(tile: Tile) {
                let Tile { depth, a, a_row, a_step, panel, start, start_row, y, y_row } = tile;
                let mut sums = [[$zero(); VECTORS]; ROWS];
                // SAFETY: the caller of `Unit::tile` vouches for all addresses of the tile.
                unsafe {
                    for k in 0..depth {
                        let mut b = [$zero(); VECTORS];
                        for v in 0..VECTORS {
                            b[v] = $load(panel.add((k * VECTORS + v) * $lanes));
                        }
                        for i in 0..ROWS {
                            let x = $set(*a.add(i * a_row + k * a_step));
                            for v in 0..VECTORS {
                                sums[i][v] = $fma(x, b[v], sums[i][v]);
                            }
                        }
                    }
                    for i in 0..ROWS {
                        for v in 0..VECTORS {
                            let first = $load(start.add(i * start_row + v * $lanes));
                            $store(y.add(i * y_row + v * $lanes), $add(first, sums[i][v]));
                        }
                    }
                }
            }
        };
    }

    tile!(
        tile_avx512,
        "avx512f,avx512vl,avx2,fma",
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm512_setzero_ps,
        16
    );
    tile!(tile_avx2, "avx2,fma", _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps, _mm256_setzero_ps, 8);

    /// The instance of a tile function for a number of rows and vectors.
    macro_rules! by_size {
        ($function:ident, $tile:ident, $rows:ident, $vectors:ident, [$($row:literal)+]) => {
            match ($rows, $vectors) {
                $(($row, 1) => $function::<$row, 1>($tile), ($row, 2) => $function::<$row, 2>($tile), ($row, 3) => $function::<$row, 3>($tile),)+
                _ => unreachable!("a tile of {} rows and {} vectors", $rows, $vectors),
            }
        };
    }

    impl Unit for Avx512 {
        const LANES: usize = 16;
        const ROWS: usize = 8;

        unsafe fn pack_transposed(panel: *mut f32, width: usize, source: *const f32, stride: usize, depth: usize, count: usize) {
            // SAFETY: passed on.
            unsafe { pack(panel, width, source, stride, depth, count) }
        }

        unsafe fn tile(rows: usize, vectors: usize, tile: Tile) {
            // SAFETY: passed on.
            unsafe { by_size!(tile_avx512, tile, rows, vectors, [1 2 3 4 5 6 7 8]) }
        }
    }

    impl Unit for Avx2 {
        const LANES: usize = 8;
        const ROWS: usize = 4;

        unsafe fn pack_transposed(panel: *mut f32, width: usize, source: *const f32, stride: usize, depth: usize, count: usize) {
            // SAFETY: passed on.
            unsafe { pack(panel, width, source, stride, depth, count) }
        }

        unsafe fn tile(rows: usize, vectors: usize, tile: Tile) {
            // SAFETY: passed on.
            unsafe { by_size!(tile_avx2, tile, rows, vectors, [1 2 3 4]) }
        }
    }

    /// Transposes `count` runs of `depth` values into `[depth, width]`, eight by eight.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn pack(panel: *mut f32, width: usize, source: *const f32, stride: usize, depth: usize, count: usize) {
        // SAFETY: reads stay below `count` runs and `depth` values of each, writes inside the panel, see `Unit::pack_transposed`.
        unsafe {
            for first in (0..width).step_by(8) {
                let runs = count.saturating_sub(first).min(8);
                let mut k = 0;
                if runs == 8 {
                    while k + 8 <= depth {
                        let row = |i: usize| _mm256_loadu_ps(source.add((first + i) * stride + k));
                        let columns = transpose([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]);
                        for (i, column) in columns.into_iter().enumerate() {
                            _mm256_storeu_ps(panel.add((k + i) * width + first), column);
                        }
                        k += 8;
                    }
                }
                for k in k..depth {
                    for i in 0..8 {
                        *panel.add(k * width + first + i) = if i < runs { *source.add((first + i) * stride + k) } else { 0.0 };
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn transpose(r: [__m256; 8]) -> [__m256; 8] {
        let low = |i: usize| _mm256_unpacklo_ps(r[i], r[i + 1]);
        let high = |i: usize| _mm256_unpackhi_ps(r[i], r[i + 1]);
        let (a, b, c, d) = (low(0), high(0), low(2), high(2));
        let (e, f, g, h) = (low(4), high(4), low(6), high(6));
        let first = |x: __m256, y: __m256| _mm256_shuffle_ps::<0x44>(x, y);
        let second = |x: __m256, y: __m256| _mm256_shuffle_ps::<0xEE>(x, y);
        let upper = [first(a, c), second(a, c), first(b, d), second(b, d)];
        let lower = [first(e, g), second(e, g), first(f, h), second(f, h)];
        let near = |i: usize| _mm256_permute2f128_ps::<0x20>(upper[i], lower[i]);
        let far = |i: usize| _mm256_permute2f128_ps::<0x31>(upper[i], lower[i]);
        [near(0), near(1), near(2), near(3), far(0), far(1), far(2), far(3)]
    }
}
