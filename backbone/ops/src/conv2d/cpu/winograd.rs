//! 3x3 convolution of stride 1 by Winograd's F(2x2, 3x3): 16 products for four results instead of 36 (Lavin and Gray, "Fast Algorithms
//! for Convolutional Neural Networks", 2016).
//!
//! ```text
//! y = A' ((G w G') * (B' x B)) A      for every tile x of 4x4 pixels; tiles overlap by two pixels
//! ```
//! The transforms contain only 0, 1, -1 and 1/2, so the rounding error is about that of the direct sum (the paper's table 3). Summed over
//! the channels, the elementwise product becomes sixteen matrix products, one for each position in the tile.

use std::ops::Range;

use super::problem::Convolution;
use super::weights::pack_weights;
use crate::cpu::gemm::{Panels, Prefetch, Routine, Strip, Unit, depth_blocks, for_each_task, panel_columns, panel_count, panel_width};
use crate::cpu::simd::{Kernel, LANES, Lanes, dispatch};
use crate::cpu::{Scratch, SharedMut};
use crate::epilogue::Epilogue;

/// Tiles of a task: their transformed inputs and one panel of weights fit in the second-level cache.
const TASK_TILES: usize = 64;

/// Positions in a tile of 4x4.
const PLACES: usize = 16;

/// Winograd's algorithm.
#[derive(Clone, Copy)]
pub(super) struct Winograd<'a>(pub(super) Convolution<'a>);

impl Winograd<'_> {
    /// Whether the algorithm applies and is faster: a 3x3 kernel of stride 1, enough channels for the products to outweigh the transforms,
    /// and enough tiles to outweigh the transform of the weights.
    pub(super) fn pays(convolution: &Convolution) -> bool {
        let Convolution { batch, height, width, channels, outputs, window, .. } = *convolution;
        let [rows, columns] = window.count([height, width]);
        let tiles = batch * rows.div_ceil(2) * columns.div_ceil(2);
        window.kernel == [3, 3] && window.stride == [1, 1] && channels >= 32 && outputs >= 32 && tiles >= 48
    }
}

impl Routine for Winograd<'_> {
    type Output = Vec<f32>;

    unsafe fn run<U: Unit>(self) -> Vec<f32> {
        let Convolution { batch, height, width, channels, outputs, window, epilogue, .. } = self.0;
        let [rows, columns] = window.count([height, width]);
        let mut y = Vec::with_capacity(batch * rows * columns * outputs);
        let threads = self.0.threads();
        // SAFETY: the caller guarantees the unit.
        let weights = unsafe { transform_weights::<U>(&self.0, threads) };
        let target = SharedMut::from_ptr(y.as_mut_ptr());
        let grid = Grid { across: columns.div_ceil(2), down: rows.div_ceil(2) };
        let tiles = batch * grid.across * grid.down;
        let tasks = tiles.div_ceil(TASK_TILES).next_multiple_of(threads);
        let size = tiles.div_ceil(tasks).next_multiple_of(8);
        for_each_task(threads, tiles.div_ceil(size), |task| {
            let tiles = task * size..tiles.min((task + 1) * size);
            let mut inputs = Scratch::unset(PLACES * tiles.len() * channels);
            dispatch(TransformInput { convolution: &self.0, grid, tiles: tiles.clone(), inputs: &mut inputs });
            for panel in 0..panel_count::<U>(outputs) {
                let outs = panel_columns::<U>(panel, outputs);
                let across = panel_width::<U>(outs.len());
                let mut products = Scratch::unset(PLACES * tiles.len() * across);
                let to = SharedMut::new(&mut products);
                for (place, panels) in weights.iter().enumerate() {
                    for (index, block) in panels.blocks().iter().enumerate() {
                        let strip = Strip {
                            a: inputs[place * tiles.len() * channels + block.start..].as_ptr(),
                            a_row: channels,
                            a_step: 1,
                            a_tile: U::ROWS * channels,
                            rows: tiles.len(),
                            depth: block.len(),
                            panel: panels.panel::<U>(index, outs.start),
                            columns: 0..across,
                            target: to,
                            offset: place * tiles.len() * across,
                            y_row: across,
                            first: index == 0,
                            last: false,
                            prefetch: Prefetch::NONE,
                        };
                        // SAFETY: the inputs have a row for every tile, and only this task accesses its products.
                        unsafe { strip.run::<U>(&Epilogue::default()) };
                    }
                }
                dispatch(TransformOutput {
                    products: &products,
                    across,
                    tiles: tiles.clone(),
                    grid,
                    size: [rows, columns],
                    outs,
                    outputs,
                    target,
                    epilogue,
                });
            }
        });
        // SAFETY: the tiles cover every row and column, and the panels every output.
        unsafe { y.set_len(batch * rows * columns * outputs) };
        y
    }
}

