//! The one-dimensional scan on the CPU: a task processes one sequence and one group of channels, [`LANES`] channels at a time.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::recurrence::{CHUNK, Chunk, ChunkGrad, ZERO};
use super::{ScanGradOps, ScanGrads, ScanOps};
use crate::cpu::simd::{Kernel, LANES, Lanes, dispatch, fma};
use crate::cpu::{contiguous, dims, tensor, values};

impl ScanOps for Flex {
    fn scan(
        u: FloatTensor<Self>,
        delta: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        delta_bias: FloatTensor<Self>,
        delta_softplus: bool,
    ) -> FloatTensor<Self> {
        let [u, delta, a, b, c, d, delta_bias] = [u, delta, a, b, c, d, delta_bias].map(contiguous);
        let shape = Shape1d::new(dims(&u), dims(&b));
        let inputs = Inputs::new(shape, delta_softplus, [&u, &delta, &a, &b, &c, &d, &delta_bias].map(values));
        let mut y = vec![0.0; inputs.u.len()];
        // The channels of a group are contiguous.
        y.par_chunks_mut(shape.channels * shape.length).enumerate().for_each(|(task, y)| dispatch(Forward { inputs: &inputs, task, y }));
        tensor(y, u.layout().shape().clone())
    }
}

impl ScanGradOps for Flex {
    fn scan_backward(
        grad: FloatTensor<Self>,
        u: FloatTensor<Self>,
        delta: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        delta_bias: FloatTensor<Self>,
        delta_softplus: bool,
    ) -> ScanGrads<Self> {
        let [grad, u, delta, a, b, c, d, delta_bias] = [grad, u, delta, a, b, c, d, delta_bias].map(contiguous);
        let shape = Shape1d::new(dims(&u), dims(&b));
        let inputs = Inputs::new(shape, delta_softplus, [&u, &delta, &a, &b, &c, &d, &delta_bias].map(values));
        let Shape1d { batch, channels, state, length, .. } = shape;
        let (mut du, mut ddelta) = (vec![0.0; inputs.u.len()], vec![0.0; inputs.u.len()]);
        let (mut db, mut dc) = (vec![0.0; inputs.b.len()], vec![0.0; inputs.b.len()]);
        // For each sequence and channel the gradients of A, then of D and of the bias.
        let parameters = state + 2;
        let rows = shape.rows();
        let mut partial = vec![0.0; batch * rows * parameters];
        du.par_chunks_mut(channels * length)
            .zip(ddelta.par_chunks_mut(channels * length))
            .zip(db.par_chunks_mut(state * length).zip(dc.par_chunks_mut(state * length)))
            .zip(partial.par_chunks_mut(channels * parameters))
            .enumerate()
            .for_each(|(task, (((du, ddelta), (db, dc)), parameters))| {
                dispatch(Backward { inputs: &inputs, grad: values(&grad), task, du, ddelta, db, dc, parameters });
            });
        let (mut da, mut dd, mut dbias) = (vec![0.0; rows * state], vec![0.0; rows], vec![0.0; rows]);
        for entry in partial.chunks_exact(rows * parameters) {
            for (row, values) in entry.chunks_exact(parameters).enumerate() {
                da[row * state..][..state].iter_mut().zip(values).for_each(|(sum, part)| *sum += part);
                dd[row] += values[state];
                dbias[row] += values[state + 1];
            }
        }
        let like = |values: Vec<f32>, t: &FloatTensor<Self>| tensor(values, t.layout().shape().clone());
        ScanGrads {
            u: like(du, &u),
            delta: like(ddelta, &u),
            a: like(da, &a),
            b: like(db, &b),
            c: like(dc, &b),
            d: like(dd, &d),
            delta_bias: like(dbias, &delta_bias),
        }
    }
}

/// Sizes of a scan. A row is one of the `groups * channels` channels.
#[derive(Clone, Copy)]
struct Shape1d {
    batch: usize,
    groups: usize,
    /// Channels of a group.
    channels: usize,
    state: usize,
    length: usize,
}

impl Shape1d {
    fn new([batch, rows, length]: [usize; 3], [_, groups, state, _]: [usize; 4]) -> Self {
        Self { batch, groups, channels: rows / groups, state, length }
    }

    fn rows(&self) -> usize {
        self.groups * self.channels
    }
}

struct Inputs<'a> {
    shape: Shape1d,
    softplus: bool,
    u: &'a [f32],
    delta: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
    c: &'a [f32],
    d: &'a [f32],
    delta_bias: &'a [f32],
}

/// Up to [`LANES`] channels of one group.
#[derive(Clone, Copy)]
struct Block {
    /// `sequence * groups + group`.
    task: usize,
    /// First channel, counted inside the group.
    first: usize,
    count: usize,
}

