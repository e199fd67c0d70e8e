//! Where the windows of a stage lie, and what depends on nothing but that: worked out once a stage and used by all of its blocks.

use burn::prelude::*;
use burn::tensor::TensorData;

use super::config::SmallMaps;

/// Windows on a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Height and width of the map.
    pub map: [usize; 2],
    /// Height and width of a window.
    pub window: [usize; 2],
    /// Height and width of the map with zeros at the bottom and the right, a multiple of the window.
    pub padded: [usize; 2],
    /// How far windows are shifted in shifted blocks; 0 in a direction with one window.
    pub shift: [usize; 2],
}

/// Windows with their tables on a device.
pub(super) struct Windows {
    pub geometry: Geometry,
    /// `[windows, 1, positions, positions]` of a shifted block, [`MASKED`] for pairs that are neighbours only because the map is wrapped;
    /// `None` without a shift.
    pub mask: Option<Tensor<4>>,
    /// The row of the table for every pair of positions.
    index: Tensor<1, Int>,
    /// `[rows for this window, rows stored]`: the table for this window, unless it is stored.
    resample: Option<Tensor<2>>,
}

/// What is added to the score of a pair that may not attend to each other; the reference has no infinity there.
const MASKED: f64 = -100.0;

impl Geometry {
    /// Windows of the size `window` on a map of `[height, width]` positions.
    pub fn new(map: [usize; 2], window: [usize; 2], small_maps: SmallMaps) -> Self {
        let axis = |axis: usize| {
            let window = match small_maps {
                SmallMaps::Pad => window[axis],
                SmallMaps::Shrink => window[axis].min(map[axis]),
            };
            (window, map[axis].next_multiple_of(window), if map[axis] <= window { 0 } else { window / 2 })
        };
        let [(height, rows, down), (width, columns, right)] = [axis(0), axis(1)];
        Self { map, window: [height, width], padded: [rows, columns], shift: [down, right] }
    }

    /// Number of windows in both directions.
    pub fn counts(&self) -> [usize; 2] {
        [self.padded[0] / self.window[0], self.padded[1] / self.window[1]]
    }

    /// Pads `x: [batch, height, width, channels]` and, for a shifted block, moves it up and to the left by half a window; what leaves the map
    /// comes in on the other side.
    pub fn shifted_in(&self, x: Tensor<4>, shifted: bool) -> Tensor<4> {
        [0, 1].into_iter().fold(x, |x, axis| {
            let (size, shift, dim) = (self.map[axis], if shifted { self.shift[axis] } else { 0 }, axis + 1);
            if shift == 0 {
                return pad_end(x, dim, self.padded[axis] - size);
            }
            let kept = pad_end(x.clone().slice_dim(dim, shift..size), dim, self.padded[axis] - size);
            Tensor::cat(vec![kept, x.slice_dim(dim, 0..shift)], dim)
        })
    }

    /// The way back from [`Geometry::shifted_in`].
    pub fn shifted_out(&self, x: Tensor<4>, shifted: bool) -> Tensor<4> {
        [0, 1].into_iter().fold(x, |x, axis| {
            let (size, padded, dim) = (self.map[axis], self.padded[axis], axis + 1);
            match if shifted { self.shift[axis] } else { 0 } {
                0 if size == padded => x,
                0 => x.slice_dim(dim, 0..size),
                shift => Tensor::cat(vec![x.clone().slice_dim(dim, padded - shift..padded), x.slice_dim(dim, 0..size - shift)], dim),
            }
        })
    }

    /// The row of the table for every pair of positions in a window, the first position's pairs first.
    fn pairs(&self) -> Vec<i32> {
        let [height, width] = self.window;
        let positions = || (0..height).flat_map(move |row| (0..width).map(move |column| (row, column)));
        let distance =
            |from: (usize, usize), to: (usize, usize)| (from.0 + height - 1 - to.0) * (2 * width - 1) + from.1 + width - 1 - to.1;
        positions().flat_map(|from| positions().map(move |to| distance(from, to) as i32)).collect()
    }

    /// For a shifted block, window by window, the part of the map that each position comes from: only positions of one part are neighbours.
    fn parts(&self) -> Vec<f32> {
        let part = |axis: usize, position: usize| {
            let (size, window, shift) = (self.padded[axis], self.window[axis], self.shift[axis]);
            match position {
                _ if shift == 0 => 0,
                _ if position < size - window => 0,
                _ if position < size - shift => 1,
                _ => 2,
            }
        };
        let ([down, across], [height, width]) = (self.counts(), self.window);
        let windows = (0..down).flat_map(|row| (0..across).map(move |column| (row * height, column * width)));
        let positions = |(top, left): (usize, usize)| {
            (top..top + height).flat_map(move |row| (left..left + width).map(move |column| (3 * part(0, row) + part(1, column)) as f32))
        };
        windows.flat_map(positions).collect()
    }
}

