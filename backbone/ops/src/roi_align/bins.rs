//! Boxes, and the weights with which their bins read a feature map.

/// A box on one image of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roi {
    /// Index of the image.
    pub image: usize,
    /// `[x0, y0, x1, y1]` in pixels of the network's input; may extend beyond the image.
    pub bbox: [f32; 4],
}

/// How a box is sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiSampling {
    /// Cells of the feature map per pixel of the input: 1 over the stride.
    pub spatial_scale: f32,
    /// Number of bins, `[rows, columns]`.
    pub output: [usize; 2],
    /// Samples of a bin along each axis; 0 for one sample per cell of the bin, rounded up.
    pub sampling_ratio: usize,
    /// Whether cell centres are at half coordinates, which is correct. Otherwise boxes are shifted by half a cell and at least one cell
    /// large, as in the first version of RoIAlign (Detectron).
    pub aligned: bool,
}

/// Consecutive rows or columns of the map that a bin reads, with their weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bin {
    /// The first row or column.
    pub(super) first: usize,
    pub(super) weights: Vec<f32>,
}

impl RoiSampling {
    /// The bins of a box along an axis (0 for rows, 1 for columns) of a map with `cells` cells along it. The weights include the division
    /// by the number of samples.
    pub(super) fn bins(&self, roi: &Roi, axis: usize, cells: usize) -> Vec<Bin> {
        let offset = if self.aligned { 0.5 } else { 0.0 };
        let start = roi.bbox[1 - axis] * self.spatial_scale - offset;
        let mut length = roi.bbox[3 - axis] * self.spatial_scale - offset - start;
        if !self.aligned {
            length = length.max(1.0);
        }
        let count = self.output[axis];
        let size = length / count as f32;
        let samples = if self.sampling_ratio > 0 { self.sampling_ratio } else { size.ceil().max(0.0) as usize };
        (0..count)
            .map(|bin| {
                let position = |sample: usize| start + bin as f32 * size + (sample as f32 + 0.5) * size / samples as f32;
                average((0..samples).filter_map(|sample| tap(position(sample), cells)), samples)
            })
            .collect()
    }
}

/// The two cells that a sample reads and the weight of the second; `None` if the sample is outside the map.
fn tap(position: f32, cells: usize) -> Option<(usize, usize, f32)> {
    if cells == 0 || !(-1.0..=cells as f32).contains(&position) {
        return None;
    }
    let position = position.max(0.0);
    let low = position as usize;
    Some(if low + 1 >= cells { (cells - 1, cells - 1, 0.0) } else { (low, low + 1, position - low as f32) })
}

/// Averages the samples of a bin, which come in ascending order.
fn average(taps: impl Iterator<Item = (usize, usize, f32)>, samples: usize) -> Bin {
    let mut bin = Bin::default();
    let share = 1.0 / samples.max(1) as f32;
    for (low, high, weight) in taps {
        if bin.weights.is_empty() {
            bin.first = low;
        }
        if bin.weights.len() <= high - bin.first {
            bin.weights.resize(high - bin.first + 1, 0.0);
        }
        bin.weights[low - bin.first] += (1.0 - weight) * share;
        bin.weights[high - bin.first] += weight * share;
    }
    bin
}
