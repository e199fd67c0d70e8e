//! Linear projection of the last axis, `y = x W' + b` (`torch.nn.Linear`, and the official `Linear2d` on channels-last data).
//!
//! It is one matrix product over all positions, with the weight in its official `[out, in]` layout. Backward: `dx = dy W`, `dW = dy' x`,
//! `db = sum(dy)`.

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod reference;
#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
use burn::backend::tensor::FloatTensor;
use burn::prelude::*;

use crate::arguments::assert_vector;
use crate::device::has_kernel;
use crate::epilogue::{EpilogueParts, Fused, Pointwise};
use crate::operation::operation;
use crate::precision::{in_float32, is_narrow, rounded, widened};

operation! {
    LinearOps::project => LinearGradOps::project_backward -> LinearGrads (LinearGradsMetadata) by LinearNode,
    [3] x, weight, bias; biased: bool
    => x of { let _ = (bias, biased); Shape::from([x[0], weight[0]]) }
}

/// Projections in inference, with the epilogue in the same pass. Placeholders stand for missing scales, biases and residuals.
#[burn::backend::backend_extension(Flex, Cube: cfg(feature = "cube"), Fusion: cfg(feature = "fusion"))]
pub trait FusedLinearOps: burn::backend::Backend {
    /// `epilogue(x weight')`; `parts` tells which of scale, bias and residual are present.
    #[fusion(dtype = x, shape = { let _ = (scale, bias, residual, parts); Shape::from([x[0], weight[0]]) })]
    fn project_fused(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        parts: EpilogueParts,
    ) -> FloatTensor<Self>;

    /// `epilogue_2(epilogue_1(x first') second')`; the residual belongs to the second epilogue, and there are no scales.
    #[fusion(dtype = x, shape = { let _ = (first, first_bias, second_bias, residual, first_parts, second_parts); Shape::from([x[0], second[0]]) })]
    fn project_twice(
        x: FloatTensor<Self>,
        first: FloatTensor<Self>,
        first_bias: FloatTensor<Self>,
        second: FloatTensor<Self>,
        second_bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        first_parts: EpilogueParts,
        second_parts: EpilogueParts,
    ) -> FloatTensor<Self>;
}

/// Projects the last axis: `x: [.., in]`, `weight: [out, in]`, `bias: [out]` to `[.., out]`.
///
/// # Panics
/// When the last axis of `x` differs from the second axis of `weight`, or the bias does not have `out` values.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let [out_features, in_features] = weight.dims();
    let mut shape = x.dims();
    assert_eq!(shape[D - 1], in_features, "linear: the input has {} channels, the weight expects {in_features}", shape[D - 1]);
    assert_vector("linear", "bias", bias.as_ref(), out_features);
    if is_narrow(&x) {
        let weight = rounded(weight, x.dtype());
        return in_float32(x, |x| linear(x, weight, bias));
    }
    if !has_kernel(&x) {
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

/// [`linear`] with an epilogue, `activation(scale * x W' + bias + residual)`, see [`Fused`].
///
/// # Panics
/// Like [`linear`], and when the scale, the bias or the residual does not fit the result.
pub fn linear_fused<const D: usize>(x: Tensor<D>, weight: Tensor<2>, fused: Fused<D>) -> Tensor<D> {
    let [out_features, in_features] = weight.dims();
    let mut shape = x.dims();
    assert_eq!(shape[D - 1], in_features, "linear_fused: the input has {} channels, the weight expects {in_features}", shape[D - 1]);
    let rows: usize = shape[..D - 1].iter().product();
    shape[D - 1] = out_features;
    fused.check("linear_fused", shape);
    if is_narrow(&x) {
        let weight = rounded(weight, x.dtype());
        return in_float32(x, |x| linear_fused(x, weight, fused.widened()));
    }
    if !Fused::runs_in_kernel(&x) {
        return fused.compose(|bias| linear(x, weight, bias));
    }
    let (parts, [scale, bias, residual]) = fused.into_arguments(&x.device());
    let (x, weight) = (x.reshape([rows, in_features]).into_dispatch(), weight.into_dispatch());
    let y = <Dispatch as FusedLinearOps>::project_fused(x, weight, scale, bias, residual, parts);
    Tensor::<2>::from_dispatch(y).reshape(shape)
}

/// Two projections with an activation between them, `activation(x W1' + b1) W2' + b2 + residual`, for `x: [.., in]`, weights
/// `[hidden, in]` and `[out, hidden]`, biases `[hidden]` and `[out]`, and a residual `[.., out]`. Biases and residual are optional.
///
/// On the CPU without gradients the hidden values never leave the cache.
///
/// # Panics
/// When the sizes do not fit together.
pub fn mlp<const D: usize>(
    x: Tensor<D>,
    [first, second]: [(Tensor<2>, Option<Tensor<1>>); 2],
    activation: Pointwise,
    residual: Option<Tensor<D>>,
) -> Tensor<D> {
    let [hidden, in_features] = first.0.dims();
    let [out_features, inner] = second.0.dims();
    let mut shape = x.dims();
    assert_eq!(shape[D - 1], in_features, "mlp: the input has {} channels, the weight expects {in_features}", shape[D - 1]);
    assert_eq!(hidden, inner, "mlp: the first weight has {hidden} outputs, the second expects {inner}");
    assert_vector("mlp", "first bias", first.1.as_ref(), hidden);
    let rows: usize = shape[..D - 1].iter().product();
    shape[D - 1] = out_features;
    if is_narrow(&x) {
        let layers = [first, second].map(|(weight, bias)| (rounded(weight, x.dtype()), bias));
        return in_float32(x, |x| mlp(x, layers, activation, residual.map(widened)));
    }
    let fused = Fused { residual, ..Fused::bias(second.1) };
    fused.check("mlp", shape);
    if !Fused::runs_in_kernel(&x) {
        let hidden = activation.apply(linear(x, first.0, first.1));
        return fused.compose(|bias| linear(hidden, second.0, bias));
    }
    let device = x.device();
    let first_epilogue = Fused::<D>::bias(first.1).activation(activation);
    let (first_parts, [_, first_bias, _]) = first_epilogue.into_arguments(&device);
    let (second_parts, [_, second_bias, residual]) = fused.into_arguments(&device);
    let y = <Dispatch as FusedLinearOps>::project_twice(
        x.reshape([rows, in_features]).into_dispatch(),
        first.0.into_dispatch(),
        first_bias,
        second.0.into_dispatch(),
        second_bias,
        residual,
        first_parts,
        second_parts,
    );
    Tensor::<2>::from_dispatch(y).reshape(shape)
}
