use burn::prelude::*;
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

/// How a table of learned position embeddings is resized to another grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TableResize {
    /// PyTorch's `interpolate(mode="bicubic", align_corners=False)`, as in the original DeiT, mmsegmentation and mmpretrain: Keys' cubic with
    /// a = -0.75 over four neighbours, with the border repeated.
    Bicubic,
    /// PyTorch's `bicubic` with `antialias=True`, as in timm: a = -0.5, without neighbours beyond the border, and with a wider window when the
    /// grid shrinks. It also differs from `bicubic` when the grid grows.
    BicubicAntialiased,
}

impl TableResize {
    /// Resizes `table: [rows, columns, channels]` to `[size[0], size[1], channels]`, float32.
    ///
    /// Multiplies by one interpolation matrix per axis, which works on every device and has gradients.
    pub fn apply(self, table: Tensor<3>, size: [usize; 2]) -> Tensor<3> {
        let [rows, columns, channels] = table.dims();
        let device = table.device();
        let [height, width] = size;
        let matrix = |from: usize, to: usize| Tensor::<2>::from_data(TensorData::new(self.weights(from, to), [to, from]), &device);
        let table = matrix(rows, height).matmul(table.reshape([rows, columns * channels])).reshape([height, columns, channels]);
        matrix(columns, width).unsqueeze::<3>().expand([height, width, columns]).matmul(table)
    }

    /// The matrix `[to, from]` in row-major order.
    fn weights(self, from: usize, to: usize) -> Vec<f32> {
        let mut matrix = vec![0.0_f32; to * from];
        let scale = from as f64 / to as f64;
        for (index, row) in matrix.chunks_exact_mut(from).enumerate() {
            let centre = scale * (index as f64 + 0.5);
            match self {
                Self::Bicubic => {
                    let position = centre - 0.5;
                    let below = position.floor();
                    for neighbour in -1..=2_i64 {
                        let source = below as i64 + neighbour;
                        let place = usize::try_from(source).unwrap_or(0).min(from - 1);
                        row[place] += cubic(position - source as f64, -0.75) as f32;
                    }
                }
                Self::BicubicAntialiased => {
                    let stretch = scale.max(1.0);
                    let reach = 2.0 * stretch;
                    let first = (centre - reach + 0.5).max(0.0) as usize;
                    let end = ((centre + reach + 0.5) as usize).min(from);
                    let weight = |source: usize| cubic((source as f64 + 0.5 - centre) / stretch, -0.5);
                    let total: f64 = (first..end).map(weight).sum();
                    for source in first..end {
                        row[source] = (weight(source) / total) as f32;
                    }
                }
            }
        }
        matrix
    }
}

/// Keys' cubic convolution kernel at `distance`.
fn cubic(distance: f64, a: f64) -> f64 {
    let x = distance.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_sums_to_one_and_the_same_size_changes_nothing() {
        for method in [TableResize::Bicubic, TableResize::BicubicAntialiased] {
            for (from, to) in [(14, 18), (14, 5), (1, 3), (3, 1), (14, 14)] {
                let weights = method.weights(from, to);
                for (index, row) in weights.chunks_exact(from).enumerate() {
                    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{method:?} {from} to {to}");
                    if from == to {
                        assert!(row.iter().enumerate().all(|(place, weight)| *weight == f32::from(u8::from(place == index))));
                    }
                }
            }
        }
    }
}
