//! The backward pass of the scan on GPUs.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::kernels::{
    Form, Place, Sizes, advance, boundary_at, fields_of, gather, group_of, parameters, pixel_at, raw_step, step_size, walk_from,
};
use crate::cube::math::{over_vector, sigmoid};

/// Units of a cube, one for each channel of a block.
pub(super) const LANES: usize = 32;

/// Number of steps whose sums over the channels are computed together.
fn summed_steps(state: usize) -> usize {
    (16 / state).max(1)
}

/// The gradients along one route. A cube processes a block of up to [`LANES`] channels of one group over one chunk. It runs the chunk
/// forwards, keeping the states in shared memory, and then backwards.
///
/// - `states`, `adjoints`: the state before every chunk and the gradient of the state after it, from `carry`
/// - `dx`: gradient of the input, summed over routes; added to if `begun`
/// - `draw`: gradient of this route's step sizes before softplus
/// - `dbc`: gradients of `B` and `C`, `[image, block, pixel, 2 * state]`, each summed over the channels of the block
/// - `dparameters`: `[image, chunk, state + 2, channel]`: gradients of `A` (or of `log(-A)`), of `D` and of the step size's bias
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
    // One more than the lanes, so that lanes which sum different rows access different banks.
    let row = comptime!(LANES + 1);
    let mut kept = Shared::<[Vector<f32, V>]>::new_slice(comptime!(chunk * form.state * LANES));
    let mut sums = Shared::<[f32]>::new_slice(comptime!(steps * 2 * form.state * row));

    let (block, rest) = (CUBE_POS % blocks, CUBE_POS / blocks);
    let in_group = blocks / (sizes.channels / sizes.per_group);
    let own = block % in_group * LANES + lane;
    // Surplus lanes repeat the last channel; their results are discarded.
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
    let group = group_of(route, place.channel, &sizes);
    let first_field = group * comptime!(form.fields()) / P::value();
    let zero = Vector::<f32, V>::new(0.0_f32);

    let mut h = Array::<Vector<f32, V>>::new(state);
    let mut back = Array::<Vector<f32, V>>::new(state);
    let mut da = Array::<Vector<f32, V>>::new(state);
    #[unroll]
    for n in 0..state {
        h[n] = states[boundary_at(route, &place, n, &sizes, state)];
        back[n] = adjoints[boundary_at(route, &place, n, &sizes, state)] * weight;
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
                    // The gradient of the state after this step.
                    let dh = fma(g, Vector::new(c), back[n]);
                    let now = kept[(step * state + n) * LANES + lane];
                    let before = if step > 0 {
                        kept[((step - 1) * state + n) * LANES + lane]
                    } else {
                        states[boundary_at(route, &place, n, &sizes, state)]
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
