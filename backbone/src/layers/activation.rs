use burn::prelude::*;
use serde::{Deserialize, Serialize};

/// A pointwise activation, by its official name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// The exact `x * Phi(x)`, not the tanh approximation.
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

impl Activation {
    /// Applies it to a tensor of any shape.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => vision_ops::silu(x),
            Self::Gelu => vision_ops::gelu(x),
            Self::Relu => burn::tensor::activation::relu(x),
            Self::Sigmoid => burn::tensor::activation::sigmoid(x),
        }
    }
}
