//! The kernels of the scan: [`LANES`] channels of one image, forward and backward.

use super::inputs::{Inputs, Shape2d};
use crate::cpu::simd::{Kernel, LANES, Lanes, fma, prefetch};
use crate::cpu::{Scratch, SharedMut};
use crate::selective_scan::recurrence::{CHUNK, Chunk, ChunkGrad, ZERO};

/// The parameters of a channel block on one route. Surplus lanes are 0, and so are their results.
struct BlockParameters {
    /// `[rank]`
    dt_weight: Vec<Lanes>,
    dt_bias: Lanes,
    /// `A`, `[state]`
    a: Vec<Lanes>,
    d: Lanes,
}

impl Inputs<'_> {
    /// The first channel of a block and its number of channels.
    fn channels(&self, block: usize) -> (usize, usize) {
        let first = block * LANES;
        (first, LANES.min(self.shape.channels - first))
    }

    /// Gathers the parameters of a channel block on a route.
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

    /// Fills the chunk that starts at step `start` of a route: the pixels it visits, and their input, raw step size, `B` and `C`. `x` is
    /// transposed for routes along columns, and `pixels` index it.
    #[inline(always)]
    fn load<const FMA: bool>(
        &self,
        chunk: &mut Chunk,
        pixels: &mut [usize; CHUNK],
        x: Channels,
        (image, route): (usize, usize),
        parameters: &BlockParameters,
        start: usize,
    ) {
        let Shape2d { rank, state, .. } = self.shape;
        let length = self.shape.length();
        let direction = self.routes[route];
        let projections = &self.projections.of(direction)[image * length * self.shape.fields()..][..length * self.shape.fields()];
        chunk.len = CHUNK.min(length - start);
        for t in 0..chunk.len {
            let pixel = if direction.is_reversed() { length - 1 - start - t } else { start + t };
            pixels[t] = pixel;
            // If a task reads only some channels of each pixel, the processor's own prefetcher stops at every page boundary.
            if x.size != LANES {
                let ahead = if direction.is_reversed() { pixel.wrapping_sub(AHEAD) } else { pixel + AHEAD };
                prefetch(x.values, ahead.wrapping_mul(x.size).wrapping_add(x.first));
                prefetch(projections, ahead.wrapping_mul(self.shape.fields()).wrapping_add(route * self.shape.route_fields()));
            }
            read_lanes(&mut chunk.x[t], x.of(pixel));
            let fields = &projections[pixel * self.shape.fields() + route * self.shape.route_fields()..][..rank + 2 * state];
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

/// Up to [`LANES`] channels of every pixel of an image.
#[derive(Clone, Copy)]
struct Channels<'a> {
    values: &'a [f32],
    /// Values of a pixel.
    size: usize,
    /// The first channel.
    first: usize,
    count: usize,
}

impl<'a> Channels<'a> {
    #[inline(always)]
    fn of(self, pixel: usize) -> &'a [f32] {
        &self.values[pixel * self.size + self.first..][..self.count]
    }
}

/// Distance between the pixel that is loaded and the one that is prefetched.
const AHEAD: usize = 24;

/// Reads up to [`LANES`] values; missing lanes become 0.
#[inline(always)]
fn read_lanes(lanes: &mut Lanes, source: &[f32]) {
    if let Ok(all) = source.try_into() {
        *lanes = all;
    } else {
        *lanes = ZERO;
        lanes[..source.len()].copy_from_slice(source);
    }
}

/// Writes as many lanes as `target` has room for.
#[inline(always)]
fn write_lanes(target: &mut [f32], lanes: &Lanes) {
    if let Ok(all) = <&mut Lanes>::try_from(&mut *target) {
        *all = *lanes;
    } else {
        target.iter_mut().zip(lanes).for_each(|(target, lane)| *target = *lane);
    }
}

/// The forward pass of one image and channel block on all routes.
///
/// A task needs only some channels of each pixel. It copies them into a compact map for the routes along rows, and into a transposed
/// compact map for the routes along columns. A small map stays in the cache, and a large one is read from memory in whole lines and in order.
pub(super) struct Forward<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) image: usize,
    pub(super) block: usize,
    /// All images, `[pixel, channels]`.
    pub(super) x: &'a [f32],
    pub(super) output: SharedMut,
}

