//! The kernels of the scan on GPUs, shared by the one-dimensional scan and the scan of SS2D.
//!
//! A sequence is split into chunks, so that one image keeps many units busy:
//!
//! 1. `chunk_states` runs the recurrence over every chunk from a zero state. It stores the state after the chunk and the sum of the step
//!    sizes; an earlier state decays over the chunk by `exp(A sum)`.
//! 2. `carry` turns these into the state before every chunk.
//! 3. `outputs` runs the recurrence again, now from the true state. `gradients.rs` has the backward pass.
//!
//! Maps are `[image, pixel, channel]`; a unit processes a vector of `V` channels. The projections of a pixel are read as vectors of `P`
//! values, and their fields are `[route, group, field]`. Arithmetic and states are float32 whatever the type of the maps.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cube::math::softplus;

/// Properties of the scan that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form {
    /// Whether sequences run along columns instead of rows.
    pub(super) columns: bool,
    /// Rank of the step size, which is then projected from the first fields. `None` if the step size of every channel is an input.
    pub(super) rank: Option<usize>,
    /// States of a channel.
    pub(super) state: usize,
    /// Whether the step size goes through softplus.
    pub(super) softplus: bool,
    /// Whether the parameter is `log(-A)` instead of `A`.
    pub(super) logarithm: bool,
}

impl Form {
    /// Fields of a pixel for one route and group: step size, `B` and `C`.
    pub(super) fn fields(self) -> usize {
        self.rank.unwrap_or(0) + 2 * self.state
    }

    /// Index of the first field of `B`.
    pub(super) fn first_b(self) -> usize {
        self.rank.unwrap_or(0)
    }

    /// Index of the first field of `C`.
    pub(super) fn first_c(self) -> usize {
        self.rank.unwrap_or(0) + self.state
    }
}

/// The directions of the one or two routes of a launch, which run along the same axis. The indices of the routes are runtime values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Directions {
    /// Whether each route runs backwards.
    pub(super) reversed: [bool; 2],
    /// Number of routes, 1 or 2.
    pub(super) count: usize,
}

/// Sizes that do not require compiling a kernel again. Channels are counted in vectors of `V`.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Sizes {
    /// Images.
    pub(super) batch: usize,
    /// Rows of an image.
    pub(super) height: usize,
    /// Columns of an image.
    pub(super) width: usize,
    /// Channels of a map.
    pub(super) channels: usize,
    /// Channels of a group, which share `B` and `C`. Divides `channels`.
    pub(super) per_group: usize,
    /// Distance between pixels of the input.
    pub(super) pitch: usize,
    /// Distance between pixels of the projections, in vectors of `P`.
    pub(super) fields_pitch: usize,
    /// Steps of a chunk.
    pub(super) chunk: usize,
    /// Chunks of a sequence.
    pub(super) chunks: usize,
}

/// The parameters of a vector of channels on one route.
#[derive(CubeType)]
pub(super) struct Channel<V: Size> {
    /// Weights of the step size's projection, `[rank]`.
    pub(super) weights: Array<Vector<f32, V>>,
    /// Bias of the step size.
    pub(super) bias: Vector<f32, V>,
    /// `A`, `[state]`.
    pub(super) a: Array<Vector<f32, V>>,
}

/// Reads the `V` values at `first`, `first + stride`, …
#[cube]
pub(super) fn gather<V: Size>(values: &[f32], first: usize, stride: usize) -> Vector<f32, V> {
    let mut gathered = Vector::<f32, V>::new(0.0_f32);
    #[unroll]
    for i in 0..V::value() {
        gathered.insert(i, values[first + i * stride]);
    }
    gathered
}

/// The parameters of a vector of channels. `channel` counts vectors over all routes: `route * channels + channel of the map`.
#[cube]
pub(super) fn parameters<V: Size>(dt_weight: &[f32], dt_bias: &[f32], a: &[f32], channel: usize, #[comptime] form: Form) -> Channel<V> {
    let first = channel * V::value();
    let rank = comptime!(form.rank.unwrap_or(0));
    // Arrays cannot be empty.
    let mut weights = Array::<Vector<f32, V>>::new(comptime!(rank.max(1)));
    #[unroll]
    for r in 0..rank {
        weights[r] = gather::<V>(dt_weight, first * rank + r, rank);
    }
    let mut decay = Array::<Vector<f32, V>>::new(form.state);
    #[unroll]
    for n in 0..form.state {
        let value = gather::<V>(a, first * form.state + n, form.state);
        decay[n] = if comptime!(form.logarithm) { Vector::new(0.0_f32) - value.exp() } else { value };
    }
    Channel::<V> { weights, bias: gather::<V>(dt_bias, first, 1), a: decay }
}

