//! Epilogues: what is applied to the sums of a matrix product or convolution before they are stored.

use burn::backend::DispatchTensor;
use burn::prelude::*;

use crate::activation::{gelu, silu};
use crate::arguments::assert_vector;
use crate::device::has_kernel;
use crate::precision::{in_float32, widened};

/// `activation(scale * sum + bias + residual)`. Parts that are `None` are left out.
///
/// The one description of an epilogue at every level: of tensors ([`Fused`]), of slices in the CPU kernels and of device buffers in the GPU
/// kernels. `V` is a vector over the output channels, `R` has the shape of the result.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<V, R = V> {
    /// Scale of every output channel, `[out]`; a batch norm in inference has one.
    pub scale: Option<V>,
    /// Bias of every output channel, `[out]`.
    pub bias: Option<V>,
    /// Added before the activation; has the shape and type of the result.
    pub residual: Option<R>,
    /// Applied last.
    pub activation: Pointwise,
}

/// An [`Epilogue`] of tensors, for [`linear_fused`](crate::linear_fused) and [`conv2d_fused`](crate::conv2d_fused). `D` is the rank of the
/// result; scale and bias are float32.
///
/// Without gradients the epilogue costs no pass over memory on the CPU and one pass on GPUs. With gradients, and on devices without
/// kernels, its steps are separate operations; the results agree up to rounding.
pub type Fused<const D: usize> = Epilogue<Tensor<1>, Tensor<D>>;

/// Which parts an epilogue has. Kernels on GPUs are compiled for each combination in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpilogueParts {
    /// Whether there is a scale.
    pub scale: bool,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether there is a residual.
    pub residual: bool,
    /// The activation.
    pub activation: Pointwise,
}

/// An elementwise activation function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pointwise {
    /// `x`.
    #[default]
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// Exact GELU, see [`crate::gelu`].
    Gelu,
    /// SiLU, see [`crate::silu`].
    Silu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl<V, R> Default for Epilogue<V, R> {
    /// The empty epilogue, which stores the sums as they are.
    fn default() -> Self {
        Self { scale: None, bias: None, residual: None, activation: Pointwise::Identity }
    }
}

impl<V, R> Epilogue<V, R> {
    /// An epilogue with a bias, or the empty one.
    pub fn bias(bias: Option<V>) -> Self {
        Self { bias, ..Self::default() }
    }

    /// Replaces the activation.
    #[must_use]
    pub fn activation(self, activation: Pointwise) -> Self {
        Self { activation, ..self }
    }

    /// Replaces the residual.
    #[must_use]
    pub fn residual(self, residual: R) -> Self {
        Self { residual: Some(residual), ..self }
    }

    /// Which parts are present.
    pub(crate) fn parts(&self) -> EpilogueParts {
        EpilogueParts {
            scale: self.scale.is_some(),
            bias: self.bias.is_some(),
            residual: self.residual.is_some(),
            activation: self.activation,
        }
    }
}

impl EpilogueParts {
    /// The epilogue with these parts. A backend operation takes scale, bias and residual as tensors that are always there; placeholders of
    /// missing parts are dropped here.
    pub(crate) fn select<T>(self, [scale, bias, residual]: [T; 3]) -> Epilogue<T> {
        Epilogue {
            scale: self.scale.then_some(scale),
            bias: self.bias.then_some(bias),
            residual: self.residual.then_some(residual),
            activation: self.activation,
        }
    }

    /// Whether the epilogue stores the sums as they are.
    #[cfg(feature = "cube")]
    pub(crate) fn is_empty(self) -> bool {
        self == Epilogue::<()>::default().parts()
    }
}

impl<const D: usize> Fused<D> {
    /// Casts the residual to float32. Scale and bias are float32 already.
    pub(crate) fn widened(self) -> Self {
        Self { residual: self.residual.map(widened), ..self }
    }

    /// Whether the fused kernels apply: the device has kernels and gradients are not recorded.
    pub(crate) fn runs_in_kernel(x: &Tensor<D>) -> bool {
        has_kernel(x) && !x.device().is_autodiff()
    }

    /// Runs `product` and the steps of the epilogue as separate operations. `product` adds the bias that it is given.
    pub(crate) fn compose(self, product: impl FnOnce(Option<Tensor<1>>) -> Tensor<D>) -> Tensor<D> {
        let along_channels = |values: Tensor<1>| {
            let mut shape = [1; D];
            shape[D - 1] = values.dims()[0];
            values.reshape(shape)
        };
        let y = match self.scale {
            None => product(self.bias),
            // Scale and bias of a batch norm stay float32 for bf16 products, so the result is rounded once, after both.
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

    /// # Panics
    /// When a part does not fit a result of shape `shape`, whose last axis holds the output channels. `operation` is named in the message.
    pub(crate) fn check(&self, operation: &str, shape: [usize; D]) {
        assert_vector(operation, "scale", self.scale.as_ref(), shape[D - 1]);
        assert_vector(operation, "bias", self.bias.as_ref(), shape[D - 1]);
        if let Some(residual) = &self.residual {
            assert_eq!(residual.dims(), shape, "{operation}: the residual and the result differ in shape");
        }
    }

    /// The arguments of a fused backend operation: which parts there are, and scale, bias and residual with one-element placeholders for
    /// missing ones.
    pub(crate) fn into_arguments(self, device: &Device) -> (EpilogueParts, [DispatchTensor; 3]) {
        let parts = self.parts();
        let placeholder = || Tensor::<1>::zeros([1], device).into_dispatch();
        let vector = |values: Option<Tensor<1>>| values.map_or_else(placeholder, Tensor::into_dispatch);
        let residual = self.residual.map_or_else(placeholder, Tensor::into_dispatch);
        (parts, [vector(self.scale), vector(self.bias), residual])
    }
}

impl Pointwise {
    /// Applies the function to every element of a tensor of any shape.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "the scale has 2 values for 3 channels")]
    fn a_scale_of_another_length_is_refused() {
        let device = crate::testing::cpu();
        let fused = Fused::<2> { scale: Some(Tensor::ones([2], &device)), ..Fused::default() };
        fused.check("linear_fused", [4, 3]);
    }

    #[test]
    #[should_panic(expected = "the residual and the result differ in shape")]
    fn a_residual_of_another_shape_is_refused() {
        let device = crate::testing::cpu();
        Fused::<2>::default().residual(Tensor::ones([1, 3], &device)).check("linear_fused", [4, 3]);
    }
}
