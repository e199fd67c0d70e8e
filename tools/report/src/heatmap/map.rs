//! A map of values over a plane.

use crate::error::ReportError;

/// Values over a plane, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    values: Vec<f32>,
    size: [usize; 2],
}

impl HeatMap {
    /// A map of `size` `[height, width]` from its values, row by row.
    ///
    /// # Errors
    /// When there is no value, or their number is not `height * width`.
    pub fn new(values: Vec<f32>, size: [usize; 2]) -> Result<Self, ReportError> {
        let [height, width] = size;
        if values.is_empty() || height * width != values.len() {
            return Err(ReportError::Shape { values: values.len(), shape: size.to_vec() });
        }
        Ok(Self { values, size })
    }

    /// `[height, width]`.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Resamples the map to `[height, width]` cells. Each new cell is the mean of the cells it overlaps, so a small map grows into squares and
    /// every cell of a large map counts.
    pub fn resampled(&self, size: [usize; 2]) -> Self {
        self.resampled_without(size, &|_| false)
    }

    /// As [`HeatMap::resampled`], without the cells for which `left_out` returns true. A new cell that overlaps only such cells is 0.
    pub(super) fn resampled_without(&self, [height, width]: [usize; 2], left_out: &dyn Fn(usize) -> bool) -> Self {
        let cells = |place: usize, from: usize, to: usize| {
            let begin = place * from / to;
            begin..((place + 1) * from).div_ceil(to).max(begin + 1)
        };
        let mut values = Vec::with_capacity(height * width);
        for row in 0..height {
            let rows = cells(row, self.size[0], height);
            for column in 0..width {
                let columns = cells(column, self.size[1], width);
                let touched = rows.clone().flat_map(|y| columns.clone().map(move |x| y * self.size[1] + x));
                let (mut sum, mut count) = (0.0, 0_usize);
                for cell in touched.filter(|cell| !left_out(*cell)) {
                    sum += f64::from(self.values[cell]);
                    count += 1;
                }
                values.push((sum / count.max(1) as f64) as f32);
            }
        }
        Self { values, size: [height, width] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(height: usize, width: usize) -> HeatMap {
        HeatMap::new((0..height * width).map(|i| i as f32).collect(), [height, width]).unwrap()
    }

    #[test]
    fn a_map_keeps_its_mean_when_it_shrinks_and_its_squares_when_it_grows() {
        let small = ramp(4, 6).resampled([2, 3]);
        assert_eq!(small.values(), [3.5, 5.5, 7.5, 15.5, 17.5, 19.5]);
        let large = HeatMap::new(vec![1.0, 2.0, 3.0, 4.0], [2, 2]).unwrap().resampled([4, 4]);
        assert_eq!(large.values(), [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 3.0, 3.0, 4.0, 4.0]);
        assert_eq!(ramp(5, 7).resampled([5, 7]), ramp(5, 7));
    }

    #[test]
    fn a_map_needs_as_many_values_as_cells() {
        assert!(HeatMap::new(vec![0.0; 5], [2, 3]).unwrap_err().to_string().contains("[2, 3]"));
        assert!(HeatMap::new(Vec::new(), [0, 3]).is_err());
    }
}
