//! The four-route scan on the CPU: one task takes one image and [`LANES`] channels through all routes.
//!
//! A task owns its channels in the output, so that the routes are merged without synchronisation. The gradients of the projections are
//! sums over all channels: tasks add them into one buffer per group of channel blocks, and the groups are added in order at the end.
//! The number of groups depends on the shapes alone, so that results do not depend on the number of threads.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::recurrence::{CHUNK, Chunk, ChunkGrad, ZERO};
use super::{Route, Scan2dGradOps, Scan2dGrads, Scan2dOps};
use crate::flex::{SharedMut, contiguous, dims, tensor, values};
use crate::simd::{Kernel, LANES, Lanes, dispatch, fma, lane_sum};

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
        let inputs = Inputs {
            shape,
            routes: &routes,
            x: values(&x),
            projections: values(&projections),
            dt_weight: values(&dt_weight),
            dt_bias: values(&dt_bias),
            a_logs: values(&a_logs),
            d: values(&d),
        };
        let mut y = vec![0.0; inputs.x.len()];
        let output = SharedMut::new(&mut y);
        (0..shape.batch * shape.blocks()).into_par_iter().for_each(|task| {
            let (image, block) = (task / shape.blocks(), task % shape.blocks());
            dispatch(Forward { inputs: &inputs, image, block, output });
        });
        tensor(y, x.layout().shape().clone())
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
        let inputs = Inputs {
            shape,
            routes: &routes,
            x: values(&x),
            projections: values(&projections),
            dt_weight: values(&dt_weight),
            dt_bias: values(&dt_bias),
            a_logs: values(&a_logs),
            d: values(&d),
        };
        let grad = values(&grad);
        let groups = shape.groups();
        let image_projections = shape.length() * shape.fields();
        let parameters = shape.parameters();

        let mut dx = vec![0.0; inputs.x.len()];
        // Per image and group of channel blocks.
        let mut dprojections = vec![0.0; shape.batch * groups * image_projections];
        // Per image and channel: the gradients of all parameters of that channel.
        let mut dparameters = vec![0.0; shape.batch * shape.blocks() * LANES * parameters];
        let dx_shared = SharedMut::new(&mut dx);
        let dparameters_shared = SharedMut::new(&mut dparameters);
        dprojections.par_chunks_mut(image_projections).enumerate().for_each(|(task, dprojections)| {
            let (image, group) = (task / groups, task % groups);
            for block in (group..shape.blocks()).step_by(groups) {
                let size = LANES * parameters;
                // SAFETY: image and block belong to this task alone.
                let dparameters = unsafe { dparameters_shared.block((image * shape.blocks() + block) * size, size) };
                dispatch(Backward { inputs: &inputs, grad, image, block, dx: dx_shared, dprojections, dparameters });
            }
        });

        let dprojections = sum_groups(dprojections, groups, image_projections);
        let mut grads = ParameterGrads::new(&shape);
        for image in dparameters.chunks_exact(shape.blocks() * LANES * parameters) {
            grads.add(&shape, image);
        }
        let ParameterGrads { dt_weight: dw, dt_bias: db, a: da, d: dd } = grads;
        // dA is known; A = -exp(a_logs), so dA / da_logs = A.
        let da_logs = da.iter().zip(inputs.a_logs).map(|(da, log)| -log.exp() * da).collect();
        Scan2dGrads {
            x: tensor(dx, x.layout().shape().clone()),
            projections: tensor(dprojections, projections.layout().shape().clone()),
            dt_weight: tensor(dw, dt_weight.layout().shape().clone()),
            dt_bias: tensor(db, dt_bias.layout().shape().clone()),
            a_logs: tensor(da_logs, a_logs.layout().shape().clone()),
            d: tensor(dd, d.layout().shape().clone()),
        }
    }
}

