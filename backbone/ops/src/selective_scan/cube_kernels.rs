//! The scan's kernels for GPUs.
//!
//! A sequence is cut into chunks, so that an image keeps many units busy. [`chunk_states`] runs the recurrence over every chunk from an
//! empty state and leaves the state behind it with the sum of the step sizes, which says how much of an earlier state is left:
//! `exp(A sum)`. [`carry`] hands states on from chunk to chunk. [`outputs`] runs the recurrence again from the true state. [`gradients`]
//! does so backwards. Arithmetic and states are float32 whatever the type of the maps.
//!
//! All of them see maps as `[image, pixel, channel]` with a vector of `V` channels a unit, and the projections of a pixel as vectors of
//! `P` values.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::cube_math::{sigmoid, softplus};

/// Units of a cube of [`gradients`].
pub(super) const LANES: usize = 32;

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

    fn first_b(self) -> usize {
        self.rank.unwrap_or(0)
    }

    fn first_c(self) -> usize {
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
struct Channel<V: Size> {
    /// Step size from the low-rank values.
    weights: Array<Vector<f32, V>>,
    bias: Vector<f32, V>,
    /// `A` of every state.
    a: Array<Vector<f32, V>>,
}

/// `V` values at `first`, `first + stride`, …
#[cube]
fn gather<V: Size>(values: &[f32], first: usize, stride: usize) -> Vector<f32, V> {
    let mut gathered = Vector::<f32, V>::new(0.0_f32);
    #[unroll]
    for i in 0..V::value() {
        gathered.insert(i, values[first + i * stride]);
    }
    gathered
}

/// The parameters of channels `channel * V ..`, counted over all routes or groups.
#[cube]
fn parameters<V: Size>(dt_weight: &[f32], dt_bias: &[f32], a: &[f32], channel: usize, #[comptime] form: Form) -> Channel<V> {
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
fn pixel_at(position: usize, sizes: &Sizes, #[comptime] form: Form) -> usize {
    if comptime!(form.columns) { position % sizes.height * sizes.width + position / sizes.height } else { position }
}

/// A place in the image that moves along a sequence without dividing.
#[derive(CubeType)]
struct Walk {
    pixel: usize,
    /// Row of the pixel, where sequences go down the columns.
    row: usize,
}

/// The walk at step `step` of a chunk from `begin` to `end`.
#[cube]
fn walk_from(begin: usize, end: usize, step: usize, sizes: &Sizes, #[comptime] form: Form, #[comptime] reversed: bool) -> Walk {
    let position = if comptime!(reversed) { end - 1 - step } else { begin + step };
    Walk { pixel: pixel_at(position, sizes, form), row: position % sizes.height }
}

/// One place on; `reversed` is the direction in the sequence, whatever that of the route.
#[cube]
fn advance(walk: &mut Walk, sizes: &Sizes, #[comptime] form: Form, #[comptime] reversed: bool) {
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
fn fields_of<F: Float, P: Size>(projections: &[Vector<F, P>], first: usize, #[comptime] form: Form) -> Array<f32> {
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
fn raw_step<V: Size>(fields: &Array<f32>, channel: &Channel<V>, given: Vector<f32, V>, #[comptime] form: Form) -> Vector<f32, V> {
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
fn step_size<V: Size>(raw: Vector<f32, V>, #[comptime] form: Form) -> Vector<f32, V> {
    if comptime!(form.softplus) { softplus::<V>(raw) } else { raw }
}

/// Where a unit works.
#[derive(CubeType)]
struct Place {
    channel: usize,
    chunk: usize,
    image: usize,
    /// Places of the sequence.
    begin: usize,
    end: usize,
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
fn left_at(route: usize, place: &Place, n: usize, sizes: &Sizes, #[comptime] states: usize) -> usize {
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

/// The sum of a vector's values.
#[cube]
fn over_vector<V: Size>(vector: Vector<f32, V>) -> f32 {
    let mut sum = 0.0_f32;
    #[unroll]
    for i in 0..V::value() {
        sum += vector.extract(i);
    }
    sum
}

/// Steps whose sums over the channels are made together.
pub(super) fn summed_steps(state: usize) -> usize {
    (16 / state).max(1)
}

/// The gradients along one route. A cube is a block of channels of one group over one chunk. It walks the chunk once forwards, keeping
/// the states in shared memory, and once backwards.
///
/// - `states`, `adjoints`: what [`carry`] left: the state in front of a chunk, and the gradient of the state behind it
/// - `dx`: sums over routes; `draw`: the gradients of the step sizes before softplus of this route
/// - `dbc`: `[image, block, pixel, 2 * state]`, sums over the block's channels
/// - `dparameters`: `[image, chunk, state + 2, channel]`: of `A` (or its logarithm), `D` and the bias of the step size
#[cube(launch_unchecked)]
pub(super) fn gradients<F: Float, V: Size, P: Size>(
    grad: &[Vector<F, V>],
    x: &[Vector<F, V>],
    given: &[Vector<F, V>],
    projections: &[Vector<F, P>],
    dt_weight: &[f32],
    dt_bias: &[f32],
    a: &[f32],
    d: &[f32],
    states: &[Vector<f32, V>],
    adjoints: &[Vector<f32, V>],
    dx: &mut [Vector<f32, V>],
    draw: &mut [Vector<f32, V>],
    dbc: &mut [f32],
    dparameters: &mut [Vector<f32, V>],
    sizes: Sizes,
    given_pitch: usize,
    grad_pitch: usize,
    blocks: usize,
    cubes: usize,
    route: usize,
    #[comptime] chunk: usize,
    #[comptime] form: Form,
    #[comptime] reversed: bool,
    #[comptime] begun: bool,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let lane = UNIT_POS as usize;
    let state = form.state;
    let steps = comptime!(summed_steps(form.state));
    // One more than the lanes, so that the lanes that add up rows meet in different banks.
    let row = comptime!(LANES + 1);
    let mut kept = Shared::<[Vector<f32, V>]>::new_slice(comptime!(chunk * form.state * LANES));
    let mut sums = Shared::<[f32]>::new_slice(comptime!(steps * 2 * form.state * row));

    let (block, rest) = (CUBE_POS % blocks, CUBE_POS / blocks);
    let in_group = blocks / (sizes.channels / sizes.per_group);
    let own = block % in_group * LANES + lane;
    // Lanes without a channel go along with the last and count for nothing.
    let counts = own < sizes.per_group;
    let weight = Vector::<f32, V>::new(if counts { 1.0_f32 } else { 0.0_f32 });
    let begin = rest % sizes.chunks * sizes.chunk;
    let place = Place {
        channel: block / in_group * sizes.per_group + min(own, sizes.per_group - 1),
        chunk: rest % sizes.chunks,
        image: rest / sizes.chunks,
        begin,
        end: min(begin + sizes.chunk, sizes.height * sizes.width),
    };
    let count = place.end - place.begin;
    let pixels = sizes.height * sizes.width;
    let channel = parameters::<V>(dt_weight, dt_bias, a, route * sizes.channels + place.channel, form);
    let skip = gather::<V>(d, (route * sizes.channels + place.channel) * V::value(), 1);
    let group = route + place.channel / sizes.per_group;
    let first_field = group * comptime!(form.fields()) / P::value();
    let zero = Vector::<f32, V>::new(0.0_f32);

    let mut h = Array::<Vector<f32, V>>::new(state);
    let mut back = Array::<Vector<f32, V>>::new(state);
    let mut da = Array::<Vector<f32, V>>::new(state);
    #[unroll]
    for n in 0..state {
        h[n] = states[left_at(route, &place, n, &sizes, state)];
        back[n] = adjoints[left_at(route, &place, n, &sizes, state)] * weight;
        da[n] = zero;
    }
    let mut walk = walk_from(place.begin, place.end, 0, &sizes, form, reversed);
    for step in 0..count {
        let pixel = place.image * pixels + walk.pixel;
        let fields = fields_of::<F, P>(projections, pixel * sizes.fields_pitch + first_field, form);
        let mut own = zero;
        if comptime!(form.rank.is_none()) {
            own = Vector::cast_from(given[pixel * given_pitch + place.channel]);
        }
        let delta = step_size::<V>(raw_step::<V>(&fields, &channel, own, form), form);
        let input = delta * Vector::cast_from(x[pixel * sizes.pitch + place.channel]);
        #[unroll]
        for n in 0..state {
            h[n] = fma((delta * channel.a[n]).exp(), h[n], input * Vector::new(fields[comptime!(form.first_b() + n)]));
            kept[(step * state + n) * LANES + lane] = h[n];
        }
        advance(&mut walk, &sizes, form, reversed);
    }

    let mut dd = zero;
    let mut dbias = zero;
    let mut walk = walk_from(place.begin, place.end, count - 1, &sizes, form, reversed);
    for round in 0..count.div_ceil(steps) {
        for inner in 0..steps {
            if round * steps + inner < count {
                let step = count - 1 - round * steps - inner;
                let pixel = place.image * pixels + walk.pixel;
                let fields = fields_of::<F, P>(projections, pixel * sizes.fields_pitch + first_field, form);
                let mut own = zero;
                if comptime!(form.rank.is_none()) {
                    own = Vector::cast_from(given[pixel * given_pitch + place.channel]);
                }
                let raw = raw_step::<V>(&fields, &channel, own, form);
                let delta = step_size::<V>(raw, form);
                let u = Vector::<f32, V>::cast_from(x[pixel * sizes.pitch + place.channel]);
                let g = Vector::<f32, V>::cast_from(grad[pixel * grad_pitch + place.channel]) * weight;
                let mut du = skip * g;
                let mut ddelta = zero;
                #[unroll]
                for n in 0..state {
                    let (b, c) = (fields[comptime!(form.first_b() + n)], fields[comptime!(form.first_c() + n)]);
                    let decay = (delta * channel.a[n]).exp();
                    // The gradient of the state behind this step.
                    let dh = fma(g, Vector::new(c), back[n]);
                    let now = kept[(step * state + n) * LANES + lane];
                    let before = if step > 0 {
                        kept[((step - 1) * state + n) * LANES + lane]
                    } else {
                        states[left_at(route, &place, n, &sizes, state)]
                    };
                    let faded = dh * decay * before;
                    da[n] = fma(faded, delta, da[n]);
                    ddelta = fma(faded, channel.a[n], fma(dh * u, Vector::new(b), ddelta));
                    du = fma(dh * delta, Vector::new(b), du);
                    back[n] = dh * decay;
                    sums[(inner * comptime!(2 * form.state) + n) * row + lane] = over_vector::<V>(dh * delta * u);
                    sums[(inner * comptime!(2 * form.state) + comptime!(form.state + n)) * row + lane] = over_vector::<V>(g * now);
                }
                let dr = if comptime!(form.softplus) { ddelta * sigmoid::<V>(raw) } else { ddelta };
                dd = fma(g, u, dd);
                dbias += dr;
                if counts {
                    let at = pixel * sizes.channels + place.channel;
                    draw[at] = dr;
                    if comptime!(begun) {
                        du += dx[at];
                    }
                    dx[at] = du;
                }
                advance(&mut walk, &sizes, form, comptime!(!reversed));
            }
        }
        sync_cube();
        let mut entry = lane;
        while entry < comptime!(steps * 2 * form.state) {
            let (inner, field) = (entry / comptime!(2 * form.state), entry % comptime!(2 * form.state));
            if round * steps + inner < count {
                let mut sum = 0.0_f32;
                for other in 0..LANES {
                    sum += sums[entry * row + other];
                }
                let step = count - 1 - round * steps - inner;
                let position = if comptime!(reversed) { place.end - 1 - step } else { place.begin + step };
                let pixel = pixel_at(position, &sizes, form);
                dbc[((place.image * blocks + block) * pixels + pixel) * comptime!(2 * form.state) + field] = sum;
            }
            entry += LANES;
        }
        sync_cube();
    }
    if counts {
        let first = (place.image * sizes.chunks + place.chunk) * comptime!(form.state + 2);
        #[unroll]
        for n in 0..state {
            let scale = if comptime!(form.logarithm) { channel.a[n] } else { Vector::new(1.0_f32) };
            dparameters[(first + n) * sizes.channels + place.channel] = da[n] * scale;
        }
        dparameters[(first + state) * sizes.channels + place.channel] = dd;
        dparameters[(first + comptime!(form.state + 1)) * sizes.channels + place.channel] = dbias;
    }
}
