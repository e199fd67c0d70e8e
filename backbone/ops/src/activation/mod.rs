//! Elementwise activations: exact GELU, SiLU and softplus. The backward pass multiplies the gradient by the derivative, computed from the
//! saved input.
//!
//! Burn's activations are not used, for two reasons: its CPU backend evaluates them value by value on one thread, 15 to 30 times slower
//! than a vectorised loop, and its GPU backends differentiate GELU by the tanh approximation.

mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod reference;
#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
use burn::prelude::*;

use crate::device::has_kernel;
use crate::operation::operation;
use crate::precision::{in_float32, is_narrow};

/// The activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * Phi(x)` with the error function, not its tanh approximation.
    Gelu,
    /// `x * sigmoid(x)`.
    Silu,
    /// `ln(1 + e^x)`, the identity above 20.
    Softplus,
}

operation! {
    ActivationOps::activation => ActivationGradOps::activation_backward -> ActivationGrads (ActivationGradsMetadata) by ActivationNode,
    [1] x; kind: Activation
    => x of x.clone()
}

fn apply<const D: usize>(x: Tensor<D>, kind: Activation) -> Tensor<D> {
    if is_narrow(&x) {
        return in_float32(x, |x| apply(x, kind));
    }
    if has_kernel(&x) {
        Tensor::from_dispatch(<Dispatch as ActivationOps>::activation(x.into_dispatch(), kind))
    } else {
        reference::activation(x, kind)
    }
}

/// Exact GELU, `x / 2 * (1 + erf(x / sqrt 2))` (`torch.nn.GELU()`), for a tensor of any shape.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    apply(x, Activation::Gelu)
}

/// SiLU, `x * sigmoid(x)` (`torch.nn.SiLU`), for a tensor of any shape.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    apply(x, Activation::Silu)
}

/// Softplus, `ln(1 + e^x)` and linear above 20 (`torch.nn.functional.softplus`), for a tensor of any shape.
pub fn softplus<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    apply(x, Activation::Softplus)
}