/// Columns that [`gather`] transposes together, so that whole cache lines are used on both sides.
const COLUMNS: usize = 8;

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { inputs, image, block, x, output } = self;
        let Shape2d { height, width, channels, state, .. } = inputs.shape;
        let length = inputs.shape.length();
        let (first, count) = inputs.channels(block);
        let source = Channels { values: &x[image * length * channels..][..length * channels], size: channels, first, count };
        let mut own = Scratch::unset(length * LANES);
        let mut sum = Scratch::zeros(length * LANES);
        let mut chunk = Chunk::new(state);
        let mut pixels = [0; CHUNK];
        let mut h = vec![ZERO; state];
        for along_columns in [true, false] {
            if !inputs.routes.iter().any(|route| route.is_along_columns() == along_columns) {
                continue;
            }
            gather(&mut own, source, [height, width], along_columns);
            for (route, _) in inputs.routes.iter().enumerate().filter(|(_, route)| route.is_along_columns() == along_columns) {
                let parameters = inputs.parameters(route, block);
                h.fill(ZERO);
                for start in (0..length).step_by(CHUNK) {
                    let x = Channels { values: &own, size: LANES, first: 0, count: LANES };
                    inputs.load::<FMA>(&mut chunk, &mut pixels, x, (image, route), &parameters, start);
                    chunk.forward::<FMA, true>(&parameters.a, &mut h);
                    for t in 0..chunk.len {
                        let (x, y, d) = (chunk.x[t], chunk.y[t], parameters.d);
                        // A local copy, which the compiler knows to be unaliased.
                        let mut lanes = ZERO;
                        let target = &mut sum[pixels[t] * LANES..][..LANES];
                        read_lanes(&mut lanes, target);
                        for lane in 0..LANES {
                            lanes[lane] += fma::<FMA>(d[lane], x[lane], y[lane]);
                        }
                        write_lanes(target, &lanes);
                    }
                }
            }
            if along_columns {
                // Transpose the sums back to raster order. `own` is free, because the routes along rows gather it again.
                gather(&mut own, Channels { values: &sum, size: LANES, first: 0, count: LANES }, [width, height], true);
                std::mem::swap(&mut own, &mut sum);
            }
        }
        for pixel in 0..length {
            // SAFETY: only this task accesses these channels of this image.
            let target = unsafe { output.block((image * length + pixel) * channels + first, count) };
            target.copy_from_slice(&sum[pixel * LANES..][..count]);
        }
    }
}

/// Copies channels into a compact map, optionally transposed. Surplus lanes become 0.
#[inline(always)]
fn gather(target: &mut [f32], source: Channels, [height, width]: [usize; 2], transposed: bool) {
    let (target, _) = target.as_chunks_mut::<LANES>();
    if !transposed {
        for (pixel, lanes) in target.iter_mut().enumerate() {
            read_lanes(lanes, source.of(pixel));
        }
        return;
    }
    for begin in (0..width).step_by(COLUMNS) {
        for row in 0..height {
            for column in begin..width.min(begin + COLUMNS) {
                read_lanes(&mut target[column * height + row], source.of(row * width + column));
            }
        }
    }
}

/// The backward pass of one route, image and channel block. All maps are transposed if the route goes along columns.
pub(super) struct Backward<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) grad: &'a [f32],
    pub(super) image: usize,
    pub(super) block: usize,
    pub(super) route: usize,
    pub(super) x: &'a [f32],
    pub(super) dx: SharedMut,
    /// Gradient of the raw step sizes, `[pixel, channels]`.
    pub(super) draw: SharedMut,
    /// Gradients of `B` and `C` for this image and group, `[length, 2 * state]`.
    pub(super) dbc: &'a mut [f32],
    /// Gradients of the parameters for this image and block, `[parameters, LANES]`.
    pub(super) dparameters: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { inputs, grad, image, block, route, x, dx, draw, dbc, dparameters } = self;
        let Shape2d { channels, state, .. } = inputs.shape;
        let length = inputs.shape.length();
        let (first, count) = inputs.channels(block);
        let mut chunk = Chunk::new(state);
        let mut backward = ChunkGrad::new(state);
        let mut pixels = [0; CHUNK];
        let chunks = length.div_ceil(CHUNK);
        let parameters = inputs.parameters(route, block);
        let of_image = |values| Channels { values, size: channels, first, count };
        let [x, grad] = [x, grad].map(|values: &[f32]| of_image(&values[image * length * channels..][..length * channels]));
        let task = (image, route);
        // The state before each chunk.
        let mut states = vec![ZERO; chunks * state];
        let mut h = vec![ZERO; state];
        for index in 0..chunks {
            states[index * state..][..state].copy_from_slice(&h);
            if index + 1 < chunks {
                inputs.load::<FMA>(&mut chunk, &mut pixels, x, task, &parameters, index * CHUNK);
                chunk.forward::<FMA, false>(&parameters.a, &mut h);
            }
        }

        let mut carry = vec![ZERO; state];
        let mut da = vec![ZERO; state];
        let (mut dbias, mut dd) = (ZERO, ZERO);
        for index in (0..chunks).rev() {
            inputs.load::<FMA>(&mut chunk, &mut pixels, x, task, &parameters, index * CHUNK);
            for t in 0..chunk.len {
                read_lanes(&mut backward.grad[t], grad.of(pixels[t]));
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
                let start = (image * length + pixels[t]) * channels + first;
                // SAFETY: only this task accesses these channels of this image in both buffers.
                let (dx, draw) = unsafe { (dx.block(start, count), draw.block(start, count)) };
                let mut sum = ZERO;
                read_lanes(&mut sum, dx);
                for lane in 0..LANES {
                    sum[lane] += dx_sum[lane];
                }
                write_lanes(dx, &sum);
                write_lanes(draw, draw_t);
                let dbc = &mut dbc[pixels[t] * 2 * state..][..2 * state];
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
