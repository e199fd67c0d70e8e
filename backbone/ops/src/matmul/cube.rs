//! The exact products of [`crate::cube::matmul`] on GPUs.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;

use super::{MatmulGradOps, MatmulGrads, MatmulOps};
use crate::cube::cast;
use crate::cube::matmul::matmul;

impl MatmulOps for CubeBackend {
    fn multiply(left: FloatTensor<Self>, right: FloatTensor<Self>) -> FloatTensor<Self> {
        let dtype = left.dtype;
        matmul(left, cast(right, dtype), dtype)
    }
}

impl MatmulGradOps for CubeBackend {
    fn multiply_backward(grad: FloatTensor<Self>, left: FloatTensor<Self>, right: FloatTensor<Self>) -> MatmulGrads<Self> {
        let (left_type, right_type) = (left.dtype, right.dtype);
        let grad = cast(grad, left_type);
        MatmulGrads {
            left: matmul(grad.clone(), Self::float_swap_dims(cast(right, left_type), 1, 2), left_type),
            right: matmul(Self::float_swap_dims(left, 1, 2), grad, right_type),
        }
    }
}
