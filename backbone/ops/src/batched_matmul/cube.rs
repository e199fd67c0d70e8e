//! On GPUs: the products of [`crate::cube_product`].

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;

use super::{BatchedMatmulGradOps, BatchedMatmulGrads, BatchedMatmulOps};
use crate::cube::cast;
use crate::cube_product::product;

impl BatchedMatmulOps for CubeBackend {
    fn batched_product(left: FloatTensor<Self>, right: FloatTensor<Self>) -> FloatTensor<Self> {
        let dtype = left.dtype;
        product(left, cast(right, dtype), dtype)
    }
}

impl BatchedMatmulGradOps for CubeBackend {
    fn batched_product_backward(grad: FloatTensor<Self>, left: FloatTensor<Self>, right: FloatTensor<Self>) -> BatchedMatmulGrads<Self> {
        let (left_type, right_type) = (left.dtype, right.dtype);
        let grad = cast(grad, left_type);
        BatchedMatmulGrads {
            left: product(grad.clone(), Self::float_swap_dims(cast(right, left_type), 1, 2), left_type),
            right: product(Self::float_swap_dims(left, 1, 2), grad, right_type),
        }
    }
}