/// Raster index of the pixel at a position of the sequence.
#[cube]
pub(super) fn pixel_at(position: usize, sizes: &Sizes, #[comptime] form: Form) -> usize {
    if comptime!(form.columns) { position % sizes.height * sizes.width + position / sizes.height } else { position }
}

/// A position that moves along a sequence without divisions.
#[derive(CubeType)]
pub(super) struct Walk {
    /// Raster index of the pixel.
    pub(super) pixel: usize,
    /// Row of the pixel; used if sequences run along columns.
    pub(super) row: usize,
}

/// The position at step `step` of the chunk `begin..end`.
#[cube]
pub(super) fn walk_from(begin: usize, end: usize, step: usize, sizes: &Sizes, #[comptime] form: Form, #[comptime] reversed: bool) -> Walk {
    let position = if comptime!(reversed) { end - 1 - step } else { begin + step };
    Walk { pixel: pixel_at(position, sizes, form), row: position % sizes.height }
}

/// Moves one pixel. `reversed` is the direction of the move, which in the backward pass is opposite to that of the route.
#[cube]
pub(super) fn advance(walk: &mut Walk, sizes: &Sizes, #[comptime] form: Form, #[comptime] reversed: bool) {
    if comptime!(!form.columns) {
        if comptime!(reversed) {
            walk.pixel -= 1;
        } else {
            walk.pixel += 1;
        }
    } else if comptime!(reversed) {
        if walk.row == 0 {
            walk.row = sizes.height - 1;
            walk.pixel += (sizes.height - 1) * sizes.width - 1;
        } else {
            walk.row -= 1;
            walk.pixel -= sizes.width;
        }
    } else {
        walk.row += 1;
        if walk.row == sizes.height {
            walk.row = 0;
            walk.pixel -= (sizes.height - 1) * sizes.width - 1;
        } else {
            walk.pixel += sizes.width;
        }
    }
}

/// The fields of a pixel for one route and group; `first` is the position of the first in vectors of `P`.
#[cube]
pub(super) fn fields_of<F: Float, P: Size>(projections: &[Vector<F, P>], first: usize, #[comptime] form: Form) -> Array<f32> {
    let size = P::value();
    let count = comptime!(form.fields());
    let mut fields = Array::<f32>::new(count);
    #[unroll]
    for part in 0..comptime!(count / size) {
        let vector = projections[first + part];
        #[unroll]
        for i in 0..size {
            fields[comptime!(part * size + i)] = f32::cast_from(vector.extract(i));
        }
    }
    fields
}

/// The step size of a pixel before softplus: the projection of its fields or, without a rank, `given`; plus the bias.
#[cube]
pub(super) fn raw_step<V: Size>(
    fields: &Array<f32>,
    channel: &Channel<V>,
    given: Vector<f32, V>,
    #[comptime] form: Form,
) -> Vector<f32, V> {
    let mut raw = channel.bias;
    if comptime!(form.rank.is_some()) {
        #[unroll]
        for r in 0..comptime!(form.rank.unwrap_or(0)) {
            raw = fma(Vector::new(fields[r]), channel.weights[r], raw);
        }
    } else {
        raw += given;
    }
    raw
}

/// The step size.
#[cube]
pub(super) fn step_size<V: Size>(raw: Vector<f32, V>, #[comptime] form: Form) -> Vector<f32, V> {
    if comptime!(form.softplus) { softplus::<V>(raw) } else { raw }
}

/// The channels, chunk and image of a unit.
#[derive(CubeType)]
pub(super) struct Place {
    /// Vector of channels in the map.
    pub(super) channel: usize,
    pub(super) chunk: usize,
    pub(super) image: usize,
    /// Positions of the chunk in the sequence, `begin..end`.
    pub(super) begin: usize,
    pub(super) end: usize,
}

#[cube]
fn place_of(unit: usize, sizes: &Sizes) -> Place {
    let rest = unit / sizes.channels;
    let (chunk, image) = (rest % sizes.chunks, rest / sizes.chunks);
    let begin = chunk * sizes.chunk;
    Place { channel: unit % sizes.channels, chunk, image, begin, end: min(begin + sizes.chunk, sizes.height * sizes.width) }
}

/// The group of a channel, counted over all routes: every route has its own `channels / per_group` groups.
#[cube]
pub(super) fn group_of(route: usize, channel: usize, sizes: &Sizes) -> usize {
    route * (sizes.channels / sizes.per_group) + channel / sizes.per_group
}

