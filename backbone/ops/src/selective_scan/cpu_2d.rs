//! The four-route scan on the CPU: one task takes one image and [`LANES`] channels.
//!
//! The kernels walk forwards or backwards through contiguous pixels. For routes along columns the operation turns the image first and
//! the result back: copies of whole pixels, which cost a few percent, where steps down a column of a large image would touch another
//! page of memory each.
//!
//! A task owns its channels in the output, so that the routes are merged without synchronisation. The gradients of B and C are sums
//! over all channels: tasks add them into one buffer per group of channel blocks, and the groups are added in order at the end. The
//! number of groups depends on the shapes alone, so that results do not depend on the number of threads. The gradients of the
//! step-size projection are two matrix products a route, of the gradients of the step sizes that the tasks leave behind.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::recurrence::{CHUNK, Chunk, ChunkGrad, ZERO};
use super::{Route, Scan2dGradOps, Scan2dGrads, Scan2dOps};
use crate::flex::{Scratch, SharedMut, contiguous, dims, tensor, values};
use crate::matmul::{Epilogue, Factor, Sizes, product};
use crate::simd::{Kernel, LANES, Lanes, dispatch, fma, prefetch};

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
            x: Turned::new(values(&x), shape.channels, &shape, &routes),
            projections: Turned::new(values(&projections), shape.fields(), &shape, &routes),
            routes: &routes,
            dt_weight: values(&dt_weight),
            dt_bias: values(&dt_bias),
            a_logs: values(&a_logs),
            d: values(&d),
        };
        let mut outputs = inputs.x.zeros();
        let shared = [SharedMut::new(&mut outputs.0), SharedMut::new(&mut outputs.1)];
        (0..shape.batch * shape.blocks()).into_par_iter().for_each(|task| {
            let (image, block) = (task / shape.blocks(), task % shape.blocks());
            dispatch(Forward { inputs: &inputs, image, block, outputs: shared });
        });
        tensor(merge(outputs, shape.channels, &shape), x.layout().shape().clone())
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
            x: Turned::new(values(&x), shape.channels, &shape, &routes),
            projections: Turned::new(values(&projections), shape.fields(), &shape, &routes),
            routes: &routes,
            dt_weight: values(&dt_weight),
            dt_bias: values(&dt_bias),
            a_logs: values(&a_logs),
            d: values(&d),
        };
        let grad = Turned::new(values(&grad), shape.channels, &shape, &routes);
        let Shape2d { batch, channels, rank, state, .. } = shape;
        let (pixels, blocks, groups, parameters) = (batch * shape.length(), shape.blocks(), shape.groups(), shape.parameters());

        let mut dx = inputs.x.zeros();
        let dx_shared = [SharedMut::new(&mut dx.0), SharedMut::new(&mut dx.1)];
        let mut grads = ParameterGrads::new(&shape);
        // Gradients of the raw step sizes on one route, `[pixel, channel]`; every route writes all of it.
        let mut draw = Scratch::zeros(pixels * channels);
        let mut parts = Vec::with_capacity(routes.len());
        for (route, way) in routes.iter().enumerate() {
            // Gradients of B and C per image and group of channel blocks.
            let mut dbc = vec![0.0; groups * pixels * 2 * state];
            // Per image and channel: the gradients of the parameters of that channel.
            let mut dparameters = vec![0.0; batch * blocks * LANES * parameters];
            let draw_shared = SharedMut::new(&mut draw);
            let dparameters_shared = SharedMut::new(&mut dparameters);
            dbc.par_chunks_mut(shape.length() * 2 * state).enumerate().for_each(|(task, dbc)| {
                let (image, group) = (task / groups, task % groups);
                for block in (group..blocks).step_by(groups) {
                    let size = LANES * parameters;
                    // SAFETY: image and block belong to this task alone.
                    let dparameters = unsafe { dparameters_shared.block((image * blocks + block) * size, size) };
                    let dx = dx_shared[way.side()];
                    dispatch(Backward {
                        inputs: &inputs,
                        grad: grad.of(*way),
                        image,
                        block,
                        route,
                        dx,
                        draw: draw_shared,
                        dbc,
                        dparameters,
                    });
                }
            });
            for image in dparameters.chunks_exact(blocks * LANES * parameters) {
                grads.add(&shape, route, image);
            }
            let weight = Factor::rows(&inputs.dt_weight[route * channels * rank..][..channels * rank], rank);
            let ddt =
                product(Factor::rows(&draw, channels), weight, Epilogue::default(), Sizes { rows: pixels, columns: rank, inner: channels });
            let fields = &inputs.projections.of(*way)[route * shape.route_fields()..];
            let dt = Factor { values: fields, row: shape.fields(), column: 1 };
            let dweight =
                product(Factor::columns(&draw, channels), dt, Epilogue::default(), Sizes { rows: channels, columns: rank, inner: pixels });
            grads.dt_weight.extend_from_slice(&dweight);
            parts.push((ddt, sum_groups(dbc, groups, shape.length() * 2 * state)));
        }

        let dprojections = gather_projections(&parts, &routes, &shape);
        let ParameterGrads { dt_weight: dw, dt_bias: db, a: da, d: dd } = grads;
        // dA is known; A = -exp(a_logs), so dA / da_logs = A.
        let da_logs = da.iter().zip(inputs.a_logs).map(|(da, log)| -log.exp() * da).collect();
        Scan2dGrads {
            x: tensor(merge(dx, channels, &shape), x.layout().shape().clone()),
            projections: tensor(dprojections, projections.layout().shape().clone()),
            dt_weight: tensor(dw, dt_weight.layout().shape().clone()),
            dt_bias: tensor(db, dt_bias.layout().shape().clone()),
            a_logs: tensor(da_logs, a_logs.layout().shape().clone()),
            d: tensor(dd, d.layout().shape().clone()),
        }
    }
}

