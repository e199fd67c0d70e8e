//! Maps with rows and columns exchanged, for routes along columns: so a kernel walks through contiguous pixels on every route.

use rayon::prelude::*;

use super::Route;
use crate::flex::Scratch;

/// What the kernels read, in raster order and, where a route goes along columns, with rows and columns exchanged.
pub(super) struct Turned<'a> {
    raster: &'a [f32],
    turned: Option<Scratch>,
}

impl<'a> Turned<'a> {
    /// `values` has `size` numbers a pixel.
    pub(super) fn new(values: &'a [f32], size: usize, map: [usize; 2], routes: &[Route]) -> Self {
        let turned = routes.iter().any(|route| route.side() == 1).then(|| turn(values, map, size));
        Self { raster: values, turned }
    }

    /// The values in the order in which a route, or its reverse, visits them.
    pub(super) fn of(&self, route: Route) -> &[f32] {
        match &self.turned {
            Some(turned) if route.side() == 1 => turned,
            _ => self.raster,
        }
    }

    /// A buffer of zeros for each order that is in use.
    pub(super) fn zeros(&self) -> (Vec<f32>, Scratch) {
        (vec![0.0; self.raster.len()], Scratch::zeros(self.turned.as_ref().map_or(0, |turned| turned.len())))
    }
}

impl Route {
    /// 0 for a route along rows, 1 for one along columns.
    pub(super) fn side(self) -> usize {
        usize::from(matches!(self, Self::Columns | Self::ColumnsReversed))
    }

    pub(super) fn reversed(self) -> bool {
        matches!(self, Self::RowsReversed | Self::ColumnsReversed)
    }
}

/// Columns a task of [`turn`] takes: a run of pixels that is read in one piece.
const TURNED_COLUMNS: usize = 8;

/// `[batch, height, width, size]` to `[batch, width, height, size]`.
fn turn(values: &[f32], [height, width]: [usize; 2], size: usize) -> Scratch {
    let mut turned = Scratch::unset(values.len());
    let image_size = (height * width * size).max(1);
    for (turned, image) in turned.chunks_exact_mut(image_size).zip(values.chunks_exact(image_size)) {
        turned.par_chunks_mut((TURNED_COLUMNS * height * size).max(1)).enumerate().for_each(|(task, turned)| {
            let columns = turned.len() / (height * size);
            for row in 0..height {
                let source = &image[(row * width + task * TURNED_COLUMNS) * size..][..columns * size];
                for (column, pixel) in source.chunks_exact(size).enumerate() {
                    turned[(column * height + row) * size..][..size].copy_from_slice(pixel);
                }
            }
        });
    }
    turned
}

/// The sum of the results along rows and along columns, the latter turned back.
pub(super) fn merge((mut raster, turned): (Vec<f32>, Scratch), size: usize, [height, width]: [usize; 2]) -> Vec<f32> {
    if !turned.is_empty() {
        raster.par_chunks_mut(width * size).enumerate().for_each(|(task, line)| {
            let (image, row) = (task / height, task % height);
            for (column, pixel) in line.chunks_exact_mut(size).enumerate() {
                let source = &turned[((image * width + column) * height + row) * size..][..size];
                pixel.iter_mut().zip(source).for_each(|(sum, value)| *sum += value);
            }
        });
    }
    raster
}
