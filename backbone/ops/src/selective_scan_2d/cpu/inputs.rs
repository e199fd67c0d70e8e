//! Sizes of the scan, and what its tasks read.

use super::transposed::WithTransposed;
use crate::cpu::simd::LANES;
use crate::route::Route;

/// Sizes of the scan.
#[derive(Clone, Copy)]
pub(super) struct Shape2d {
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) routes: usize,
    pub(super) rank: usize,
    pub(super) state: usize,
}

impl Shape2d {
    pub(super) fn new([batch, height, width, channels]: [usize; 4], [routes, _, rank]: [usize; 3], [_, state]: [usize; 2]) -> Self {
        Self { batch, height, width, channels, routes, rank, state }
    }

    /// Pixels of an image.
    pub(super) fn length(&self) -> usize {
        self.height * self.width
    }

    /// Projections of a pixel for one route: step size, `B` and `C`.
    pub(super) fn route_fields(&self) -> usize {
        self.rank + 2 * self.state
    }

    /// Projections of a pixel.
    pub(super) fn fields(&self) -> usize {
        self.routes * self.route_fields()
    }

    /// Blocks of [`LANES`] channels.
    pub(super) fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Groups of channel blocks, the tasks of an image in the backward pass. 16 tasks are enough for a desktop processor, and each costs a
    /// buffer.
    pub(super) fn groups(&self) -> usize {
        (16 / self.batch.max(1)).clamp(1, self.blocks())
    }

    /// Parameters of one channel and route whose gradients the kernel sums: the bias of the step size, `A` and `D`.
    pub(super) fn parameters(&self) -> usize {
        1 + self.state + 1
    }
}

/// The inputs that all tasks read.
pub(super) struct Inputs<'a> {
    pub(super) shape: Shape2d,
    pub(super) routes: &'a [Route],
    pub(super) projections: WithTransposed<'a>,
    pub(super) dt_weight: &'a [f32],
    pub(super) dt_bias: &'a [f32],
    pub(super) a_logs: &'a [f32],
    pub(super) d: &'a [f32],
}

impl<'a> Inputs<'a> {
    pub(super) fn new(shape: Shape2d, routes: &'a [Route], [projections, dt_weight, dt_bias, a_logs, d]: [&'a [f32]; 5]) -> Self {
        let projections = WithTransposed::new(projections, shape.fields(), [shape.height, shape.width], routes);
        Self { shape, routes, projections, dt_weight, dt_bias, a_logs, d }
    }
}
