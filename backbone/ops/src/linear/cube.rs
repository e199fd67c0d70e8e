//! Projections on GPUs: Burn's products, and all that follows one in a single pass.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::{FusedLinearOps, LinearGradOps, LinearGrads, LinearOps};
use crate::cube::{cast, empty};
use crate::cube_product::{Epilogue, product, product_over_rows};
use crate::matmul::Pointwise;

/// `x weight^T` in the type of `x`.
fn project(x: CubeTensor, weight: CubeTensor) -> CubeTensor {
    let dtype = x.dtype;
    product(x, CubeBackend::float_transpose(cast(weight, dtype)), dtype)
}

impl LinearOps for CubeBackend {
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, biased: bool) -> FloatTensor<Self> {
        Epilogue { bias: biased.then_some(bias), ..Epilogue::default() }.apply(project(x, weight))
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
            // Nobody asks for the gradient of a bias that is not there.
            empty(&bias, bias.meta.shape().clone(), bias_dtype)
        };
        LinearGrads {
            x: product(grad.clone(), cast(weight, dtype), dtype),
            weight: cast(product_over_rows(grad, x), weight_dtype),
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
        parts: [bool; 3],
        activation: Pointwise,
    ) -> FloatTensor<Self> {
        let y = project(x, weight);
        let residual = flat(residual, &y, parts[2]);
        Epilogue::of(parts, [scale, bias, residual], activation).apply(y)
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
        let [first_biased, biased, added] = parts;
        let hidden = Epilogue { bias: first_biased.then_some(first_bias), activation, ..Epilogue::default() }.apply(project(x, first));
        let y = project(hidden, second);
        let residual = added.then(|| flat(residual, &y, true));
        Epilogue { bias: biased.then_some(second_bias), residual, ..Epilogue::default() }.apply(y)
    }
}

/// A residual in the shape of the rows it is added to.
fn flat(residual: CubeTensor, y: &CubeTensor, meant: bool) -> CubeTensor {
    if meant { CubeBackend::float_reshape(cast(residual, y.dtype), y.meta.shape().clone()) } else { residual }
}
