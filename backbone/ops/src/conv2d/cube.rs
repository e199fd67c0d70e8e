//! The convolution on GPUs: Burn's kernels, which work channels last, and one pass for the epilogue. Pointwise convolutions are matrix
//! products.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::conv::{conv_data_backward, conv_forward_nhwc, conv_weight_backward};
use burn_cubecl::tensor::CubeTensor;

use super::window::Window;
use super::{ConvGradOps, ConvGrads, ConvOps, FusedConvOps};
use crate::cube::matmul::{conv_strategy, matmul, matmul_split_k};
use crate::cube::{cast, empty};
use crate::epilogue::{Epilogue, EpilogueParts};

/// The window in Burn's terms.
fn options(window: Window) -> ConvOptions<2> {
    ConvOptions::new(window.stride, window.padding, [1, 1], 1)
}

/// Unwraps the result of one of Burn's convolutions.
///
/// # Panics
/// When the device has no kernel for these sizes.
fn expect_kernel<E: std::fmt::Debug>(result: Result<CubeTensor, E>) -> CubeTensor {
    match result {
        Ok(tensor) => tensor,
        Err(error) => panic!("conv2d: the device has no kernel for these sizes: {error:?}"),
    }
}

/// `[batch, height, width, channels]` as `[batch * height * width, channels]`.
fn rows(tensor: CubeTensor) -> CubeTensor {
    let [batch, height, width, channels] = tensor.meta.shape().dims::<4>();
    CubeBackend::float_reshape(tensor, Shape::from([batch * height * width, channels]))
}

/// `[out, in, 1, 1]` as `[out, in]`.
fn matrix(weight: CubeTensor) -> CubeTensor {
    let [out, inner, ..] = weight.meta.shape().dims::<4>();
    CubeBackend::float_reshape(weight, Shape::from([out, inner]))
}

fn convolve(x: CubeTensor, weight: CubeTensor, window: Window) -> CubeTensor {
    let dtype = x.dtype;
    let weight = cast(weight, dtype);
    if window.is_pointwise() {
        let [batch, height, width, _] = x.meta.shape().dims::<4>();
        let out = weight.meta.shape()[0];
        let y = matmul(rows(x), CubeBackend::float_transpose(matrix(weight)), dtype);
        return CubeBackend::float_reshape(y, Shape::from([batch, height, width, out]));
    }
    let strategy = conv_strategy(&x.client, dtype);
    expect_kernel(conv_forward_nhwc::<2>(x, CubeBackend::float_permute(weight, &[0, 2, 3, 1]), None, options(window), strategy))
}

impl ConvOps for CubeBackend {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
        biased: bool,
    ) -> FloatTensor<Self> {
        Epilogue::bias(biased.then_some(bias)).apply(convolve(x, weight, window))
    }
}

impl ConvGradOps for CubeBackend {
    fn convolve_backward(
        grad: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
        biased: bool,
    ) -> ConvGrads<Self> {
        let (dtype, weight_dtype, bias_dtype) = (x.dtype, weight.dtype, bias.dtype);
        let (x_shape, weight_shape) = (x.meta.shape().clone(), weight.meta.shape().clone());
        let grad = cast(grad, dtype);
        let weight = cast(weight, dtype);
        let dbias = if biased {
            let channels = bias.meta.shape().num_elements();
            let sums = Self::float_sum_dim(rows(cast(grad.clone(), DType::F32)), 0);
            cast(Self::float_reshape(sums, Shape::from([channels])), bias_dtype)
        } else {
            // The placeholder of a missing bias; its gradient is never read.
            empty(&bias, bias.meta.shape().clone(), bias_dtype)
        };
        let (dx, dweight) = if window.is_pointwise() {
            let dx = Self::float_reshape(matmul(rows(grad.clone()), matrix(weight), dtype), x_shape);
            (dx, Self::float_reshape(matmul_split_k(rows(grad), rows(x)), weight_shape))
        } else {
            let first = |tensor: CubeTensor| Self::float_permute(tensor, &[0, 3, 1, 2]);
            let (x, grad) = (first(x), first(grad));
            let strategy = || conv_strategy(&x.client, dtype);
            let dx = conv_data_backward::<2>(grad.clone(), weight, x.meta.shape().clone(), options(window), strategy());
            let dx = Self::float_permute(expect_kernel(dx), &[0, 2, 3, 1]);
            (dx, expect_kernel(conv_weight_backward::<2>(x.clone(), grad, weight_shape, options(window), strategy())))
        };
        ConvGrads { x: dx, weight: cast(dweight, weight_dtype), bias: dbias }
    }
}

impl FusedConvOps for CubeBackend {
    fn convolve_fused(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        window: Window,
        parts: EpilogueParts,
    ) -> FloatTensor<Self> {
        let y = convolve(x, weight, window);
        let epilogue = parts.select([scale, bias, residual]);
        Epilogue { residual: epilogue.residual.map(|residual| cast(residual, y.dtype)), ..epilogue }.apply(y)
    }
}
