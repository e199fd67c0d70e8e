//! Scan routes: the order in which a scan visits the pixels of an image.

/// The order in which a scan visits the pixels of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Raster order: row by row from the top left.
    Rows,
    /// Column by column from the top left.
    Columns,
    /// Raster order backwards.
    RowsReversed,
    /// Column by column, backwards.
    ColumnsReversed,
}

impl Route {
    /// The four routes of the VMamba paper's cross-scan, in the order of the official code.
    pub const CROSS: [Self; 4] = [Self::Rows, Self::Columns, Self::RowsReversed, Self::ColumnsReversed];

    /// The raster index of the pixel that the route visits at `step`, for `step < height * width`.
    #[inline(always)]
    pub fn pixel(self, step: usize, height: usize, width: usize) -> usize {
        let last = height * width - 1;
        match self {
            Self::Rows => step,
            Self::RowsReversed => last - step,
            Self::Columns => step % height * width + step / height,
            Self::ColumnsReversed => {
                let step = last - step;
                step % height * width + step / height
            }
        }
    }

    /// Whether the route goes along columns.
    pub(crate) fn is_along_columns(self) -> bool {
        matches!(self, Self::Columns | Self::ColumnsReversed)
    }

    /// Whether the route starts at the bottom right.
    pub(crate) fn is_reversed(self) -> bool {
        matches!(self, Self::RowsReversed | Self::ColumnsReversed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_visit_every_pixel_once() {
        for (height, width) in [(1, 1), (3, 5), (4, 1)] {
            for route in Route::CROSS {
                let mut seen: Vec<usize> = (0..height * width).map(|t| route.pixel(t, height, width)).collect();
                seen.sort_unstable();
                assert_eq!(seen, (0..height * width).collect::<Vec<_>>(), "{route:?} on {height} x {width}");
            }
        }
        assert_eq!((0..4).map(|t| Route::Columns.pixel(t, 2, 2)).collect::<Vec<_>>(), [0, 2, 1, 3]);
    }
}
