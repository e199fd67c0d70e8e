//! The recurrence over one chunk of a sequence on the CPU, for [`LANES`] channels at once, forward and backward.
//!
//! A chunk is short enough for its buffers to stay in the cache. The state `h` is passed from chunk to chunk. The backward pass keeps only
//! the states between chunks and recomputes those inside a chunk.

use crate::cpu::math::{exp, sigmoid, softplus};
use crate::cpu::simd::{LANES, Lanes, fma, lane_sum};

/// Most steps of a chunk.
pub(crate) const CHUNK: usize = 64;

/// 0 in every lane.
pub(crate) const ZERO: Lanes = [0.0; LANES];

/// Buffers of one chunk, reused for all chunks of a task. They are `[step]` unless noted otherwise.
pub(crate) struct Chunk {
    /// Steps in use, up to [`CHUNK`].
    pub(crate) len: usize,
    /// Input `u`.
    pub(crate) x: Vec<Lanes>,
    /// Step size before softplus, with its bias.
    pub(crate) raw: Vec<Lanes>,
    /// Step size.
    pub(crate) delta: Vec<Lanes>,
    /// `B`, `[step * state + n]`.
    pub(crate) b: Vec<f32>,
    /// `C`, `[step * state + n]`.
    pub(crate) c: Vec<f32>,
    /// Output of the forward pass, without the skip term.
    pub(crate) y: Vec<Lanes>,
}

impl Chunk {
    pub(crate) fn new(state: usize) -> Self {
        let lanes = || vec![ZERO; CHUNK];
        Self { len: 0, x: lanes(), raw: lanes(), delta: lanes(), b: vec![0.0; CHUNK * state], c: vec![0.0; CHUNK * state], y: lanes() }
    }

    /// Computes the step sizes from the raw values.
    #[inline(always)]
    pub(crate) fn activate<const FMA: bool>(&mut self, with_softplus: bool) {
        let len = self.len;
        if with_softplus {
            for (delta, raw) in self.delta[..len].iter_mut().zip(&self.raw[..len]) {
                for lane in 0..LANES {
                    delta[lane] = softplus::<FMA>(raw[lane]);
                }
            }
        } else {
            self.delta[..len].copy_from_slice(&self.raw[..len]);
        }
    }

    /// Runs the recurrence. `a` is `A`, `[state]`; `h` is the state before the chunk and becomes the state after it. With `OUTPUT` the sums
    /// over the states are written to `y`.
    #[inline(always)]
    pub(crate) fn forward<const FMA: bool, const OUTPUT: bool>(&mut self, a: &[Lanes], h: &mut [Lanes]) {
        let state = a.len();
        if OUTPUT {
            self.y[..self.len].fill(ZERO);
        }
        for n in 0..state {
            let decay = a[n];
            let mut s = h[n];
            let steps = self.x[..self.len].iter().zip(&self.delta[..self.len]).zip(self.y[..self.len].iter_mut());
            for (t, ((x, delta), y)) in steps.enumerate() {
                let b = self.b[t * state + n];
                for lane in 0..LANES {
                    let e = exp::<FMA>(delta[lane] * decay[lane]);
                    s[lane] = fma::<FMA>(e, s[lane], delta[lane] * x[lane] * b);
                }
                if OUTPUT {
                    let c = self.c[t * state + n];
                    for lane in 0..LANES {
                        y[lane] = fma::<FMA>(c, s[lane], y[lane]);
                    }
                }
            }
            h[n] = s;
        }
    }
}

/// Buffers and results of the backward pass over one chunk.
pub(crate) struct ChunkGrad {
    /// Gradient of the output, `[step]`; 0 in surplus lanes.
    pub(crate) grad: Vec<Lanes>,
    /// Gradient of the input, without the skip term.
    pub(crate) dx: Vec<Lanes>,
    /// Gradient of the raw step size.
    pub(crate) draw: Vec<Lanes>,
    /// Gradient of `B` summed over the lanes, `[step * state + n]`.
    pub(crate) db: Vec<f32>,
    /// Gradient of `C` summed over the lanes.
    pub(crate) dc: Vec<f32>,
    /// `exp(delta A)` of one state.
    decay: Vec<Lanes>,
    /// `h_{t-1}` of one state.
    before: Vec<Lanes>,
}

impl ChunkGrad {
    pub(crate) fn new(state: usize) -> Self {
        let lanes = || vec![ZERO; CHUNK];
        Self {
            grad: lanes(),
            dx: lanes(),
            draw: lanes(),
            db: vec![0.0; CHUNK * state],
            dc: vec![0.0; CHUNK * state],
            decay: lanes(),
            before: lanes(),
        }
    }

    /// Runs the chunk backwards. `h` is the state before the chunk. `carry` is the gradient of the state after the chunk and becomes that
    /// of the state before it. The gradient of `A` is added to `da`.
    #[inline(always)]
    pub(crate) fn backward<const FMA: bool>(
        &mut self,
        chunk: &Chunk,
        with_softplus: bool,
        a: &[Lanes],
        h: &[Lanes],
        carry: &mut [Lanes],
        da: &mut [Lanes],
    ) {
        let (len, state) = (chunk.len, a.len());
        self.dx[..len].fill(ZERO);
        self.draw[..len].fill(ZERO);
        for n in 0..state {
            let a_n = a[n];
            let mut s = h[n];
            for t in 0..len {
                let (x, delta, b) = (&chunk.x[t], &chunk.delta[t], chunk.b[t * state + n]);
                let mut product = ZERO;
                let (e, before) = (&mut self.decay[t], &mut self.before[t]);
                *before = s;
                for lane in 0..LANES {
                    e[lane] = exp::<FMA>(delta[lane] * a_n[lane]);
                    s[lane] = fma::<FMA>(e[lane], s[lane], delta[lane] * x[lane] * b);
                    product[lane] = s[lane] * self.grad[t][lane];
                }
                self.dc[t * state + n] = lane_sum(&product);
            }
            let mut dh = carry[n];
            let mut da_n = da[n];
            for t in (0..len).rev() {
                let (x, delta, b, c) = (&chunk.x[t], &chunk.delta[t], chunk.b[t * state + n], chunk.c[t * state + n]);
                let (e, before, grad) = (&self.decay[t], &self.before[t], &self.grad[t]);
                let (dx, draw) = (&mut self.dx[t], &mut self.draw[t]);
                let mut product = ZERO;
                for lane in 0..LANES {
                    let g = fma::<FMA>(c, grad[lane], dh[lane]);
                    let through = g * e[lane];
                    let past = through * before[lane];
                    product[lane] = g * delta[lane] * x[lane];
                    dx[lane] = fma::<FMA>(g * delta[lane], b, dx[lane]);
                    draw[lane] += fma::<FMA>(past, a_n[lane], g * b * x[lane]);
                    da_n[lane] = fma::<FMA>(past, delta[lane], da_n[lane]);
                    dh[lane] = through;
                }
                self.db[t * state + n] = lane_sum(&product);
            }
            carry[n] = dh;
            da[n] = da_n;
        }
        if with_softplus {
            for (draw, raw) in self.draw[..len].iter_mut().zip(&chunk.raw[..len]) {
                for lane in 0..LANES {
                    draw[lane] *= sigmoid::<FMA>(raw[lane]);
                }
            }
        }
    }
}