/// Index into the boundary values of chunks, `[route, image, chunk, state, channel]`.
#[cube]
pub(super) fn boundary_at(route: usize, place: &Place, n: usize, sizes: &Sizes, #[comptime] states: usize) -> usize {
    (((route * sizes.batch + place.image) * sizes.chunks + place.chunk) * states + n) * sizes.channels + place.channel
}

/// Runs the recurrence over every chunk from a zero state. Stores the state after the chunk and the sum of its step sizes. With `adjoint`
/// it also stores the gradient of the state before the chunk, for a zero gradient of the state after it.
#[cube(launch_unchecked)]
pub(super) fn chunk_states<F: Float, V: Size, P: Size>(
    x: &[Vector<F, V>],
    given: &[Vector<F, V>],
    projections: &[Vector<F, P>],
    dt_weight: &[f32],
    dt_bias: &[f32],
    a: &[f32],
    grad: &[Vector<F, V>],
    states: &mut [Vector<f32, V>],
    sums: &mut [Vector<f32, V>],
    adjoints: &mut [Vector<f32, V>],
    sizes: Sizes,
    given_pitch: usize,
    grad_pitch: usize,
    routes_0: usize,
    routes_1: usize,
    units: usize,
    #[comptime] form: Form,
    #[comptime] directions: Directions,
    #[comptime] adjoint: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let place = place_of(ABSOLUTE_POS, &sizes);
    let pixels = sizes.height * sizes.width;
    #[unroll]
    for which in 0..directions.count {
        let reversed = comptime!(directions.reversed[which]);
        let route = if comptime!(which == 0) { routes_0 } else { routes_1 };
        let channel = parameters::<V>(dt_weight, dt_bias, a, route * sizes.channels + place.channel, form);
        let group = group_of(route, place.channel, &sizes);
        let first_field = group * comptime!(form.fields()) / P::value();
        let zero = Vector::<f32, V>::new(0.0_f32);
        let mut h = Array::<Vector<f32, V>>::new(form.state);
        let mut kept = Array::<Vector<f32, V>>::new(form.state);
        let mut back = Array::<Vector<f32, V>>::new(form.state);
        #[unroll]
        for n in 0..form.state {
            h[n] = zero;
            kept[n] = Vector::new(1.0_f32);
            back[n] = zero;
        }
        let mut sum = zero;
        let mut walk = walk_from(place.begin, place.end, 0, &sizes, form, reversed);
        for _step in 0..place.end - place.begin {
            let pixel = place.image * pixels + walk.pixel;
            let fields = fields_of::<F, P>(projections, pixel * sizes.fields_pitch + first_field, form);
            let mut own = zero;
            if comptime!(form.rank.is_none()) {
                own = Vector::cast_from(given[pixel * given_pitch + place.channel]);
            }
            let delta = step_size::<V>(raw_step::<V>(&fields, &channel, own, form), form);
            let input = delta * Vector::cast_from(x[pixel * sizes.pitch + place.channel]);
            sum += delta;
            let mut g = zero;
            if comptime!(adjoint) {
                g = Vector::cast_from(grad[pixel * grad_pitch + place.channel]);
            }
            #[unroll]
            for n in 0..form.state {
                let decay = (delta * channel.a[n]).exp();
                h[n] = fma(decay, h[n], input * Vector::new(fields[comptime!(form.first_b() + n)]));
                if comptime!(adjoint) {
                    kept[n] *= decay;
                    back[n] = fma(kept[n], g * Vector::new(fields[comptime!(form.first_c() + n)]), back[n]);
                }
            }
            advance(&mut walk, &sizes, form, reversed);
        }
        sums[boundary_at(route, &place, 0usize, &sizes, 1usize)] = sum;
        #[unroll]
        for n in 0..form.state {
            states[boundary_at(route, &place, n, &sizes, form.state)] = h[n];
            if comptime!(adjoint) {
                adjoints[boundary_at(route, &place, n, &sizes, form.state)] = back[n];
            }
        }
    }
}