impl Windows {
    /// For tables that are stored for windows of `table_window` positions in height and width.
    pub fn new(geometry: Geometry, table_window: usize, device: &Device) -> Self {
        let ([height, width], [down, across]) = (geometry.window, geometry.counts());
        let positions = height * width;
        let index = Tensor::from_data(TensorData::new(geometry.pairs(), [positions * positions]), device);
        let mask = (geometry.shift != [0, 0]).then(|| {
            let parts = Tensor::<2>::from_data(TensorData::new(geometry.parts(), [down * across, positions]), device);
            let pairs = [parts.clone().unsqueeze_dim::<3>(2), parts.unsqueeze_dim::<3>(1)];
            let [from, to] = pairs.map(|parts| parts.expand([down * across, positions, positions]));
            (from.not_equal(to).float() * MASKED).unsqueeze_dim(1)
        });
        let resample = (geometry.window != [table_window; 2]).then(|| {
            let stored = 2 * table_window - 1;
            let [rows, columns] = geometry.window.map(|side| bicubic(stored, 2 * side - 1));
            let both = rows.iter().flat_map(|row| columns.iter().map(move |column| outer(row, column)));
            let shape = [rows.len() * columns.len(), stored * stored];
            Tensor::from_data(TensorData::new(both.flatten().collect::<Vec<f32>>(), shape), device)
        });
        Self { geometry, mask, index, resample }
    }

    /// `[1, heads, positions, positions]` of a table `[rows, heads]`.
    pub fn bias(&self, table: Tensor<2>) -> Tensor<4> {
        let (heads, positions) = (table.dims()[1], self.geometry.window[0] * self.geometry.window[1]);
        let table = match &self.resample {
            Some(resample) => resample.clone().matmul(table),
            None => table,
        };
        table.select(0, self.index.clone()).transpose().reshape([1, heads, positions, positions])
    }
}

/// Zeros behind the end of axis `dim`.
pub(super) fn pad_end(x: Tensor<4>, dim: usize, count: usize) -> Tensor<4> {
    if count == 0 {
        return x;
    }
    let mut shape = x.dims();
    shape[dim] = count;
    let zeros = Tensor::zeros(shape, (&x.device(), x.dtype()));
    Tensor::cat(vec![x, zeros], dim)
}

/// Weights of `stored` samples in each of `size` samples of the same range: PyTorch's `interpolate(mode="bicubic", align_corners=False)`,
/// without antialiasing, as the official code resamples tables.
fn bicubic(stored: usize, size: usize) -> Vec<Vec<f64>> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((x - 5.0) * x + 8.0) * x * A - 4.0 * A;
    let row = |target: usize| {
        let source = (target as f64 + 0.5) * stored as f64 / size as f64 - 0.5;
        let first = source.floor();
        let t = source - first;
        let mut weights = vec![0.0; stored];
        for (offset, weight) in [far(1.0 + t), near(t), near(1.0 - t), far(2.0 - t)].into_iter().enumerate() {
            // Beyond the ends the last sample repeats.
            let sample = (first + offset as f64 - 1.0).clamp(0.0, (stored - 1) as f64);
            weights[sample as usize] += weight;
        }
        weights
    };
    (0..size).map(row).collect()
}

/// Products of all pairs, row-major.
fn outer(rows: &[f64], columns: &[f64]) -> Vec<f32> {
    rows.iter().flat_map(|row| columns.iter().map(move |column| (row * column) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_maps_have_one_window_that_is_not_shifted() {
        let padded = Geometry::new([4, 15], [7, 7], SmallMaps::Pad);
        assert_eq!((padded.window, padded.padded, padded.shift), ([7, 7], [7, 21], [0, 3]));
        let shrunk = Geometry::new([4, 15], [7, 7], SmallMaps::Shrink);
        assert_eq!((shrunk.window, shrunk.padded, shrunk.shift), ([4, 7], [4, 21], [0, 3]));
    }

    #[test]
    fn shifting_out_undoes_shifting_in() {
        let device = Device::flex();
        for map in [[4, 15], [8, 9], [7, 7], [14, 20]] {
            let geometry = Geometry::new(map, [7, 4], SmallMaps::Pad);
            let count = 2 * map[0] * map[1] * 3;
            let x = Tensor::<1, Int>::arange(0..count as i64, &device).float().reshape([2, map[0], map[1], 3]);
            for shifted in [false, true] {
                let moved = geometry.shifted_in(x.clone(), shifted);
                assert_eq!(moved.dims(), [2, geometry.padded[0], geometry.padded[1], 3]);
                assert_eq!(geometry.shifted_out(moved, shifted).into_data(), x.to_data());
            }
        }
    }

    #[test]
    fn resampling_keeps_constants_and_the_same_size() {
        for (stored, size) in [(13, 17), (13, 47), (13, 3), (1, 5)] {
            assert!(bicubic(stored, size).iter().all(|row| (row.iter().sum::<f64>() - 1.0).abs() < 1e-12), "{stored} to {size}");
        }
        for (target, row) in bicubic(5, 5).iter().enumerate() {
            assert!(row.iter().enumerate().all(|(source, weight)| *weight == f64::from(u8::from(source == target))));
        }
    }
}
