//! Products of two computed matrices, as attention has them, with the float32 that was asked for.
//!
//! Burn's own product serves everywhere but where it would round float32 factors to TF32 without being asked to, see
//! [`Float32Products`].

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

/// `left * right` of `[.., m, k]` and `[.., k, n]` of one type to `[.., m, n]` (`torch.matmul`). On GPUs float32 is multiplied as
/// [`set_float32_products`](crate::set_float32_products) says.
///
/// # Panics
/// When the sizes do not fit. The leading ones must be equal.
pub fn matmul<const D: usize>(left: Tensor<D>, right: Tensor<D>) -> Tensor<D> {
    let (l, r) = (left.dims(), right.dims());
    assert!(l[..D - 2] == r[..D - 2] && l[D - 1] == r[D - 2], "matmul: {l:?} does not fit {r:?}");
    if left.dtype() == DType::F32 && keeps_float32(&left.device()) { exact(left, right) } else { reference::matmul(left, right) }
}

/// The product as an operation of ours.
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