/// Replaces the state after every chunk, computed from a zero state, by the true state before it. Bit `i` of `reversed` is set if route `i`
/// starts with the last chunk. One unit for each route, image, state and vector of channels.
#[cube(launch_unchecked)]
pub(super) fn carry<V: Size>(
    states: &mut [Vector<f32, V>],
    sums: &[Vector<f32, V>],
    a: &[f32],
    batch: usize,
    channels: usize,
    chunks: usize,
    reversed: u32,
    units: usize,
    #[comptime] form: Form,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (channel, rest) = (ABSOLUTE_POS % channels, ABSOLUTE_POS / channels);
    let (n, rest) = (rest % form.state, rest / form.state);
    let (image, route) = (rest % batch, rest / batch);
    let value = gather::<V>(a, (route * channels + channel) * V::value() * form.state + n, form.state);
    let a = if comptime!(form.logarithm) { Vector::new(0.0_f32) - value.exp() } else { value };
    let backwards = (reversed >> route as u32) & 1 == 1;
    let mut state = Vector::<f32, V>::new(0.0_f32);
    for step in 0..chunks {
        let chunk = if backwards { chunks - 1 - step } else { step };
        let before = (route * batch + image) * chunks + chunk;
        let at = (before * form.state + n) * channels + channel;
        let left = states[at];
        states[at] = state;
        state = fma((a * sums[before * channels + channel]).exp(), state, left);
    }
}

/// How the outputs of a launch are merged with those of earlier launches, and where the sums are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Merge {
    /// Whether an earlier launch stored sums, which the outputs are added to.
    pub(super) begun: bool,
    /// Whether the last route of the launch writes the final sums to `converted`, in the type of the input, instead of to `merged`.
    pub(super) converts: bool,
    /// Whether to read the state before every chunk; `false` if one chunk is the whole sequence.
    pub(super) carries: bool,
}

/// The outputs of one or two routes, added to those of earlier launches. Both routes of a launch visit the pixels of the same chunk, so the
/// second route reads them from the cache.
#[cube(launch_unchecked)]
pub(super) fn outputs<F: Float, V: Size, P: Size>(
    x: &[Vector<F, V>],
    given: &[Vector<F, V>],
    projections: &[Vector<F, P>],
    dt_weight: &[f32],
    dt_bias: &[f32],
    a: &[f32],
    d: &[f32],
    states: &[Vector<f32, V>],
    merged: &mut [Vector<f32, V>],
    converted: &mut [Vector<F, V>],
    sizes: Sizes,
    given_pitch: usize,
    routes_0: usize,
    routes_1: usize,
    units: usize,
    #[comptime] form: Form,
    #[comptime] directions: Directions,
    #[comptime] merge: Merge,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let place = place_of(ABSOLUTE_POS, &sizes);
    let pixels = sizes.height * sizes.width;
    #[unroll]
    for which in 0..directions.count {
        let reversed = comptime!(directions.reversed[which]);
        let route = if comptime!(which == 0) { routes_0 } else { routes_1 };
        let channel = parameters::<V>(dt_weight, dt_bias, a, route * sizes.channels + place.channel, form);
        let skip = gather::<V>(d, (route * sizes.channels + place.channel) * V::value(), 1);
        let group = group_of(route, place.channel, &sizes);
        let first_field = group * comptime!(form.fields()) / P::value();
        let mut h = Array::<Vector<f32, V>>::new(form.state);
        #[unroll]
        for n in 0..form.state {
            h[n] = if comptime!(merge.carries) { states[boundary_at(route, &place, n, &sizes, form.state)] } else { Vector::new(0.0_f32) };
        }
        let mut walk = walk_from(place.begin, place.end, 0, &sizes, form, reversed);
        for _step in 0..place.end - place.begin {
            let pixel = place.image * pixels + walk.pixel;
            let fields = fields_of::<F, P>(projections, pixel * sizes.fields_pitch + first_field, form);
            let mut own = Vector::<f32, V>::new(0.0_f32);
            if comptime!(form.rank.is_none()) {
                own = Vector::cast_from(given[pixel * given_pitch + place.channel]);
            }
            let delta = step_size::<V>(raw_step::<V>(&fields, &channel, own, form), form);
            let u = Vector::<f32, V>::cast_from(x[pixel * sizes.pitch + place.channel]);
            let input = delta * u;
            let mut y = skip * u;
            #[unroll]
            for n in 0..form.state {
                h[n] = fma((delta * channel.a[n]).exp(), h[n], input * Vector::new(fields[comptime!(form.first_b() + n)]));
                y = fma(h[n], Vector::new(fields[comptime!(form.first_c() + n)]), y);
            }
            let at = pixel * sizes.channels + place.channel;
            if comptime!(merge.begun || which > 0) {
                y += merged[at];
            }
            if comptime!(merge.converts && which + 1 == directions.count) {
                converted[at] = Vector::cast_from(y);
            } else {
                merged[at] = y;
            }
            advance(&mut walk, &sizes, form, reversed);
        }
    }
}
