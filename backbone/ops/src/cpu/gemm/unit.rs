//! The register tile: a few rows of the left matrix times one panel, with all sums in registers.

/// A vector unit of a processor.
pub(crate) trait Unit {
    /// Values of a vector.
    const LANES: usize;
    /// Rows of a full tile: with [`VECTORS`] vectors each they fill the registers.
    const ROWS: usize;

    /// Computes a tile of `rows` rows and `vectors` vectors, see [`Tile`].
    ///
    /// # Safety
    /// The processor has the unit, `rows` is in `1..=ROWS` and `vectors` in `1..=VECTORS`, and the pointers of the tile are valid as
    /// described there.
    unsafe fn tile(rows: usize, vectors: usize, tile: Tile);

    /// Transposes `count` runs of `depth` values, which start `stride` values apart, into columns: value `k` of run `i` goes to
    /// `panel[place(k) + i]`. Columns `count..width` become 0.
    ///
    /// # Safety
    /// The processor has the unit, the runs are readable, `panel` is writable for `width` values from every `place(k)`, and `width` is a
    /// multiple of [`Unit::LANES`] and at least `count`.
    unsafe fn transpose(
        panel: *mut f32,
        width: usize,
        source: *const f32,
        stride: usize,
        depth: usize,
        count: usize,
        place: impl Fn(usize) -> usize,
    );
}

/// Width of a tile and of a packed panel, in vectors; the last panel may have fewer.
pub(crate) const VECTORS: usize = 3;

/// Values in a cache line.
const LINE: usize = 16;

/// `rows` by `width` elements of the result, where `width` is a whole number of vectors.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) depth: usize,
    /// Element `(i, k)` of the left matrix is `a[i * a_row + k * a_step]`.
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    pub(crate) a_step: usize,
    /// `[depth, width]`
    pub(crate) panel: *const f32,
    /// Added to row `i` of the sums: the values at `start + i * start_row`.
    pub(crate) start: *const f32,
    pub(crate) start_row: usize,
    /// Row `i` of the result goes to `y + i * y_row`.
    pub(crate) y: *mut f32,
    pub(crate) y_row: usize,
    /// Memory to prefetch: `depth` values from `prefetch + i * prefetch_row` for `i < prefetch_rows`.
    pub(crate) prefetch: *const f32,
    pub(crate) prefetch_row: usize,
    pub(crate) prefetch_rows: usize,
}

/// A routine that is generic over the vector unit.
pub(crate) trait Routine {
    type Output;

    /// Runs the routine.
    ///
    /// # Safety
    /// The processor has the unit.
    unsafe fn run<U: Unit>(self) -> Self::Output;
}

/// Runs the routine on the best unit of this processor.
pub(crate) fn run_on_best_unit<R: Routine>(routine: R) -> R::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the features were just detected.
            return unsafe { routine.run::<x86::Avx512>() };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were just detected.
            return unsafe { routine.run::<x86::Avx2>() };
        }
    }
    // SAFETY: every processor has the plain unit.
    unsafe { routine.run::<Plain>() }
}

/// Runs the routine on every unit of this processor.
#[cfg(test)]
pub(crate) fn run_on_every_unit<R: Routine + Copy>(routine: R) -> Vec<(&'static str, R::Output)> {
    // SAFETY: every processor has the plain unit, and the features of the others are detected.
    unsafe {
        let mut results = vec![("plain", routine.run::<Plain>())];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                results.push(("AVX2", routine.run::<x86::Avx2>()));
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                results.push(("AVX-512", routine.run::<x86::Avx512>()));
            }
        }
        results
    }
}

/// Plain Rust for every processor, which the compiler vectorises in vectors of four.
struct Plain;

impl Unit for Plain {
    const LANES: usize = 4;
    const ROWS: usize = 4;

    unsafe fn tile(rows: usize, vectors: usize, tile: Tile) {
        // SAFETY: the caller guarantees the conditions of the trait.
        unsafe {
            match vectors {
                1 => plain_tile::<4>(rows, tile),
                2 => plain_tile::<8>(rows, tile),
                _ => plain_tile::<12>(rows, tile),
            }
        }
    }

    unsafe fn transpose(
        panel: *mut f32,
        width: usize,
        source: *const f32,
        stride: usize,
        depth: usize,
        count: usize,
        place: impl Fn(usize) -> usize,
    ) {
        // SAFETY: the caller guarantees the conditions of the trait.
        unsafe { transpose_rest(panel, source, stride, 0..depth, 0..width, count, &place) }
    }
}

/// A tile of `WIDTH` columns.
///
/// # Safety
/// See [`Unit::tile`].
unsafe fn plain_tile<const WIDTH: usize>(rows: usize, tile: Tile) {
    const FMA: bool = cfg!(target_arch = "aarch64");
    for i in 0..rows {
        let mut sums = [0.0_f32; WIDTH];
        for k in 0..tile.depth {
            // SAFETY: the caller of `Unit::tile` guarantees all addresses of the tile.
            let (x, b) = unsafe { (*tile.a.add(i * tile.a_row + k * tile.a_step), &*tile.panel.add(k * WIDTH).cast::<[f32; WIDTH]>()) };
            for lane in 0..WIDTH {
                sums[lane] = crate::cpu::simd::fma::<FMA>(x, b[lane], sums[lane]);
            }
        }
        for (lane, sum) in sums.into_iter().enumerate() {
            // SAFETY: as above. `start` may alias `y`, so no references are created.
            unsafe { *tile.y.add(i * tile.y_row + lane) = *tile.start.add(i * tile.start_row + lane) + sum };
        }
    }
}

