use burn::module::Param;
use burn::nn::{Dropout, DropoutConfig};
use burn::prelude::*;

use super::{Activation, Dense};

/// Shape of an [`Mlp`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MlpConfig {
    /// Channels of input and output.
    pub channels: usize,
    /// Channels of the hidden layer.
    pub hidden: usize,
    /// Activation of the hidden layer, or of the gate.
    pub activation: Activation,
    /// Official `gMlp`: `fc2(x * act(z))` with `(x, z)` the halves of `fc1`.
    pub gated: bool,
    /// Dropout rate.
    pub drop_rate: f64,
}

/// Two linear layers with an activation between them, or the gated variant of it.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[hidden, channels]`, or `[2 hidden, channels]` when gated.
    pub fc1: Dense,
    /// `[channels, hidden]`.
    pub fc2: Dense,
    dropout: Dropout,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    gated: bool,
}

impl MlpConfig {
    /// An MLP with random weights.
    pub fn init(&self, device: &Device) -> Mlp {
        let rows = if self.gated { 2 * self.hidden } else { self.hidden };
        Mlp {
            fc1: Dense::new(self.channels, rows, true, device),
            fc2: Dense::new(self.hidden, self.channels, true, device),
            dropout: DropoutConfig::new(self.drop_rate).init(),
            activation: self.activation,
            gated: self.gated,
        }
    }
}

impl Mlp {
    /// `[batch, height, width, channels]` to the same shape, plus `residual` where given.
    pub fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4> {
        if !self.gated && !x.device().is_autodiff() {
            // Without gradients there is no dropout, so both layers run as one operation.
            let layers = [&self.fc1, &self.fc2].map(|layer| (layer.weight.val(), layer.bias.as_ref().map(Param::val)));
            return vision_ops::mlp(x, layers, self.activation.into(), residual);
        }
        let hidden = self.fc1.forward(x);
        let hidden = if self.gated {
            let [x, z] = halves(hidden);
            x * self.activation.forward(z)
        } else {
            self.dropout.forward(self.activation.forward(hidden))
        };
        let y = self.dropout.forward(self.fc2.forward(hidden));
        match residual {
            Some(residual) => residual + y,
            None => y,
        }
    }
}

/// The two halves of the last axis.
pub(crate) fn halves(x: Tensor<4>) -> [Tensor<4>; 2] {
    let [.., channels] = x.dims();
    [x.clone().slice(s![.., .., .., ..channels / 2]), x.slice(s![.., .., .., channels / 2..])]
}
