//! Transposed maps for routes along columns, so that a kernel reads contiguous pixels on every route.

use rayon::prelude::*;

use crate::cpu::Scratch;
use crate::route::Route;

/// A map in raster order and, if a route goes along columns, its transpose.
pub(super) struct WithTransposed<'a> {
    raster: &'a [f32],
    transposed: Option<Scratch>,
}

impl<'a> WithTransposed<'a> {
    /// `values: [batch, height, width, size]`; `map` is `[height, width]`.
    pub(super) fn new(values: &'a [f32], size: usize, map: [usize; 2], routes: &[Route]) -> Self {
        let along_columns = routes.iter().any(|route| route.is_along_columns());
        Self { raster: values, transposed: along_columns.then(|| transpose(values, map, size)) }
    }

    /// The map in the order in which the route, or its reverse, visits the pixels.
    pub(super) fn of(&self, route: Route) -> &[f32] {
        match &self.transposed {
            Some(transposed) if route.is_along_columns() => transposed,
            _ => self.raster,
        }
    }

    /// Zeros of the size of the map, and of its transpose if there is one.
    pub(super) fn zeros(&self) -> (Vec<f32>, Scratch) {
        (vec![0.0; self.raster.len()], Scratch::zeros(self.transposed.as_ref().map_or(0, |transposed| transposed.len())))
    }
}

/// Columns of a task of [`transpose`]; it reads that many consecutive pixels of each row.
const COLUMNS: usize = 8;

/// `[batch, height, width, size]` to `[batch, width, height, size]`.
fn transpose(values: &[f32], [height, width]: [usize; 2], size: usize) -> Scratch {
    let mut transposed = Scratch::unset(values.len());
    let image_size = (height * width * size).max(1);
    for (transposed, image) in transposed.chunks_exact_mut(image_size).zip(values.chunks_exact(image_size)) {
        transposed.par_chunks_mut((COLUMNS * height * size).max(1)).enumerate().for_each(|(task, transposed)| {
            let columns = transposed.len() / (height * size);
            for row in 0..height {
                let source = &image[(row * width + task * COLUMNS) * size..][..columns * size];
                for (column, pixel) in source.chunks_exact(size).enumerate() {
                    transposed[(column * height + row) * size..][..size].copy_from_slice(pixel);
                }
            }
        });
    }
    transposed
}

/// Adds the transpose of the results along columns to the results along rows.
pub(super) fn merge((mut raster, transposed): (Vec<f32>, Scratch), size: usize, [height, width]: [usize; 2]) -> Vec<f32> {
    if !transposed.is_empty() {
        raster.par_chunks_mut(width * size).enumerate().for_each(|(task, line)| {
            let (image, row) = (task / height, task % height);
            for (column, pixel) in line.chunks_exact_mut(size).enumerate() {
                let source = &transposed[((image * width + column) * height + row) * size..][..size];
                pixel.iter_mut().zip(source).for_each(|(sum, value)| *sum += value);
            }
        });
    }
    raster
}