/// The tiles of an image.
#[derive(Clone, Copy)]
struct Grid {
    across: usize,
    down: usize,
}

impl Grid {
    /// Image of a tile, and row and column of its first result.
    #[inline(always)]
    fn at(self, tile: usize) -> [usize; 3] {
        let (line, column) = (tile / self.across, tile % self.across);
        [line / self.down, 2 * (line % self.down), 2 * column]
    }
}

/// `G w G'` for every channel and output, as panels of `[channels, outputs]` for each position.
///
/// # Safety
/// The processor has the unit.
unsafe fn transform_weights<U: Unit>(convolution: &Convolution, threads: usize) -> Vec<Panels> {
    let Convolution { channels, outputs, .. } = *convolution;
    let taps = (0..9).map(|tap| tap * channels..(tap + 1) * channels).collect();
    // SAFETY: the caller guarantees the unit.
    let packed = unsafe { pack_weights::<U>(convolution, taps, threads) };
    let new = || Panels::with_blocks::<U>(depth_blocks(0..channels).collect(), outputs);
    let mut places: Vec<Panels> = (0..PLACES).map(|_| new()).collect();
    let targets: Vec<SharedMut> = places.iter_mut().map(Panels::target).collect();
    for_each_task(threads, panel_count::<U>(outputs), |panel| {
        let outs = panel_columns::<U>(panel, outputs);
        let width = panel_width::<U>(outs.len());
        for (index, block) in places[0].blocks().iter().enumerate() {
            let to = places[0].offset::<U>(index, outs.start);
            let (from, count) = (block.start * width, block.len() * width);
            let taps = std::array::from_fn(|tap| &packed.values()[packed.offset::<U>(tap, outs.start) + from..][..count]);
            // SAFETY: only this task writes this panel of this block, for every position.
            let places = std::array::from_fn(|place| unsafe { std::slice::from_raw_parts_mut(targets[place].at(to), count) });
            dispatch(TransformWeights { taps, places });
        }
    });
    places
}

struct TransformWeights<'a> {
    taps: [&'a [f32]; 9],
    places: [&'a mut [f32]; PLACES],
}

impl Kernel for TransformWeights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { taps, places } = self;
        let half = |a: f32, b: f32, c: f32| [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c];
        for i in 0..taps[0].len() {
            // `G w`, column by column, then `(G w) G'`.
            let columns: [[f32; 4]; 3] = std::array::from_fn(|x| half(taps[x][i], taps[3 + x][i], taps[6 + x][i]));
            for y in 0..4 {
                let row = half(columns[0][y], columns[1][y], columns[2][y]);
                for x in 0..4 {
                    places[4 * y + x][i] = row[x];
                }
            }
        }
    }
}

/// `B' x B` for every tile of a task: `[place, tile, channel]`.
struct TransformInput<'a> {
    convolution: &'a Convolution<'a>,
    grid: Grid,
    tiles: Range<usize>,
    inputs: &'a mut [f32],
}

