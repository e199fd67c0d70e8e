//! The projection on GPUs: Burn's matrix products, each followed by one pass for the epilogue.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::{FusedLinearOps, LinearGradOps, LinearGrads, LinearOps};
use crate::cube::matmul::{matmul, matmul_split_k};
use crate::cube::{cast, empty};
use crate::epilogue::{Epilogue, EpilogueParts};

/// `x weight^T` in the type of `x`.
fn project(x: CubeTensor, weight: CubeTensor) -> CubeTensor {
    let dtype = x.dtype;
    matmul(x, CubeBackend::float_transpose(cast(weight, dtype)), dtype)
}

impl LinearOps for CubeBackend {
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, biased: bool) -> FloatTensor<Self> {
        Epilogue::bias(biased.then_some(bias)).apply(project(x, weight))
    }
}

impl LinearGradOps for CubeBackend {
    fn project_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        biased: bool,
    ) -> LinearGrads<Self> {
        let (dtype, weight_dtype, bias_dtype) = (x.dtype, weight.dtype, bias.dtype);
        let grad = cast(grad, dtype);
        let dbias = if biased {
            let channels = bias.meta.shape().num_elements();
            let sums = Self::float_sum_dim(cast(grad.clone(), burn::tensor::DType::F32), 0);
            cast(Self::float_reshape(sums, Shape::from([channels])), bias_dtype)
        } else {
            // The placeholder of a missing bias; its gradient is never read.
            empty(&bias, bias.meta.shape().clone(), bias_dtype)
        };
        LinearGrads {
            x: matmul(grad.clone(), cast(weight, dtype), dtype),
            weight: cast(matmul_split_k(grad, x), weight_dtype),
            bias: dbias,
        }
    }
}

impl FusedLinearOps for CubeBackend {
    fn project_fused(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        parts: EpilogueParts,
    ) -> FloatTensor<Self> {
        let y = project(x, weight);
        flat_residual(parts.select([scale, bias, residual]), &y).apply(y)
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
        // An MLP has no scales, so the biases stand in for them as placeholders.
        let first_epilogue = first_parts.select([first_bias.clone(), first_bias, residual.clone()]);
        let second_epilogue = second_parts.select([second_bias.clone(), second_bias, residual]);
        let hidden = first_epilogue.apply(project(x, first));
        let y = project(hidden, second);
        flat_residual(second_epilogue, &y).apply(y)
    }
}

/// Reshapes the residual to the rows of `y` and casts it to their type.
fn flat_residual(epilogue: Epilogue<CubeTensor>, y: &CubeTensor) -> Epilogue<CubeTensor> {
    let flat = |residual| CubeBackend::float_reshape(cast(residual, y.dtype), y.meta.shape().clone());
    Epilogue { residual: epilogue.residual.map(flat), ..epilogue }
}