/// [`Unit::transpose`] value by value, for some of the depths and columns.
///
/// # Safety
/// See [`Unit::transpose`].
#[inline(always)]
unsafe fn transpose_rest(
    panel: *mut f32,
    source: *const f32,
    stride: usize,
    depths: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    count: usize,
    place: &impl Fn(usize) -> usize,
) {
    for k in depths {
        let row = place(k);
        for i in columns.clone() {
            // SAFETY: reads stay inside the `count` runs, writes inside the row that starts at `place(k)`.
            unsafe { *panel.add(row + i) = if i < count { *source.add(i * stride + k) } else { 0.0 } };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LINE, Tile, Unit, transpose_rest};

    pub(super) struct Avx512;
    pub(super) struct Avx2;

    /// Implements a unit: the tile with `ROWS * VECTORS` sums in registers, instantiated for every number of rows and vectors.
    macro_rules! unit {
        (
            $unit:ident, $tile:ident, $features:literal, $lanes:literal, rows $most:literal: [$($row:literal)+],
            $load:ident, $store:ident, $set:ident, $fma:ident, $add:ident, $zero:ident
        ) => {
            #[target_feature(enable = $features)]
            unsafe fn $tile<const ROWS: usize, const VECTORS: usize>(tile: Tile) {
                let Tile { depth, a, a_row, a_step, panel, start, start_row, y, y_row, prefetch, prefetch_row, prefetch_rows } = tile;
                let mut sums = [[$zero(); VECTORS]; ROWS];
                // SAFETY: the caller of `Unit::tile` guarantees all addresses of the tile; a prefetch never faults.
                unsafe {
                    for first in (0..depth).step_by(LINE) {
                        for i in 0..prefetch_rows {
                            _mm_prefetch::<_MM_HINT_T1>(prefetch.wrapping_add(i * prefetch_row + first).cast());
                        }
                        for k in first..depth.min(first + LINE) {
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
                    }
                    for i in 0..ROWS {
                        for v in 0..VECTORS {
                            let first = $load(start.add(i * start_row + v * $lanes));
                            $store(y.add(i * y_row + v * $lanes), $add(first, sums[i][v]));
                        }
                    }
                }
            }

            impl Unit for $unit {
                const LANES: usize = $lanes;
                const ROWS: usize = $most;

                unsafe fn tile(rows: usize, vectors: usize, tile: Tile) {
                    // SAFETY: the caller guarantees the conditions of the trait.
                    unsafe {
                        match (rows, vectors) {
                            $(($row, 1) => $tile::<$row, 1>(tile), ($row, 2) => $tile::<$row, 2>(tile), ($row, 3) => $tile::<$row, 3>(tile),)+
                            _ => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                        }
                    }
                }

                unsafe fn transpose(
                    panel: *mut f32,
                    width: usize,
                    source: *const f32,
                    stride: usize,
                    depth: usize,
                    count: usize,
                    place: impl Fn(usize) -> usize,
                ) {
                    // SAFETY: the caller guarantees the conditions of the trait; AVX-512 includes AVX2.
                    unsafe { transpose(panel, width, source, stride, depth, count, &place) }
                }
            }
        };
    }

    unit!(
        Avx512,
        tile_avx512,
        "avx512f,avx512vl,avx2,fma",
        16,
        rows 8: [1 2 3 4 5 6 7 8],
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm512_setzero_ps
    );
    unit!(
        Avx2,
        tile_avx2,
        "avx2,fma",
        8,
        rows 4: [1 2 3 4],
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        _mm256_setzero_ps
    );

    /// [`Unit::transpose`] in blocks of eight by eight.
    ///
    /// # Safety
    /// See [`Unit::transpose`].
    #[target_feature(enable = "avx2,fma")]
    unsafe fn transpose(
        panel: *mut f32,
        width: usize,
        source: *const f32,
        stride: usize,
        depth: usize,
        count: usize,
        place: &impl Fn(usize) -> usize,
    ) {
        // SAFETY: reads stay below `count` runs and `depth` values of each, writes inside the rows of the panel.
        unsafe {
            for first in (0..width).step_by(8) {
                let whole = if first + 8 <= count { depth - depth % 8 } else { 0 };
                for k in (0..whole).step_by(8) {
                    let row = |i: usize| _mm256_loadu_ps(source.add((first + i) * stride + k));
                    let columns = transpose_8x8([row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)]);
                    for (i, column) in columns.into_iter().enumerate() {
                        _mm256_storeu_ps(panel.add(place(k + i) + first), column);
                    }
                }
                transpose_rest(panel, source, stride, whole..depth, first..first + 8, count, place);
            }
        }
    }

    /// Transposes a block of 8 by 8.
    #[target_feature(enable = "avx2,fma")]
    fn transpose_8x8(r: [__m256; 8]) -> [__m256; 8] {
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
