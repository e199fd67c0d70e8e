//! The windows of a stage, with the mask and index tables that depend only on them. They are computed once and shared by all blocks of the
//! stage.

use burn::prelude::*;
use burn::tensor::TensorData;

use super::config::SmallMaps;
use crate::layers::RelativePositions;

/// The windows on a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Height and width of the map.
    pub map: [usize; 2],
    /// Height and width of a window.
    pub window: [usize; 2],
    /// Height and width of the map with zero padding at the bottom and the right, a multiple of the window.
    pub padded: [usize; 2],
    /// Shift of the windows in shifted blocks; 0 along an axis with one window.
    pub shift: [usize; 2],
}

/// The windows with their mask and index tables on a device.
pub(super) struct Windows {
    pub geometry: Geometry,
    /// The attention mask of a shifted block, `[windows, 1, positions, positions]`: [`MASKED`] for pairs that share a window only because the
    /// map wraps around. `None` without a shift.
    pub mask: Option<Tensor<4>>,
    /// Indices into the bias tables.
    pub positions: RelativePositions,
}

/// Added to the scores of masked pairs. The reference uses this value instead of minus infinity.
const MASKED: f64 = -100.0;

impl Geometry {
    /// Windows of size `window` on a map of `[height, width]` positions.
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

    /// Number of windows along both axes.
    pub fn counts(&self) -> [usize; 2] {
        [self.padded[0] / self.window[0], self.padded[1] / self.window[1]]
    }

    /// Pads `x: [batch, height, width, channels]` and, for a shifted block, rolls it up and to the left by half a window.
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

    /// The inverse of [`Geometry::shifted_in`].
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

    /// For a shifted block, the region of the map that each position comes from, window by window. Only positions of one region attend to each
    /// other.
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
    /// Computes the tables on `device`.
    pub fn new(geometry: Geometry, device: &Device) -> Self {
        let ([height, width], [down, across]) = (geometry.window, geometry.counts());
        let positions = height * width;
        let mask = (geometry.shift != [0, 0]).then(|| {
            let parts = Tensor::<2>::from_data(TensorData::new(geometry.parts(), [down * across, positions]), device);
            let pairs = [parts.clone().unsqueeze_dim::<3>(2), parts.unsqueeze_dim::<3>(1)];
            let [from, to] = pairs.map(|parts| parts.expand([down * across, positions, positions]));
            (from.not_equal(to).float() * MASKED).unsqueeze_dim(1)
        });
        Self { geometry, mask, positions: RelativePositions::new(geometry.window, device) }
    }
}

/// Pads the end of axis `dim` with zeros.
pub(super) fn pad_end(x: Tensor<4>, dim: usize, count: usize) -> Tensor<4> {
    if count == 0 {
        return x;
    }
    let mut shape = x.dims();
    shape[dim] = count;
    let zeros = Tensor::zeros(shape, (&x.device(), x.dtype()));
    Tensor::cat(vec![x, zeros], dim)
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
}