/// What the kernels read, in raster order and, where a route goes along columns, with rows and columns exchanged.
struct Turned<'a> {
    raster: &'a [f32],
    turned: Option<Scratch>,
}

impl<'a> Turned<'a> {
    /// `values` has `size` numbers a pixel.
    fn new(values: &'a [f32], size: usize, shape: &Shape2d, routes: &[Route]) -> Self {
        let turned = routes.iter().any(|route| route.side() == 1).then(|| turn(values, [shape.height, shape.width], size));
        Self { raster: values, turned }
    }

    /// The values in the order in which a route, or its reverse, visits them.
    fn of(&self, route: Route) -> &[f32] {
        match &self.turned {
            Some(turned) if route.side() == 1 => turned,
            _ => self.raster,
        }
    }

    /// A buffer of zeros for each order that is in use.
    fn zeros(&self) -> (Vec<f32>, Scratch) {
        (vec![0.0; self.raster.len()], Scratch::zeros(self.turned.as_ref().map_or(0, |turned| turned.len())))
    }
}

impl Route {
    /// 0 for a route along rows, 1 for one along columns.
    fn side(self) -> usize {
        usize::from(matches!(self, Self::Columns | Self::ColumnsReversed))
    }

    fn reversed(self) -> bool {
        matches!(self, Self::RowsReversed | Self::ColumnsReversed)
    }
}

/// Columns a task of [`turn`] takes: a run of pixels that is read in one piece.
const TURNED_COLUMNS: usize = 8;

