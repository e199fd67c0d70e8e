//! Linear projection of the last axis, `y = x W^T + b` (`torch.nn.Linear`, and the official `Linear2d` on channels-last data).
//!
//! One matrix product over all positions with the weight in its official `[out, in]` layout; the bias is written into the output
//! first and the product accumulates onto it, which saves a pass over memory.

mod cpu;
mod matmul;
mod reference;
#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
use burn::prelude::*;

use crate::flex::is_native;
use crate::operation::operation;

pub(crate) use cpu::product;
pub(crate) use matmul::{Factor, Sizes};

operation! {
    LinearOps::project => LinearGradOps::project_backward -> LinearGrads by LinearNode,
    [3] x, weight, bias; biased: bool
}

/// Projects the last axis: `x: [.., in]`, `weight: [out, in]`, `bias: [out]` to `[.., out]`.
///
/// # Panics
/// When the last axis of `x` differs from the second axis of `weight`.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let [out_features, in_features] = weight.dims();
    let mut shape = x.dims();
    assert_eq!(shape[D - 1], in_features, "linear: the input has {} channels, the weight expects {in_features}", shape[D - 1]);
    if !is_native(&x) {
        return reference::linear(x, weight, bias);
    }
    let rows: usize = shape[..D - 1].iter().product();
    shape[D - 1] = out_features;
    let biased = bias.is_some();
    let bias = bias.unwrap_or_else(|| Tensor::zeros([1], &x.device()));
    let y = <Dispatch as LinearOps>::project(
        x.reshape([rows, in_features]).into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        biased,
    );
    Tensor::<2>::from_dispatch(y).reshape(shape)
}
