//! The scan's kernels for GPUs.
//!
//! A sequence is cut into chunks, so that an image keeps many units busy. [`chunk_states`] runs the recurrence over every chunk from an
//! empty state and leaves the state behind it with the sum of the step sizes, which says how much of an earlier state is left:
//! `exp(A sum)`. [`carry`] hands states on from chunk to chunk. [`outputs`] runs the recurrence again from the true state, and the kernel of
//! `cube_gradients.rs` does so backwards. Arithmetic and states are float32 whatever the type of the maps.
//!
//! All of them see maps as `[image, pixel, channel]` with a vector of `V` channels a unit, and the projections of a pixel as vectors of
//! `P` values.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cube_math::softplus;

/// What the kernels know when they are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Form {
    /// Whether sequences go down the columns, not along the rows.
    pub(super) columns: bool,
    /// Values of a pixel that the step size is made of; without them the step size of every channel is given.
    pub(super) rank: Option<usize>,
    /// States of a channel.
    pub(super) state: usize,
    /// Whether the step size goes through softplus.
    pub(super) softplus: bool,
    /// Whether `A` is given as the logarithm of `-A`.
    pub(super) logarithm: bool,
}

impl Form {
    /// Values of a pixel and group in the projections.
    pub(super) fn fields(self) -> usize {
        self.rank.unwrap_or(0) + 2 * self.state
    }

    pub(super) fn first_b(self) -> usize {
        self.rank.unwrap_or(0)
    }

    pub(super) fn first_c(self) -> usize {
        self.rank.unwrap_or(0) + self.state
    }
}

/// One or two routes along the same axis: the numbers of their parameters are runtime values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Directions {
    /// Whether the route goes backwards.
    pub(super) reversed: [bool; 2],
    /// How many routes there are.
    pub(super) count: usize,
}

/// Sizes and places that change without a kernel being compiled anew. Channels are counted in vectors.
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
    /// Channels that share `B` and `C`.
    pub(super) per_group: usize,
    /// From one pixel of the input to the next.
    pub(super) pitch: usize,
    /// From one pixel of the projections to the next, in vectors of `P`.
    pub(super) fields_pitch: usize,
    /// Steps of a chunk.
    pub(super) chunk: usize,
    /// Chunks of a sequence.
    pub(super) chunks: usize,
}

/// The parameters of a vector of channels on one route.
#[derive(CubeType)]
pub(super) struct Channel<V: Size> {
    /// Step size from the low-rank values.
    pub(super) weights: Array<Vector<f32, V>>,
    pub(super) bias: Vector<f32, V>,
    /// `A` of every state.
    pub(super) a: Array<Vector<f32, V>>,
}

/// `V` values at `first`, `first + stride`, …
#[cube]
pub(super) fn gather<V: Size>(values: &[f32], first: usize, stride: usize) -> Vector<f32, V> {
    let mut gathered = Vector::<f32, V>::new(0.0_f32);
    #[unroll]
    for i in 0..V::value() {
        gathered.insert(i, values[first + i * stride]);
    }
    gathered
}

/// The parameters of channels `channel * V ..`, counted over all routes or groups.
#[cube]
pub(super) fn parameters<V: Size>(dt_weight: &[f32], dt_bias: &[f32], a: &[f32], channel: usize, #[comptime] form: Form) -> Channel<V> {
    let first = channel * V::value();
    let rank = comptime!(form.rank.unwrap_or(0));
    // An array needs an entry.
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

/// Raster index of the pixel at a place of the sequence.
#[cube]
pub(super) fn pixel_at(position: usize, sizes: &Sizes, #[comptime] form: Form) -> usize {
    if comptime!(form.columns) { position % sizes.height * sizes.width + position / sizes.height } else { position }
}

/// A place in the image that moves along a sequence without dividing.
#[derive(CubeType)]
pub(super) struct Walk {
    pub(super) pixel: usize,
    /// Row of the pixel, where sequences go down the columns.
    pub(super) row: usize,
}

/// The walk at step `step` of a chunk from `begin` to `end`.
#[cube]
pub(super) fn walk_from(begin: usize, end: usize, step: usize, sizes: &Sizes, #[comptime] form: Form, #[comptime] reversed: bool) -> Walk {
    let position = if comptime!(reversed) { end - 1 - step } else { begin + step };
    Walk { pixel: pixel_at(position, sizes, form), row: position % sizes.height }
}

/// One place on; `reversed` is the direction in the sequence, whatever that of the route.
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

/// The projections of a pixel for one group.
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

/// The step size of a pixel before softplus. `given` has it, without its bias, where it is not made of the projections.
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

/// Where a unit works.
#[derive(CubeType)]
pub(super) struct Place {
    pub(super) channel: usize,
    pub(super) chunk: usize,
    pub(super) image: usize,
    /// Places of the sequence.
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

/// Index of what a chunk leaves behind: `[route, image, chunk, state, channel]`, or with one state `[route, image, chunk, channel]`.
#[cube]
pub(super) fn left_at(route: usize, place: &Place, n: usize, sizes: &Sizes, #[comptime] states: usize) -> usize {
    (((route * sizes.batch + place.image) * sizes.chunks + place.chunk) * states + n) * sizes.channels + place.channel
}

/// The state behind every chunk that begins with none, and the sum of its step sizes. With `adjoint` also what the chunk hands to the
/// one before it in the backward pass when nothing comes from behind: the gradient of the state in front of it.
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
        let group = route + place.channel / sizes.per_group;
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
        sums[left_at(route, &place, 0usize, &sizes, 1usize)] = sum;
        #[unroll]
        for n in 0..form.state {
            states[left_at(route, &place, n, &sizes, form.state)] = h[n];
            if comptime!(adjoint) {
                adjoints[left_at(route, &place, n, &sizes, form.state)] = back[n];
            }
        }
    }
}

/// Turns what every chunk leaves behind into what it finds, from the first chunk of a route to its last. `reversed` has a bit for every
/// route that begins with the last chunk. One unit a route, image, state and vector of channels.
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

/// What the outputs of a launch are added to, and where they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Merge {
    /// Whether an earlier launch has left sums.
    pub(super) begun: bool,
    /// Whether the last route writes the output, which then is not float32; otherwise the sums are the output.
    pub(super) converts: bool,
    /// Whether there is a state in front of a chunk: not where a chunk is a whole sequence.
    pub(super) carries: bool,
}

/// The outputs of one or two routes, merged with those before them. Both routes of a launch visit the same pixels of a chunk, the second
/// time from the cache.
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
        let group = route + place.channel / sizes.per_group;
        let first_field = group * comptime!(form.fields()) / P::value();
        let mut h = Array::<Vector<f32, V>>::new(form.state);
        #[unroll]
        for n in 0..form.state {
            h[n] = if comptime!(merge.carries) { states[left_at(route, &place, n, &sizes, form.state)] } else { Vector::new(0.0_f32) };
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