/// `[batch, height, width, size]` to `[batch, width, height, size]`.
fn turn(values: &[f32], [height, width]: [usize; 2], size: usize) -> Scratch {
    let mut turned = Scratch::zeros(values.len());
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
fn merge((mut raster, turned): (Vec<f32>, Scratch), size: usize, shape: &Shape2d) -> Vec<f32> {
    let Shape2d { height, width, .. } = *shape;
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

/// The gradient of the projections in raster order from the gradients of step sizes and of B and C on each route.
fn gather_projections(parts: &[(Vec<f32>, Vec<f32>)], routes: &[Route], shape: &Shape2d) -> Vec<f32> {
    let Shape2d { height, width, rank, state, .. } = *shape;
    let mut dprojections = vec![0.0; shape.batch * shape.length() * shape.fields()];
    dprojections.par_chunks_mut(width * shape.fields()).enumerate().for_each(|(task, line)| {
        let (image, row) = (task / height, task % height);
        for (column, pixel) in line.chunks_exact_mut(shape.fields()).enumerate() {
            for ((fields, route), (ddt, dbc)) in pixel.chunks_exact_mut(shape.route_fields()).zip(routes).zip(parts) {
                let within = if route.side() == 1 { column * height + row } else { row * width + column };
                let position = image * shape.length() + within;
                let (dt, bc) = fields.split_at_mut(rank);
                dt.copy_from_slice(&ddt[position * rank..][..rank]);
                bc.copy_from_slice(&dbc[position * 2 * state..][..2 * state]);
            }
        }
    });
    dprojections
}

/// Adds the groups of each image in order.
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

    /// Gradients of the parameters of one channel on one route that the kernel sums: the bias, `A` and `D`.
    fn parameters(&self) -> usize {
        1 + self.state + 1
    }
}

struct Inputs<'a> {
    shape: Shape2d,
    routes: &'a [Route],
    x: Turned<'a>,
    projections: Turned<'a>,
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
        let Shape2d { channels, rank, state, .. } = self.shape;
        let length = self.shape.length();
        let (first, count) = self.channels(block);
        let way = self.routes[route];
        let (x, projections) = (self.x.of(way), self.projections.of(way));
        chunk.len = CHUNK.min(length - start);
        for t in 0..chunk.len {
            let pixel = if way.reversed() { length - 1 - start - t } else { start + t };
            let position = image * length + pixel;
            pixels[t] = position;
            // The channels of a task are a fraction of every pixel, so that the processor's own prefetching loses the track at every
            // page of memory.
            let ahead = if way.reversed() { position.wrapping_sub(AHEAD) } else { position + AHEAD };
            prefetch(x, ahead.wrapping_mul(channels).wrapping_add(first));
            prefetch(projections, ahead.wrapping_mul(self.shape.fields()).wrapping_add(route * self.shape.route_fields()));
            read_lanes(&mut chunk.x[t], &x[position * channels + first..][..count]);
            let fields = &projections[position * self.shape.fields() + route * self.shape.route_fields()..][..rank + 2 * state];
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

/// Pixels between the one that is loaded and the one that is fetched into the cache.
const AHEAD: usize = 24;

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

/// Writes the first of the lanes, as many as there is room for.
#[inline(always)]
fn write_lanes(target: &mut [f32], lanes: &Lanes) {
    if let Ok(all) = <&mut Lanes>::try_from(&mut *target) {
        *all = *lanes;
    } else {
        target.iter_mut().zip(lanes).for_each(|(target, lane)| *target = *lane);
    }
}

struct Forward<'a> {
    inputs: &'a Inputs<'a>,
    image: usize,
    block: usize,
    /// In raster order and turned.
    outputs: [SharedMut; 2],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { inputs, image, block, outputs } = self;
        let Shape2d { channels, routes, state, .. } = inputs.shape;
        let length = inputs.shape.length();
        let (first, count) = inputs.channels(block);
        let mut chunk = Chunk::new(state);
        let mut pixels = [0; CHUNK];
        let mut h = vec![ZERO; state];
        for route in 0..routes {
            let parameters = inputs.parameters(route, block);
            let output = outputs[inputs.routes[route].side()];
            h.fill(ZERO);
            for start in (0..length).step_by(CHUNK) {
                inputs.load::<FMA>(&mut chunk, &mut pixels, (image, block, route), &parameters, start);
                chunk.forward::<FMA, true>(&parameters.a, &mut h);
                for t in 0..chunk.len {
                    let (x, y, d) = (chunk.x[t], chunk.y[t], parameters.d);
                    // SAFETY: this task alone owns these channels of this image.
                    let target = unsafe { output.block(pixels[t] * channels + first, count) };
                    // On copies, which the compiler knows to be apart from everything else.
                    let mut sum = ZERO;
                    read_lanes(&mut sum, target);
                    for lane in 0..LANES {
                        sum[lane] += fma::<FMA>(d[lane], x[lane], y[lane]);
                    }
                    write_lanes(target, &sum);
                }
            }
        }
    }
}