impl Kernel for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Convolution { x, height, width, channels, window, .. } = *self.convolution;
        let zeros = vec![0.0; channels];
        let place_size = self.tiles.len() * channels;
        for (number, tile) in self.tiles.enumerate() {
            let [image, top, left] = self.grid.at(tile);
            let pixels: [[&[f32]; 4]; 4] = std::array::from_fn(|dy| {
                std::array::from_fn(|dx| {
                    let row = (top + dy).checked_sub(window.padding[0]).filter(|row| *row < height);
                    let column = (left + dx).checked_sub(window.padding[1]).filter(|column| *column < width);
                    match (row, column) {
                        (Some(row), Some(column)) => &x[((image * height + row) * width + column) * channels..][..channels],
                        _ => &zeros[..],
                    }
                })
            });
            for first in (0..channels).step_by(LANES) {
                let count = LANES.min(channels - first);
                let rows: [[Lanes; 4]; 4] = std::array::from_fn(|dy| {
                    let d: [Lanes; 4] = std::array::from_fn(|dx| read(&pixels[dy][dx][first..][..count]));
                    [minus(&d[0], &d[2]), plus(&d[1], &d[2]), minus(&d[2], &d[1]), minus(&d[1], &d[3])]
                });
                for dx in 0..4 {
                    let column = [
                        minus(&rows[0][dx], &rows[2][dx]),
                        plus(&rows[1][dx], &rows[2][dx]),
                        minus(&rows[2][dx], &rows[1][dx]),
                        minus(&rows[1][dx], &rows[3][dx]),
                    ];
                    for (dy, value) in column.iter().enumerate() {
                        let target = &mut self.inputs[(4 * dy + dx) * place_size + number * channels + first..][..count];
                        write(target, value);
                    }
                }
            }
        }
    }
}

/// `A' m A` for every tile, and the epilogue.
struct TransformOutput<'a> {
    /// `[place, tile, across]`
    products: &'a [f32],
    across: usize,
    tiles: Range<usize>,
    grid: Grid,
    /// Rows and columns of the result.
    size: [usize; 2],
    outs: Range<usize>,
    outputs: usize,
    target: SharedMut,
    epilogue: Epilogue<&'a [f32]>,
}

impl Kernel for TransformOutput<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { products, across, tiles, grid, size: [rows, columns], outs, outputs, target, epilogue } = self;
        let place_size = tiles.len() * across;
        for (number, tile) in tiles.enumerate() {
            let [image, top, left] = grid.at(tile);
            for first in (0..outs.len()).step_by(LANES) {
                let count = LANES.min(outs.len() - first);
                let product = |place: usize| read(&products[place * place_size + number * across + first..][..count]);
                let lines: [[Lanes; 2]; 4] = std::array::from_fn(|dy| {
                    let m: [Lanes; 4] = std::array::from_fn(|dx| product(4 * dy + dx));
                    [plus(&plus(&m[0], &m[1]), &m[2]), minus(&minus(&m[1], &m[2]), &m[3])]
                });
                for dx in 0..2 {
                    let pair = [
                        plus(&plus(&lines[0][dx], &lines[1][dx]), &lines[2][dx]),
                        minus(&minus(&lines[1][dx], &lines[2][dx]), &lines[3][dx]),
                    ];
                    for (dy, mut sums) in pair.into_iter().enumerate() {
                        let (row, column) = (top + dy, left + dx);
                        if row >= rows || column >= columns {
                            continue;
                        }
                        let offset = ((image * rows + row) * columns + column) * outputs + outs.start + first;
                        epilogue.whole::<FMA>(&mut sums[..count], outs.start + first, offset);
                        // SAFETY: only this task writes the results of its tiles.
                        let target = unsafe { std::slice::from_raw_parts_mut(target.at(offset), count) };
                        write(target, &sums);
                    }
                }
            }
        }
    }
}

/// The first lanes of a slice; missing values are 0.
#[inline(always)]
fn read(values: &[f32]) -> Lanes {
    match values.first_chunk::<LANES>() {
        Some(values) => *values,
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..values.len()].copy_from_slice(values);
            lanes
        }
    }
}

/// Writes as many lanes as the slice has room for.
#[inline(always)]
fn write(target: &mut [f32], values: &Lanes) {
    match target.first_chunk_mut::<LANES>() {
        Some(target) => *target = *values,
        None => {
            let count = target.len();
            target.copy_from_slice(&values[..count]);
        }
    }
}

#[inline(always)]
fn plus(a: &Lanes, b: &Lanes) -> Lanes {
    std::array::from_fn(|lane| a[lane] + b[lane])
}

#[inline(always)]
fn minus(a: &Lanes, b: &Lanes) -> Lanes {
    std::array::from_fn(|lane| a[lane] - b[lane])
}
