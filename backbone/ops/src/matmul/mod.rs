//! Batched matrix product `left * right` of two activations, as in attention (`torch.matmul`). Backward: `dleft = dy right'`,
//! `dright = left' dy`.
//!
//! This is Burn's own product, except for float32 on GPUs with TF32 while [`crate::Float32Products::Exact`] is set: there Burn would round
//! its operands to TF32.

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod reference;
#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
use burn::prelude::*;
use burn::tensor::DType;

use crate::operation::operation;
use crate::precision::keeps_float32;

operation! {
    MatmulOps::multiply => MatmulGradOps::multiply_backward
        -> MatmulGrads (MatmulGradsMetadata) by MatmulNode,
    [2] left, right
    => left of Shape::from([left[0], left[1], right[2]])
}

/// Multiplies `left: [.., m, k]` by `right: [.., k, n]` to `[.., m, n]`. Both have the same type and the same leading dimensions;
/// there is no broadcasting. [`set_float32_products`](crate::set_float32_products) sets how GPUs multiply float32.
///
/// # Panics
/// When the shapes do not fit together.
pub fn matmul<const D: usize>(left: Tensor<D>, right: Tensor<D>) -> Tensor<D> {
    let (l, r) = (left.dims(), right.dims());
    assert!(l[..D - 2] == r[..D - 2] && l[D - 1] == r[D - 2], "matmul: {l:?} does not fit {r:?}");
    if left.dtype() == DType::F32 && keeps_float32(&left.device()) { exact(left, right) } else { reference::matmul(left, right) }
}

/// The product by our own operation, in which float32 stays exact.
fn exact<const D: usize>(left: Tensor<D>, right: Tensor<D>) -> Tensor<D> {
    let mut shape = left.dims();
    shape[D - 1] = right.dims()[D - 1];
    let batch: usize = shape[..D - 2].iter().product();
    let flat = |x: Tensor<D>| -> Tensor<3> {
        let [rows, columns] = [x.dims()[D - 2], x.dims()[D - 1]];
        x.reshape([batch, rows, columns])
    };
    let product = <Dispatch as MatmulOps>::multiply(flat(left).into_dispatch(), flat(right).into_dispatch());
    Tensor::<3>::from_dispatch(product).reshape(shape)
}
