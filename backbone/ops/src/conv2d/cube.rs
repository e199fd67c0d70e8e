//! Convolutions on GPUs: Burn's, which are channels last inside, and all that follows one in a single pass. A convolution that looks at
//! one pixel is a projection.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::conv::{conv_data_backward, conv_forward_nhwc, conv_weight_backward};
use burn_cubecl::tensor::CubeTensor;

use super::{ConvGradOps, ConvGrads, ConvOps, FusedConvOps, Window};
use crate::cube::{cast, empty};
use crate::cube_product::{Epilogue, convolution, product, product_over_rows};
use crate::matmul::Pointwise;

impl Window {
    fn options(&self) -> ConvOptions<2> {
        ConvOptions::new(self.stride, self.padding, [1, 1], 1)
    }

    /// Whether every output looks at its own pixel alone.
    fn is_pointwise(&self) -> bool {
        *self == Self { kernel: [1, 1], stride: [1, 1], padding: [0, 0] }
    }
}

/// The result of Burn's convolutions.
///
/// # Panics
/// When the device can make none of this size.
fn made<E: std::fmt::Debug>(result: Result<CubeTensor, E>) -> CubeTensor {
    match result {
        Ok(tensor) => tensor,
        Err(error) => panic!("the device has no convolution for these sizes: {error:?}"),
    }
}

/// `[.., channels]` as rows.
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
        let y = product(rows(x), CubeBackend::float_transpose(matrix(weight)), dtype);
        return CubeBackend::float_reshape(y, Shape::from([batch, height, width, out]));
    }
    let strategy = convolution(&x.client, dtype);
    made(conv_forward_nhwc::<2>(x, CubeBackend::float_permute(weight, &[0, 2, 3, 1]), None, window.options(), strategy))
}

impl ConvOps for CubeBackend {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
        biased: bool,
    ) -> FloatTensor<Self> {
        Epilogue { bias: biased.then_some(bias), ..Epilogue::default() }.apply(convolve(x, weight, window))
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
            // Nobody asks for the gradient of a bias that is not there.
            empty(&bias, bias.meta.shape().clone(), bias_dtype)
        };
        let (dx, dweight) = if window.is_pointwise() {
            let dx = Self::float_reshape(product(rows(grad.clone()), matrix(weight), dtype), x_shape);
            (dx, Self::float_reshape(product_over_rows(rows(grad), rows(x)), weight_shape))
        } else {
            let first = |tensor: CubeTensor| Self::float_permute(tensor, &[0, 3, 1, 2]);
            let (x, grad) = (first(x), first(grad));
            let strategy = || convolution(&x.client, dtype);
            let dx = conv_data_backward::<2>(grad.clone(), weight, x.meta.shape().clone(), window.options(), strategy());
            let dx = Self::float_permute(made(dx), &[0, 2, 3, 1]);
            (dx, made(conv_weight_backward::<2>(x.clone(), grad, weight_shape, window.options(), strategy())))
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
        parts: [bool; 3],
        activation: Pointwise,
    ) -> FloatTensor<Self> {
        let y = convolve(x, weight, window);
        let residual = if parts[2] { cast(residual, y.dtype) } else { residual };
        Epilogue::of(parts, [scale, bias, residual], activation).apply(y)
    }
}
