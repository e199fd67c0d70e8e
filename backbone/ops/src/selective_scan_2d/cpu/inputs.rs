//! Sizes of the scan, and what its tasks read.

use super::transposed::WithTransposed;
use crate::cpu::simd::LANES;
use crate::route::Route;

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

    pub(super) fn length(&self) -> usize {
        self.height * self.width
    }

    /// Projection values of a pixel for one route: step size, B, C.
    pub(super) fn route_fields(&self) -> usize {
        self.rank + 2 * self.state
    }

    /// Projection values of a pixel.
    pub(super) fn fields(&self) -> usize {
        self.routes * self.route_fields()
    }

    pub(super) fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Tasks an image is split into in the backward pass: 16 tasks feed any desktop processor, and each costs a buffer.
    pub(super) fn groups(&self) -> usize {
        (16 / self.batch.max(1)).clamp(1, self.blocks())
    }

    /// Gradients of the parameters of one channel on one route that the kernel sums: the bias, `A` and `D`.
    pub(super) fn parameters(&self) -> usize {
        1 + self.state + 1
    }
}

/// What all tasks read.
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
