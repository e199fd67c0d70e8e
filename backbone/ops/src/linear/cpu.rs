//! The projection as one matrix product, two of them in a chain, and the three gradients.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;

use super::{FusedLinearOps, LinearGradOps, LinearGrads, LinearOps};
use crate::flex::{contiguous, dims, tensor, values};
use crate::matmul::{Epilogue, Factor, Pointwise, Sizes, chain, product};

impl LinearOps for Flex {
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, biased: bool) -> FloatTensor<Self> {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let ([rows, inner], [out, _]) = (dims::<2>(&x), dims::<2>(&weight));
        let (x, weight) = (Factor::rows(values(&x), inner), Factor::columns(values(&weight), inner));
        let y = product(x, weight, Epilogue::bias(biased.then(|| values(&bias))), Sizes { rows, columns: out, inner });
        tensor(y, [rows, out])
    }
}

impl FusedLinearOps for Flex {
    fn project_fused(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        parts: [bool; 3],
        activation: Pointwise,
    ) -> FloatTensor<Self> {
        let [x, weight, scale, bias, residual] = [x, weight, scale, bias, residual].map(contiguous);
        let ([rows, inner], [out, _]) = (dims::<2>(&x), dims::<2>(&weight));
        let epilogue = Epilogue {
            scale: parts[0].then(|| values(&scale)),
            bias: parts[1].then(|| values(&bias)),
            residual: parts[2].then(|| values(&residual)),
            activation,
        };
        let (x, weight) = (Factor::rows(values(&x), inner), Factor::columns(values(&weight), inner));
        tensor(product(x, weight, epilogue, Sizes { rows, columns: out, inner }), [rows, out])
    }

    fn project_twice(
        x: FloatTensor<Self>,
        first: FloatTensor<Self>,
        first_bias: FloatTensor<Self>,
        second: FloatTensor<Self>,
        second_bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        parts: [bool; 3],
        activation: Pointwise,
    ) -> FloatTensor<Self> {
        let [x, first, first_bias] = [x, first, first_bias].map(contiguous);
        let [second, second_bias, residual] = [second, second_bias, residual].map(contiguous);
        let ([rows, inner], [hidden, _], [out, _]) = (dims::<2>(&x), dims::<2>(&first), dims::<2>(&second));
        let between = Epilogue { activation, ..Epilogue::bias(parts[0].then(|| values(&first_bias))) };
        let residual = parts[2].then(|| values(&residual));
        let behind = Epilogue { residual, ..Epilogue::bias(parts[1].then(|| values(&second_bias))) };
        let first = (Factor::columns(values(&first), inner), between, Sizes { rows, columns: hidden, inner });
        let second = (Factor::columns(values(&second), hidden), behind, Sizes { rows, columns: out, inner: hidden });
        tensor(chain(Factor::rows(values(&x), inner), [first, second]), [rows, out])
    }
}

impl LinearGradOps for Flex {
    fn project_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        biased: bool,
    ) -> LinearGrads<Self> {
        let [grad, x, weight] = [grad, x, weight].map(contiguous);
        let ([rows, inner], [out, _]) = (dims::<2>(&x), dims::<2>(&weight));
        let grads = values(&grad);
        let sizes = Sizes { rows, columns: inner, inner: out };
        let dx = product(Factor::rows(grads, out), Factor::rows(values(&weight), inner), Epilogue::default(), sizes);
        let sizes = Sizes { rows: out, columns: inner, inner: rows };
        let dweight = product(Factor::columns(grads, out), Factor::rows(values(&x), inner), Epilogue::default(), sizes);
        let dbias = if biased {
            let mut sums = vec![0.0; out];
            for row in grads.chunks_exact(out) {
                sums.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
            }
            sums
        } else {
            vec![0.0; values(&contiguous(bias.clone())).len()]
        };
        LinearGrads {
            x: tensor(dx, [rows, inner]),
            weight: tensor(dweight, [out, inner]),
            bias: tensor(dbias, bias.layout().shape().clone()),
        }
    }
}
