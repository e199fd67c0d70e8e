//! The scan of SS2D on the CPU: a task processes one image and a block of [`LANES`] channels.
//!
//! The kernels read contiguous pixels, forwards or backwards. For routes along columns the maps are transposed first. That costs a few
//! percent, but without it every step down a column of a large image would touch another page of memory.
//!
//! Only one task writes a given channel of the output, so the routes are merged without synchronisation. The gradients of `B` and `C` are
//! sums over all channels: tasks add them into one buffer for each group of channel blocks, and the groups are added in order at the end.
//! The number of groups depends only on the shapes, so results do not depend on the number of threads. The tasks also store the
//! gradients of the step sizes; two matrix products for each route turn them into the gradients of the step size's projection.

mod inputs;
mod kernels;
mod transposed;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::{Scan2dGradOps, Scan2dGrads, Scan2dOps};
use crate::cpu::gemm::{Matrix, Sizes, gemm};
use crate::cpu::simd::{LANES, dispatch};
use crate::cpu::{Scratch, SharedMut, contiguous, dims, tensor, values};
use crate::epilogue::Epilogue;
use crate::route::Route;
use inputs::{Inputs, Shape2d};
use kernels::{Backward, Forward};
use transposed::{WithTransposed, merge};

impl Scan2dOps for Flex {
    fn scan_2d(
        x: FloatTensor<Self>,
        projections: FloatTensor<Self>,
        dt_weight: FloatTensor<Self>,
        dt_bias: FloatTensor<Self>,
        a_logs: FloatTensor<Self>,
        d: FloatTensor<Self>,
        routes: Vec<Route>,
    ) -> FloatTensor<Self> {
        let [x, projections, dt_weight, dt_bias, a_logs, d] = [x, projections, dt_weight, dt_bias, a_logs, d].map(contiguous);
        let shape = Shape2d::new(dims(&x), dims(&dt_weight), dims(&a_logs));
        let inputs = Inputs::new(shape, &routes, [&projections, &dt_weight, &dt_bias, &a_logs, &d].map(values));
        let x_values = values(&x);
        let mut output = vec![0.0; x_values.len()];
        let shared = SharedMut::new(&mut output);
        (0..shape.batch * shape.blocks()).into_par_iter().for_each(|task| {
            let (image, block) = (task / shape.blocks(), task % shape.blocks());
            dispatch(Forward { inputs: &inputs, image, block, x: x_values, output: shared });
        });
        tensor(output, x.layout().shape().clone())
    }
}

impl Scan2dGradOps for Flex {
    fn scan_2d_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        projections: FloatTensor<Self>,
        dt_weight: FloatTensor<Self>,
        dt_bias: FloatTensor<Self>,
        a_logs: FloatTensor<Self>,
        d: FloatTensor<Self>,
        routes: Vec<Route>,
    ) -> Scan2dGrads<Self> {
        let [grad, x, projections, dt_weight, dt_bias, a_logs, d] = [grad, x, projections, dt_weight, dt_bias, a_logs, d].map(contiguous);
        let shape = Shape2d::new(dims(&x), dims(&dt_weight), dims(&a_logs));
        let inputs = Inputs::new(shape, &routes, [&projections, &dt_weight, &dt_bias, &a_logs, &d].map(values));
        let map = [shape.height, shape.width];
        let x_maps = WithTransposed::new(values(&x), shape.channels, map, &routes);
        let grad_maps = WithTransposed::new(values(&grad), shape.channels, map, &routes);
        let Shape2d { batch, channels, rank, state, .. } = shape;
        let (pixels, blocks, groups, parameters) = (batch * shape.length(), shape.blocks(), shape.groups(), shape.parameters());

        let mut dx = x_maps.zeros();
        let dx_shared = [SharedMut::new(&mut dx.0), SharedMut::new(&mut dx.1)];
        let mut grads = ParameterGrads::new(&shape);
        // Gradients of the raw step sizes on one route, `[pixel, channel]`; every route writes all of it.
        let mut draw = Scratch::unset(pixels * channels);
        let mut parts = Vec::with_capacity(routes.len());
        for (index, route) in routes.iter().enumerate() {
            // Gradients of B and C for each image and group of channel blocks.
            let mut dbc = vec![0.0; groups * pixels * 2 * state];
            // Gradients of the parameters for each image and channel.
            let mut dparameters = vec![0.0; batch * blocks * LANES * parameters];
            let draw_shared = SharedMut::new(&mut draw);
            let dparameters_shared = SharedMut::new(&mut dparameters);
            dbc.par_chunks_mut(shape.length() * 2 * state).enumerate().for_each(|(task, dbc)| {
                let (image, group) = (task / groups, task % groups);
                for block in (group..blocks).step_by(groups) {
                    let size = LANES * parameters;
                    // SAFETY: only this task processes this image and block.
                    let dparameters = unsafe { dparameters_shared.block((image * blocks + block) * size, size) };
                    let dx = dx_shared[usize::from(route.is_along_columns())];
                    dispatch(Backward {
                        inputs: &inputs,
                        grad: grad_maps.of(*route),
                        image,
                        block,
                        route: index,
                        x: x_maps.of(*route),
                        dx,
                        draw: draw_shared,
                        dbc,
                        dparameters,
                    });
                }
            });
            for image in dparameters.chunks_exact(blocks * LANES * parameters) {
                grads.add(&shape, index, image);
            }
            let weight = Matrix::rows(&inputs.dt_weight[index * channels * rank..][..channels * rank], rank);
            let ddt =
                gemm(Matrix::rows(&draw, channels), weight, Epilogue::default(), Sizes { rows: pixels, columns: rank, inner: channels });
            let fields = &inputs.projections.of(*route)[index * shape.route_fields()..];
            let dt = Matrix { values: fields, row: shape.fields(), column: 1 };
            let dweight =
                gemm(Matrix::columns(&draw, channels), dt, Epilogue::default(), Sizes { rows: channels, columns: rank, inner: pixels });
            grads.dt_weight.extend_from_slice(&dweight);
            parts.push((ddt, sum_groups(dbc, groups, shape.length() * 2 * state)));
        }

        let dprojections = gather_projections(&parts, &routes, &shape);
        let ParameterGrads { dt_weight: dw, dt_bias: db, a: da, d: dd } = grads;
        // A = -exp(a_logs), so dA / da_logs = A.
        let da_logs = da.iter().zip(inputs.a_logs).map(|(da, log)| -log.exp() * da).collect();
        Scan2dGrads {
            x: tensor(merge(dx, channels, map), x.layout().shape().clone()),
            projections: tensor(dprojections, projections.layout().shape().clone()),
            dt_weight: tensor(dw, dt_weight.layout().shape().clone()),
            dt_bias: tensor(db, dt_bias.layout().shape().clone()),
            a_logs: tensor(da_logs, a_logs.layout().shape().clone()),
            d: tensor(dd, d.layout().shape().clone()),
        }
    }
}

