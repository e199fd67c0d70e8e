//! Burn's products on the CPU, which are exact. Used to test the operation without a GPU.

use burn::backend::Flex;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;

use super::{MatmulGradOps, MatmulGrads, MatmulOps};

impl MatmulOps for Flex {
    fn multiply(left: FloatTensor<Self>, right: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(left, right)
    }
}

impl MatmulGradOps for Flex {
    fn multiply_backward(grad: FloatTensor<Self>, left: FloatTensor<Self>, right: FloatTensor<Self>) -> MatmulGrads<Self> {
        MatmulGrads {
            left: Self::float_matmul(grad.clone(), Self::float_swap_dims(right, 1, 2)),
            right: Self::float_matmul(Self::float_swap_dims(left, 1, 2), grad),
        }
    }
}
