//! Activations on the CPU: vectorised, and parallel over blocks of elements.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::{Activation, ActivationGradOps, ActivationGrads, ActivationOps};
use crate::cpu::simd::{Kernel, dispatch, fma};
use crate::cpu::{contiguous, map_blocks, math, tensor, values};

/// Elements of a task: enough to pay for the task, few enough to stay in the first-level cache.
const BLOCK: usize = 4096;

impl ActivationOps for Flex {
    fn activation(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self> {
        map_blocks(x, BLOCK, |x| dispatch(Forward { x, kind }))
    }
}

impl ActivationGradOps for Flex {
    fn activation_backward(grad: FloatTensor<Self>, x: FloatTensor<Self>, kind: Activation) -> ActivationGrads<Self> {
        let (grad, x) = (contiguous(grad), contiguous(x));
        let mut output = vec![0.0; values(&x).len()];
        output
            .par_chunks_mut(BLOCK)
            .zip(values(&x).par_chunks(BLOCK).zip(values(&grad).par_chunks(BLOCK)))
            .for_each(|(output, (x, grad))| dispatch(Gradient { output, x, grad, kind }));
        ActivationGrads { x: tensor(output, x.layout().shape().clone()) }
    }
}

struct Forward<'a> {
    x: &'a mut [f32],
    kind: Activation,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        match self.kind {
            Activation::Gelu => map(self.x, math::gelu::<FMA>),
            Activation::Silu => map(self.x, math::silu::<FMA>),
            Activation::Softplus => map(self.x, math::softplus::<FMA>),
        }
    }
}

#[inline(always)]
fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

struct Gradient<'a> {
    output: &'a mut [f32],
    x: &'a [f32],
    grad: &'a [f32],
    kind: Activation,
}

impl Kernel for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self { output, x, grad, kind } = self;
        match kind {
            Activation::Gelu => map_grad(output, x, grad, |x| {
                /// `1 / sqrt(2 pi)`, the maximum of the standard normal density.
                const DENSITY: f32 = 0.398_942_3;
                let cumulative = 0.5 * (1.0 + math::erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2));
                fma::<FMA>(x * DENSITY, math::exp::<FMA>(-0.5 * x * x), cumulative)
            }),
            Activation::Silu => map_grad(output, x, grad, |x| {
                let s = math::sigmoid::<FMA>(x);
                fma::<FMA>(x * s, 1.0 - s, s)
            }),
            Activation::Softplus => map_grad(output, x, grad, math::sigmoid::<FMA>),
        }
    }
}

#[inline(always)]
fn map_grad(output: &mut [f32], x: &[f32], grad: &[f32], derivative: impl Fn(f32) -> f32) {
    for ((output, x), grad) in output.iter_mut().zip(x).zip(grad) {
        *output = grad * derivative(*x);
    }
}
