//! The VSS block: two residual branches, each with its norm and stochastic depth.
//!
//! ```text
//! x ─┬─ norm ─ SS2D ─ drop path ─ + ─┬─ norm2 ─ MLP ─ drop path ─ + ─
//!    └────────────────────────────┘ └───────────────────────────┘
//! ```
//! With `post_norm` the norms follow SS2D and the MLP.

use burn::prelude::*;

use super::config::VmambaConfig;
use super::ss2d::Ss2d;
use crate::layers::{ChannelNorm, DropPath, Mlp, MlpConfig};

/// Official `VSSBlock`.
#[derive(Module, Debug)]
pub struct VssBlock {
    norm: Option<ChannelNorm>,
    op: Option<Ss2d>,
    norm2: Option<ChannelNorm>,
    mlp: Option<Mlp>,
    drop_path: DropPath,
    #[module(skip)]
    post_norm: bool,
}

impl VssBlock {
    /// A block of width `dim` with random weights.
    pub fn new(config: &VmambaConfig, dim: usize, drop_path_rate: f64, device: &Device) -> Self {
        let (scans, mixes) = (config.ssm_ratio > 0.0, config.mlp_ratio > 0.0);
        let mlp = MlpConfig {
            channels: dim,
            hidden: config.mlp_hidden(dim),
            activation: config.mlp_act_layer,
            gated: config.gmlp,
            drop_rate: config.mlp_drop_rate,
        };
        Self {
            norm: scans.then(|| ChannelNorm::new(dim, device)),
            op: scans.then(|| Ss2d::new(config, dim, device)),
            norm2: mixes.then(|| ChannelNorm::new(dim, device)),
            mlp: mixes.then(|| mlp.init(device)),
            drop_path: DropPath::new(drop_path_rate),
            post_norm: config.post_norm,
        }
    }

    /// `[batch, height, width, dim]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.residual(x, self.norm.as_ref(), self.op.as_ref().map(|op| |x, residual| op.forward(x, residual)));
        self.residual(x, self.norm2.as_ref(), self.mlp.as_ref().map(|mlp| |x, residual| mlp.forward(x, residual)))
    }

    /// SS2D and its input, for the block's input `x` `[batch, height, width, dim]`; none in a block without a scan.
    pub(crate) fn operator(&self, x: Tensor<4>) -> Option<(&Ss2d, Tensor<4>)> {
        let (norm, op) = (self.norm.as_ref()?, self.op.as_ref()?);
        Some((op, if self.post_norm { x } else { norm.forward(x) }))
    }

    /// Adds a branch to `x`. When no norm or stochastic depth follows the branch, it gets `x` as its residual and adds it itself.
    fn residual(
        &self,
        x: Tensor<4>,
        norm: Option<&ChannelNorm>,
        branch: Option<impl Fn(Tensor<4>, Option<Tensor<4>>) -> Tensor<4>>,
    ) -> Tensor<4> {
        let (Some(norm), Some(branch)) = (norm, branch) else {
            return x;
        };
        if self.post_norm {
            return x.clone() + self.drop_path.forward(norm.forward(branch(x, None)));
        }
        if !x.device().is_autodiff() {
            return branch(norm.forward(x.clone()), Some(x));
        }
        x.clone() + self.drop_path.forward(branch(norm.forward(x), None))
    }
}