/// Adds the groups of each image in order.
fn sum_groups(mut partial: Vec<f32>, groups: usize, size: usize) -> Vec<f32> {
    if groups == 1 {
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

#[derive(Clone, Copy)]
struct Shape2d {
    batch: usize,
    height: usize,
    width: usize,
    channels: usize,
    routes: usize,
    rank: usize,
    state: usize,
}

impl Shape2d {
    fn new([batch, height, width, channels]: [usize; 4], [routes, _, rank]: [usize; 3], [_, state]: [usize; 2]) -> Self {
        Self { batch, height, width, channels, routes, rank, state }
    }

    fn length(&self) -> usize {
        self.height * self.width
    }

    /// Projection values of a pixel for one route: step size, B, C.
    fn route_fields(&self) -> usize {
        self.rank + 2 * self.state
    }

    /// Projection values of a pixel.
    fn fields(&self) -> usize {
        self.routes * self.route_fields()
    }

    fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Tasks an image is split into in the backward pass: 16 tasks feed any desktop processor, and each costs a buffer.
    fn groups(&self) -> usize {
        (16 / self.batch.max(1)).clamp(1, self.blocks())
    }

    /// Gradients of the parameters of one channel: for each route the rows of `dt_weight`, the bias, `A` and `D`.
    fn parameters(&self) -> usize {
        self.routes * (self.rank + 1 + self.state + 1)
    }
}

struct Inputs<'a> {
    shape: Shape2d,
    routes: &'a [Route],
    x: &'a [f32],
    projections: &'a [f32],
    dt_weight: &'a [f32],
    dt_bias: &'a [f32],
    a_logs: &'a [f32],
    d: &'a [f32],
}

/// The parameters of a channel block on one route. Lanes beyond the last channel hold zeros and come out as zeros.
struct BlockParameters {
    /// `[rank]`
    dt_weight: Vec<Lanes>,
    dt_bias: Lanes,
    /// `A`, `[state]`
    a: Vec<Lanes>,
    d: Lanes,
}

impl Inputs<'_> {
    /// First channel of a block and the number of its channels.
    fn channels(&self, block: usize) -> (usize, usize) {
        let first = block * LANES;
        (first, LANES.min(self.shape.channels - first))
    }

    fn parameters(&self, route: usize, block: usize) -> BlockParameters {
        let Shape2d { channels, rank, state, .. } = self.shape;
        let (first, count) = self.channels(block);
        let row = route * channels + first;
        let gather = |f: &dyn Fn(usize) -> f32| -> Lanes { std::array::from_fn(|lane| if lane < count { f(row + lane) } else { 0.0 }) };
        BlockParameters {
            dt_weight: (0..rank).map(|r| gather(&|row| self.dt_weight[row * rank + r])).collect(),
            dt_bias: gather(&|row| self.dt_bias[row]),
            a: (0..state).map(|n| gather(&|row| -self.a_logs[row * state + n].exp())).collect(),
            d: gather(&|row| self.d[row]),
        }
    }

    /// Fills the chunk that begins at `start` of a route: the pixels it visits, and from them input, raw step size, B and C.
    #[inline(always)]
    fn load<const FMA: bool>(
        &self,
        chunk: &mut Chunk,
        pixels: &mut [usize; CHUNK],
        (image, block, route): (usize, usize, usize),
        parameters: &BlockParameters,
        start: usize,
    ) {
        let Shape2d { height, width, channels, rank, state, .. } = self.shape;
        let length = self.shape.length();
        let (first, count) = self.channels(block);
        chunk.len = CHUNK.min(length - start);
        for t in 0..chunk.len {
            let pixel = self.routes[route].pixel(start + t, height, width);
            pixels[t] = pixel;
            let position = image * length + pixel;
            read_lanes(&mut chunk.x[t], &self.x[position * channels + first..][..count]);
            let fields = &self.projections[position * self.shape.fields() + route * self.shape.route_fields()..][..rank + 2 * state];
            let mut raw = parameters.dt_bias;
            for (weight, dt) in parameters.dt_weight.iter().zip(fields) {
                for lane in 0..LANES {
                    raw[lane] = fma::<FMA>(weight[lane], *dt, raw[lane]);
                }
            }
            chunk.raw[t] = raw;
            chunk.b[t * state..][..state].copy_from_slice(&fields[rank..][..state]);
            chunk.c[t * state..][..state].copy_from_slice(&fields[rank + state..][..state]);
        }
        chunk.activate::<FMA>(true);
    }
}

/// Reads up to [`LANES`] values; the rest become 0.
#[inline(always)]
fn read_lanes(lanes: &mut Lanes, source: &[f32]) {
    if let Ok(all) = source.try_into() {
        *lanes = all;
    } else {
        *lanes = ZERO;
        lanes[..source.len()].copy_from_slice(source);
    }
}

struct Forward<'a> {
    inputs: &'a Inputs<'a>,
    image: usize,
    block: usize,
    output: SharedMut,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { inputs, image, block, output } = self;
        let Shape2d { channels, routes, state, .. } = inputs.shape;
        let length = inputs.shape.length();
        let (first, count) = inputs.channels(block);
        let mut chunk = Chunk::new(state);
        let mut pixels = [0; CHUNK];
        let mut h = vec![ZERO; state];
        for route in 0..routes {
            let parameters = inputs.parameters(route, block);
            h.fill(ZERO);
            for start in (0..length).step_by(CHUNK) {
                inputs.load::<FMA>(&mut chunk, &mut pixels, (image, block, route), &parameters, start);
                chunk.forward::<FMA, true>(&parameters.a, &mut h);
                for t in 0..chunk.len {
                    let (x, y) = (&chunk.x[t], &chunk.y[t]);
                    // SAFETY: this task alone owns these channels of this image.
                    let target = unsafe { output.block((image * length + pixels[t]) * channels + first, count) };
                    if let Ok(target) = <&mut Lanes>::try_from(&mut *target) {
                        for lane in 0..LANES {
                            target[lane] += fma::<FMA>(parameters.d[lane], x[lane], y[lane]);
                        }
                    } else {
                        for (lane, target) in target.iter_mut().enumerate() {
                            *target += fma::<FMA>(parameters.d[lane], x[lane], y[lane]);
                        }
                    }
                }
            }
        }
    }
}

