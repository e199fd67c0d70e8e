//! The projection on the CPU: one matrix product, two in sequence for the MLP, and one for each gradient.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;

use super::{FusedLinearOps, LinearGradOps, LinearGrads, LinearOps};
use crate::cpu::gemm::{Matrix, Sizes, gemm, gemm_chain};
use crate::cpu::{contiguous, dims, tensor, values};
use crate::epilogue::{Epilogue, EpilogueParts};

impl LinearOps for Flex {
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, biased: bool) -> FloatTensor<Self> {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let ([rows, inner], [out, _]) = (dims::<2>(&x), dims::<2>(&weight));
        let (x, weight) = (Matrix::rows(values(&x), inner), Matrix::columns(values(&weight), inner));
        let y = gemm(x, weight, Epilogue::bias(biased.then(|| values(&bias))), Sizes { rows, columns: out, inner });
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
        parts: EpilogueParts,
    ) -> FloatTensor<Self> {
        let [x, weight, scale, bias, residual] = [x, weight, scale, bias, residual].map(contiguous);
        let ([rows, inner], [out, _]) = (dims::<2>(&x), dims::<2>(&weight));
        let epilogue = parts.select([&scale, &bias, &residual].map(values));
        let (x, weight) = (Matrix::rows(values(&x), inner), Matrix::columns(values(&weight), inner));
        tensor(gemm(x, weight, epilogue, Sizes { rows, columns: out, inner }), [rows, out])
    }

    fn project_twice(
        x: FloatTensor<Self>,
        first: FloatTensor<Self>,
        first_bias: FloatTensor<Self>,
        second: FloatTensor<Self>,
        second_bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        first_parts: EpilogueParts,
        second_parts: EpilogueParts,
    ) -> FloatTensor<Self> {
        let [x, first, first_bias] = [x, first, first_bias].map(contiguous);
        let [second, second_bias, residual] = [second, second_bias, residual].map(contiguous);
        let ([rows, inner], [hidden, _], [out, _]) = (dims::<2>(&x), dims::<2>(&first), dims::<2>(&second));
        // An MLP has no scales, so the biases stand in for them as placeholders.
        let first_epilogue = first_parts.select([&first_bias, &first_bias, &residual].map(values));
        let second_epilogue = second_parts.select([&second_bias, &second_bias, &residual].map(values));
        let first = (Matrix::columns(values(&first), inner), first_epilogue, Sizes { rows, columns: hidden, inner });
        let second = (Matrix::columns(values(&second), hidden), second_epilogue, Sizes { rows, columns: out, inner: hidden });
        tensor(gemm_chain(Matrix::rows(values(&x), inner), [first, second]), [rows, out])
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
        let dx = gemm(Matrix::rows(grads, out), Matrix::rows(values(&weight), inner), Epilogue::default(), sizes);
        let sizes = Sizes { rows: out, columns: inner, inner: rows };
        let dweight = gemm(Matrix::columns(grads, out), Matrix::rows(values(&x), inner), Epilogue::default(), sizes);
        let dbias = if biased {
            let mut sums = vec![0.0; out];
            for row in grads.chunks_exact(out) {
                sums.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
            }
            sums
        } else {
            vec![0.0; bias.layout().shape().num_elements()]
        };
        LinearGrads {
            x: tensor(dx, [rows, inner]),
            weight: tensor(dweight, [out, inner]),
            bias: tensor(dbias, bias.layout().shape().clone()),
        }
    }
}