/// The gradient of the projections in raster order, from the gradients of the step sizes and of `B` and `C` of each route.
fn gather_projections(parts: &[(Vec<f32>, Vec<f32>)], routes: &[Route], shape: &Shape2d) -> Vec<f32> {
    let Shape2d { height, width, rank, state, .. } = *shape;
    let mut dprojections = vec![0.0; shape.batch * shape.length() * shape.fields()];
    dprojections.par_chunks_mut(width * shape.fields()).enumerate().for_each(|(task, line)| {
        let (image, row) = (task / height, task % height);
        for (column, pixel) in line.chunks_exact_mut(shape.fields()).enumerate() {
            for ((fields, route), (ddt, dbc)) in pixel.chunks_exact_mut(shape.route_fields()).zip(routes).zip(parts) {
                let within = if route.is_along_columns() { column * height + row } else { row * width + column };
                let position = image * shape.length() + within;
                let (dt, bc) = fields.split_at_mut(rank);
                dt.copy_from_slice(&ddt[position * rank..][..rank]);
                bc.copy_from_slice(&dbc[position * 2 * state..][..2 * state]);
            }
        }
    });
    dprojections
}

/// Sums the groups of each image in order.
fn sum_groups(mut partial: Vec<f32>, groups: usize, size: usize) -> Vec<f32> {
    if groups == 1 || size == 0 {
        return partial;
    }
    partial.par_chunks_mut(groups * size).for_each(|image| {
        let (first, rest) = image.split_at_mut(size);
        for group in rest.chunks_exact(size) {
            first.iter_mut().zip(group).for_each(|(sum, part)| *sum += part);
        }
    });
    partial.chunks_exact(groups * size).flat_map(|image| &image[..size]).copied().collect()
}

/// Gradients of the parameters, summed over images.
struct ParameterGrads {
    /// Appended route by route.
    dt_weight: Vec<f32>,
    dt_bias: Vec<f32>,
    a: Vec<f32>,
    d: Vec<f32>,
}

impl ParameterGrads {
    fn new(shape: &Shape2d) -> Self {
        let rows = shape.routes * shape.channels;
        Self {
            dt_weight: Vec::with_capacity(rows * shape.rank),
            dt_bias: vec![0.0; rows],
            a: vec![0.0; rows * shape.state],
            d: vec![0.0; rows],
        }
    }

    /// Adds the gradients of one image and route, `[block, parameters, lane]` as the tasks wrote them.
    fn add(&mut self, shape: &Shape2d, route: usize, image: &[f32]) {
        let Shape2d { channels, state, .. } = *shape;
        for channel in 0..channels {
            let (block, lane) = (channel / LANES, channel % LANES);
            let row = route * channels + channel;
            let value = |index: usize| image[(block * shape.parameters() + index) * LANES + lane];
            self.dt_bias[row] += value(0);
            for n in 0..state {
                self.a[row * state + n] += value(1 + n);
            }
            self.d[row] += value(1 + state);
        }
    }
}