struct Backward<'a> {
    inputs: &'a Inputs<'a>,
    grad: &'a [f32],
    image: usize,
    block: usize,
    dx: SharedMut,
    /// `[length, fields]` of this image and group
    dprojections: &'a mut [f32],
    /// `[parameters, LANES]` of this image and block
    dparameters: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { inputs, grad, image, block, dx, dprojections, dparameters } = self;
        let Shape2d { channels, routes, rank, state, .. } = inputs.shape;
        let length = inputs.shape.length();
        let (first, count) = inputs.channels(block);
        let mut chunk = Chunk::new(state);
        let mut backward = ChunkGrad::new(state);
        let mut pixels = [0; CHUNK];
        let chunks = length.div_ceil(CHUNK);
        // The state before each chunk.
        let mut states = vec![ZERO; chunks * state];
        for route in 0..routes {
            let parameters = inputs.parameters(route, block);
            let task = (image, block, route);
            let mut h = vec![ZERO; state];
            for index in 0..chunks {
                states[index * state..][..state].copy_from_slice(&h);
                if index + 1 < chunks {
                    inputs.load::<FMA>(&mut chunk, &mut pixels, task, &parameters, index * CHUNK);
                    chunk.forward::<FMA, false>(&parameters.a, &mut h);
                }
            }

            let mut carry = vec![ZERO; state];
            let mut da = vec![ZERO; state];
            let mut dweight = vec![ZERO; rank];
            let (mut dbias, mut dd) = (ZERO, ZERO);
            for index in (0..chunks).rev() {
                inputs.load::<FMA>(&mut chunk, &mut pixels, task, &parameters, index * CHUNK);
                for t in 0..chunk.len {
                    read_lanes(&mut backward.grad[t], &grad[(image * length + pixels[t]) * channels + first..][..count]);
                }
                backward.backward::<FMA>(&chunk, true, &parameters.a, &states[index * state..][..state], &mut carry, &mut da);
                for t in 0..chunk.len {
                    let position = image * length + pixels[t];
                    let (g, x, draw, dx_t) = (&backward.grad[t], &chunk.x[t], &backward.draw[t], &backward.dx[t]);
                    for lane in 0..LANES {
                        dd[lane] = fma::<FMA>(g[lane], x[lane], dd[lane]);
                        dbias[lane] += draw[lane];
                    }
                    // SAFETY: this task alone owns these channels of this image.
                    let target = unsafe { dx.block(position * channels + first, count) };
                    for (lane, target) in target.iter_mut().enumerate() {
                        *target += fma::<FMA>(parameters.d[lane], g[lane], dx_t[lane]);
                    }
                    let offset = route * inputs.shape.route_fields();
                    let fields = &inputs.projections[position * inputs.shape.fields() + offset..][..rank];
                    let dfields = &mut dprojections[pixels[t] * inputs.shape.fields() + offset..][..rank + 2 * state];
                    for r in 0..rank {
                        let weight = &parameters.dt_weight[r];
                        let mut product = ZERO;
                        for lane in 0..LANES {
                            product[lane] = draw[lane] * weight[lane];
                            dweight[r][lane] = fma::<FMA>(draw[lane], fields[r], dweight[r][lane]);
                        }
                        dfields[r] += lane_sum(&product);
                    }
                    for n in 0..state {
                        dfields[rank + n] += backward.db[t * state + n];
                        dfields[rank + state + n] += backward.dc[t * state + n];
                    }
                }
            }
            let lanes = dweight.iter().chain([&dbias]).chain(&da).chain([&dd]);
            let size = inputs.shape.parameters() / routes;
            for (target, source) in dparameters[route * size * LANES..][..size * LANES].chunks_exact_mut(LANES).zip(lanes) {
                target.copy_from_slice(source);
            }
        }
    }
}

/// Gradients of the parameters, summed over the images.
struct ParameterGrads {
    dt_weight: Vec<f32>,
    dt_bias: Vec<f32>,
    a: Vec<f32>,
    d: Vec<f32>,
}

impl ParameterGrads {
    fn new(shape: &Shape2d) -> Self {
        let rows = shape.routes * shape.channels;
        Self { dt_weight: vec![0.0; rows * shape.rank], dt_bias: vec![0.0; rows], a: vec![0.0; rows * shape.state], d: vec![0.0; rows] }
    }

    /// Adds one image: `[block, parameters, lane]` as the tasks wrote it.
    fn add(&mut self, shape: &Shape2d, image: &[f32]) {
        let Shape2d { channels, routes, rank, state, .. } = *shape;
        let parameters = shape.parameters();
        let size = parameters / routes;
        for channel in 0..channels {
            let (block, lane) = (channel / LANES, channel % LANES);
            for route in 0..routes {
                let row = route * channels + channel;
                let value = |index: usize| image[(block * parameters + route * size + index) * LANES + lane];
                for r in 0..rank {
                    self.dt_weight[row * rank + r] += value(r);
                }
                self.dt_bias[row] += value(rank);
                for n in 0..state {
                    self.a[row * state + n] += value(rank + 1 + n);
                }
                self.d[row] += value(rank + 1 + state);
            }
        }
    }
}
