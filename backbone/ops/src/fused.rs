//! What follows a product, done while its sums are still in the cache.

use burn::backend::DispatchTensor;
use burn::prelude::*;

use crate::flex::has_kernel;
use crate::matmul::Pointwise;
use crate::precision::{in_float32, widened};
use crate::{gelu, silu};

/// `activation(scale * product + bias + residual)`, for [`crate::linear_fused`] and [`crate::conv2d_fused`]; what is not given is left
/// out.
///
/// Without gradients this costs no pass over memory on the CPU and a single one on GPUs. Elsewhere the steps are done one after the
/// other, with the same meaning.
#[derive(Clone, Debug, Default)]
pub struct Fused<const D: usize> {
    /// Scale of every output channel, `[out]`, as of a batch norm in inference.
    pub scale: Option<Tensor<1>>,
    /// `[out]`.
    pub bias: Option<Tensor<1>>,
    /// Of the shape and the type of the result.
    pub residual: Option<Tensor<D>>,
    /// Last of all.
    pub activation: Pointwise,
}

impl<const D: usize> Fused<D> {
    /// A bias and nothing else.
    pub fn bias(bias: Option<Tensor<1>>) -> Self {
        Self { bias, ..Self::default() }
    }

    /// The same with an activation.
    #[must_use]
    pub fn activation(self, activation: Pointwise) -> Self {
        Self { activation, ..self }
    }

    /// The same with something to be added.
    #[must_use]
    pub fn residual(self, residual: Tensor<D>) -> Self {
        Self { residual: Some(residual), ..self }
    }

    /// The same with the residual in float32; scale and bias are so anyway.
    pub(crate) fn widened(self) -> Self {
        Self { residual: self.residual.map(widened), ..self }
    }

    /// Whether kernels do it: without gradients.
    pub(crate) fn applies(&self, x: &Tensor<D>) -> bool {
        has_kernel(x) && !x.device().is_autodiff()
    }

    /// The steps one after the other, `product` adding the bias it is given.
    pub(crate) fn compose(self, product: impl FnOnce(Option<Tensor<1>>) -> Tensor<D>) -> Tensor<D> {
        let along_channels = |values: Tensor<1>| {
            let mut shape = [1; D];
            shape[D - 1] = values.dims()[0];
            values.reshape(shape)
        };
        let y = match self.scale {
            None => product(self.bias),
            // A batch norm: its scale and shift are not for rounding.
            Some(scale) => in_float32(product(None), |y| {
                let y = y * along_channels(scale);
                match self.bias {
                    Some(bias) => y + along_channels(bias),
                    None => y,
                }
            }),
        };
        let y = match self.residual {
            Some(residual) => y + residual,
            None => y,
        };
        self.activation.apply(y)
    }

    /// Which of scale, bias and residual there are, the three with stand-ins for those that are not, and the activation.
    pub(crate) fn into_parts(self, device: &Device) -> ([bool; 3], [DispatchTensor; 3], Pointwise) {
        let parts = [self.scale.is_some(), self.bias.is_some(), self.residual.is_some()];
        let none = || Tensor::<1>::zeros([1], device).into_dispatch();
        let vector = |values: Option<Tensor<1>>| values.map_or_else(none, Tensor::into_dispatch);
        let residual = self.residual.map_or_else(none, Tensor::into_dispatch);
        (parts, [vector(self.scale), vector(self.bias), residual], self.activation)
    }
}

impl Pointwise {
    /// Applies it to a tensor of any shape.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Identity => x,
            Self::Relu => burn::tensor::activation::relu(x),
            Self::Gelu => gelu(x),
            Self::Silu => silu(x),
            Self::Sigmoid => burn::tensor::activation::sigmoid(x),
        }
    }
}