/// One route of one image and channel block. All buffers of pixels are in the order of that route.
struct Backward<'a> {
    inputs: &'a Inputs<'a>,
    grad: &'a [f32],
    image: usize,
    block: usize,
    route: usize,
    dx: SharedMut,
    /// Gradient of the raw step sizes, `[pixel, channels]`.
    draw: SharedMut,
    /// Gradients of B and C, `[length, 2 state]` of this image and group.
    dbc: &'a mut [f32],
    /// `[parameters, LANES]` of this image and block.
    dparameters: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { inputs, grad, image, block, route, dx, draw, dbc, dparameters } = self;
        let Shape2d { channels, state, .. } = inputs.shape;
        let length = inputs.shape.length();
        let (first, count) = inputs.channels(block);
        let mut chunk = Chunk::new(state);
        let mut backward = ChunkGrad::new(state);
        let mut pixels = [0; CHUNK];
        let chunks = length.div_ceil(CHUNK);
        let parameters = inputs.parameters(route, block);
        let task = (image, block, route);
        // The state before each chunk.
        let mut states = vec![ZERO; chunks * state];
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
        let (mut dbias, mut dd) = (ZERO, ZERO);
        for index in (0..chunks).rev() {
            inputs.load::<FMA>(&mut chunk, &mut pixels, task, &parameters, index * CHUNK);
            for t in 0..chunk.len {
                read_lanes(&mut backward.grad[t], &grad[pixels[t] * channels + first..][..count]);
            }
            backward.backward::<FMA>(&chunk, true, &parameters.a, &states[index * state..][..state], &mut carry, &mut da);
            for t in 0..chunk.len {
                let (g, x, draw_t, dx_t) = (&backward.grad[t], &chunk.x[t], &backward.draw[t], &backward.dx[t]);
                let mut dx_sum = ZERO;
                for lane in 0..LANES {
                    dd[lane] = fma::<FMA>(g[lane], x[lane], dd[lane]);
                    dbias[lane] += draw_t[lane];
                    dx_sum[lane] = fma::<FMA>(parameters.d[lane], g[lane], dx_t[lane]);
                }
                // SAFETY: this task alone owns these channels of this image in both buffers.
                let (dx, draw) =
                    unsafe { (dx.block(pixels[t] * channels + first, count), draw.block(pixels[t] * channels + first, count)) };
                let mut sum = ZERO;
                read_lanes(&mut sum, dx);
                for lane in 0..LANES {
                    sum[lane] += dx_sum[lane];
                }
                write_lanes(dx, &sum);
                write_lanes(draw, draw_t);
                let dbc = &mut dbc[(pixels[t] - image * length) * 2 * state..][..2 * state];
                for n in 0..state {
                    dbc[n] += backward.db[t * state + n];
                    dbc[state + n] += backward.dc[t * state + n];
                }
            }
        }
        let lanes = [&dbias].into_iter().chain(&da).chain([&dd]);
        for (target, source) in dparameters.chunks_exact_mut(LANES).zip(lanes) {
            target.copy_from_slice(source);
        }
    }
}

/// Gradients of the parameters, summed over the images.
struct ParameterGrads {
    /// Filled route by route.
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

    /// Adds one image on one route: `[block, parameters, lane]` as the tasks wrote it.
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