impl<'a> Inputs<'a> {
    fn new(shape: Shape1d, softplus: bool, [u, delta, a, b, c, d, delta_bias]: [&'a [f32]; 7]) -> Self {
        Self { shape, softplus, u, delta, a, b, c, d, delta_bias }
    }

    /// The blocks of a task.
    fn blocks(&self, task: usize) -> impl Iterator<Item = Block> + use<> {
        let channels = self.shape.channels;
        (0..channels).step_by(LANES).map(move |first| Block { task, first, count: LANES.min(channels - first) })
    }

    /// Reads `source[row * stride + offset]` for the row of every lane; 0 for surplus lanes.
    fn rows(&self, block: Block, source: &[f32], stride: usize, offset: usize) -> Lanes {
        let row = block.task % self.shape.groups * self.shape.channels + block.first;
        std::array::from_fn(|lane| if lane < block.count { source[(row + lane) * stride + offset] } else { 0.0 })
    }

    /// `A` of a block, `[state]`.
    fn a(&self, block: Block) -> Vec<Lanes> {
        (0..self.shape.state).map(|n| self.rows(block, self.a, self.shape.state, n)).collect()
    }

    /// Transposes a chunk of the block's rows of `source` to one vector of lanes for each step.
    #[inline(always)]
    fn gather(&self, target: &mut [Lanes], source: &[f32], block: Block, start: usize, len: usize) {
        let Shape1d { channels, length, .. } = self.shape;
        target[..len].fill(ZERO);
        for lane in 0..block.count {
            let row = &source[(block.task * channels + block.first + lane) * length + start..][..len];
            for (target, value) in target.iter_mut().zip(row) {
                target[lane] = *value;
            }
        }
    }

    /// Fills the chunk that starts at step `start`.
    #[inline(always)]
    fn load<const FMA: bool>(&self, chunk: &mut Chunk, block: Block, bias: &Lanes, start: usize) {
        let Shape1d { state, length, .. } = self.shape;
        chunk.len = CHUNK.min(length - start);
        self.gather(&mut chunk.x, self.u, block, start, chunk.len);
        self.gather(&mut chunk.raw, self.delta, block, start, chunk.len);
        for raw in &mut chunk.raw[..chunk.len] {
            for lane in 0..LANES {
                raw[lane] += bias[lane];
            }
        }
        for n in 0..state {
            let from = (block.task * state + n) * length + start;
            for t in 0..chunk.len {
                chunk.b[t * state + n] = self.b[from + t];
                chunk.c[t * state + n] = self.c[from + t];
            }
        }
        chunk.activate::<FMA>(self.softplus);
    }
}

/// Adds `scale * extra` to the lanes and transposes the sums into a chunk of the block's rows.
#[inline(always)]
fn scatter<const FMA: bool>(rows: &mut [f32], lanes: &[Lanes], scale: &Lanes, extra: &[Lanes], block: Block, start: usize, length: usize) {
    for lane in 0..block.count {
        let row = &mut rows[(block.first + lane) * length + start..][..lanes.len()];
        for ((target, lanes), extra) in row.iter_mut().zip(lanes).zip(extra) {
            *target = fma::<FMA>(scale[lane], extra[lane], lanes[lane]);
        }
    }
}

struct Forward<'a> {
    inputs: &'a Inputs<'a>,
    task: usize,
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { inputs, task, y } = self;
        let Shape1d { state, length, .. } = inputs.shape;
        let mut chunk = Chunk::new(state);
        for block in inputs.blocks(task) {
            let (a, d, bias) = (inputs.a(block), inputs.rows(block, inputs.d, 1, 0), inputs.rows(block, inputs.delta_bias, 1, 0));
            let mut h = vec![ZERO; state];
            for start in (0..length).step_by(CHUNK) {
                inputs.load::<FMA>(&mut chunk, block, &bias, start);
                chunk.forward::<FMA, true>(&a, &mut h);
                let len = chunk.len;
                scatter::<FMA>(y, &chunk.y[..len], &d, &chunk.x[..len], block, start, length);
            }
        }
    }
}

struct Backward<'a> {
    inputs: &'a Inputs<'a>,
    grad: &'a [f32],
    task: usize,
    du: &'a mut [f32],
    ddelta: &'a mut [f32],
    db: &'a mut [f32],
    dc: &'a mut [f32],
    /// `[channel, state + 2]`
    parameters: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { inputs, grad, task, du, ddelta, db, dc, parameters } = self;
        let Shape1d { state, length, .. } = inputs.shape;
        let mut chunk = Chunk::new(state);
        let mut backward = ChunkGrad::new(state);
        let chunks = length.div_ceil(CHUNK);
        let mut states = vec![ZERO; chunks * state];
        for block in inputs.blocks(task) {
            let (a, d, bias) = (inputs.a(block), inputs.rows(block, inputs.d, 1, 0), inputs.rows(block, inputs.delta_bias, 1, 0));
            let mut h = vec![ZERO; state];
            for index in 0..chunks {
                states[index * state..][..state].copy_from_slice(&h);
                if index + 1 < chunks {
                    inputs.load::<FMA>(&mut chunk, block, &bias, index * CHUNK);
                    chunk.forward::<FMA, false>(&a, &mut h);
                }
            }
            let (mut carry, mut da) = (vec![ZERO; state], vec![ZERO; state]);
            let (mut dd, mut dbias) = (ZERO, ZERO);
            for index in (0..chunks).rev() {
                let start = index * CHUNK;
                inputs.load::<FMA>(&mut chunk, block, &bias, start);
                let len = chunk.len;
                inputs.gather(&mut backward.grad, grad, block, start, len);
                backward.backward::<FMA>(&chunk, inputs.softplus, &a, &states[index * state..][..state], &mut carry, &mut da);
                for t in 0..len {
                    for lane in 0..LANES {
                        dd[lane] = fma::<FMA>(backward.grad[t][lane], chunk.x[t][lane], dd[lane]);
                        dbias[lane] += backward.draw[t][lane];
                    }
                    for n in 0..state {
                        db[n * length + start + t] += backward.db[t * state + n];
                        dc[n * length + start + t] += backward.dc[t * state + n];
                    }
                }
                scatter::<FMA>(du, &backward.dx[..len], &d, &backward.grad[..len], block, start, length);
                scatter::<FMA>(ddelta, &backward.draw[..len], &ZERO, &backward.grad[..len], block, start, length);
            }
            for lane in 0..block.count {
                let target = &mut parameters[(block.first + lane) * (state + 2)..][..state + 2];
                for n in 0..state {
                    target[n] = da[n][lane];
                }
                target[state] = dd[lane];
                target[state + 1] = dbias[lane];
            }
        }
    }
}
