//! SS2D, the two-dimensional selective scan (section 4.2 of the paper).
//!
//! ```text
//! x ─ in_proj ─ depthwise conv ─ act ─ scan along four routes, merged ─ out_norm ─ out_act ─ (* z) ─ out_proj ─
//!        └────────────────────────── z, activated or not ──────────────────────────────────────┘
//! ```
//! Tensors are channels last. The input-dependent parameters of the scan (step size, B, C) are a linear function of a pixel, so they are
//! computed once in raster order for all four routes; `vision_ops::selective_scan_2d` follows the routes by index and sums their results at
//! every pixel.

#![allow(non_snake_case, reason = "`A_logs` and `Ds` are the official parameter names; the derive drops a narrower attribute")]

use std::ops::Range;

use burn::module::Param;
use burn::nn::{Dropout, DropoutConfig};
use burn::prelude::*;
use burn::tensor::DType;
use vision_ops::{Fused, Route};

use super::config::VmambaConfig;
use super::forward_type::{Gate, OutActivation, OutNormKind, ScanPattern};
use super::init::{GROUPS, ScanParameters};
use crate::layers::{Activation, ChannelNorm, Dense, DepthwiseConv, halves, uniform_fan_in};

/// Official `SS2D`. R is the rank of the step-size projection, N the state size, D the inner width.
#[derive(Module, Debug)]
pub struct Ss2d {
    in_proj: Dense,
    conv2d: Option<DepthwiseConv>,
    /// Projects a pixel to (step size, B, C) of each group: `[4, R + 2 N, D]`.
    x_proj_weight: Param<Tensor<3>>,
    /// Projects the step size from rank R to D channels: `[4, D, R]`.
    dt_projs_weight: Param<Tensor<3>>,
    /// Bias of the step size: `[4, D]`.
    dt_projs_bias: Param<Tensor<2>>,
    /// `A = -exp(A_logs)`: `[4 D, N]`.
    A_logs: Param<Tensor<2>>,
    /// Skip connection of the scan: `[4 D]`.
    Ds: Param<Tensor<1>>,
    out_norm: OutNorm,
    out_proj: Dense,
    dropout: Dropout,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    scan_pattern: ScanPattern,
    #[module(skip)]
    gate: Gate,
    #[module(skip)]
    out_activation: OutActivation,
}

impl Ss2d {
    /// An operator for blocks of width `dim`, with random weights.
    pub fn new(config: &VmambaConfig, dim: usize, device: &Device) -> Self {
        let (d_inner, d_state, dt_rank) = (config.d_inner(dim), config.ssm_d_state, config.dt_rank(dim));
        let form = config.forward_type;
        let branches = if form.gate == Gate::None { 1 } else { 2 };
        let scan = ScanParameters::new(config.ssm_init, d_inner, d_state, dt_rank, device);
        Self {
            in_proj: Dense::new(dim, branches * d_inner, false, device),
            conv2d: config.ssm_conv.map(|kernel| DepthwiseConv::new(d_inner, kernel, config.ssm_conv_bias, device)),
            x_proj_weight: uniform_fan_in([GROUPS, dt_rank + 2 * d_state, d_inner], d_inner, device),
            dt_projs_weight: scan.dt_projs_weight,
            dt_projs_bias: scan.dt_projs_bias,
            A_logs: scan.a_logs,
            Ds: scan.ds,
            out_norm: OutNorm::new(form.out_norm, d_inner, device),
            out_proj: Dense::new(d_inner, dim, false, device),
            dropout: DropoutConfig::new(config.ssm_drop_rate).init(),
            activation: config.ssm_act_layer,
            scan_pattern: form.scan_pattern,
            gate: form.gate,
            out_activation: form.out_activation,
        }
    }

    /// `[batch, height, width, dim]` to the same shape, plus `residual` where given.
    pub fn forward(&self, x: Tensor<4>, residual: Option<Tensor<4>>) -> Tensor<4> {
        let (x, z) = self.before_scan(x);
        let y = self.out_norm.forward(self.scan(x));
        let y = match self.out_activation {
            OutActivation::Gelu => vision_ops::gelu(y),
            OutActivation::None => y,
        };
        let y = match z {
            Some(z) => y * z,
            None => y,
        };
        if !y.device().is_autodiff() {
            // Without gradients there is no dropout, so the residual is added in the epilogue of the projection.
            return self.out_proj.forward_fused(y, Fused { residual, ..Fused::default() });
        }
        let y = self.dropout.forward(self.out_proj.forward(y));
        match residual {
            Some(residual) => residual + y,
            None => y,
        }
    }

    /// The arguments and routes of the scan for the block input `x` `[batch, height, width, dim]`; none for the cascade, which scans lines.
    pub(crate) fn image_scan(&self, x: Tensor<4>) -> Option<(ScanArguments, [Route; GROUPS])> {
        let routes = self.scan_pattern.routes()?;
        Some((self.scan_arguments(self.before_scan(x).0, 0..GROUPS), routes))
    }

    /// The input of the scan and, with a gate, the factor of its result.
    fn before_scan(&self, x: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>) {
        let (x, z) = self.branches(self.in_proj.forward(x));
        let x = match &self.conv2d {
            Some(conv2d) => conv2d.forward_activated(x, self.activation),
            None => self.activation.forward(x),
        };
        (x, z)
    }

    /// The half to scan and, with a gate, the multiplicative half.
    fn branches(&self, x: Tensor<4>) -> (Tensor<4>, Option<Tensor<4>>) {
        match self.gate {
            Gate::None => (x, None),
            Gate::Activated => {
                let [x, z] = halves(x);
                (x, Some(self.activation.forward(z)))
            }
            Gate::Plain => {
                let [x, z] = halves(x);
                (x, Some(z))
            }
        }
    }

    fn scan(&self, x: Tensor<4>) -> Tensor<4> {
        match self.scan_pattern.routes() {
            Some(routes) => self.scan_groups(x, 0, &routes),
            None => self.cascade(x),
        }
    }

    /// Scans `x` `[batch, height, width, D]` along `routes` with the parameter groups `first..first + routes.len()`.
    fn scan_groups(&self, x: Tensor<4>, first: usize, routes: &[Route]) -> Tensor<4> {
        self.scan_arguments(x, first..first + routes.len()).scan(routes)
    }

    /// The arguments of the scan of `x` `[batch, height, width, D]` with the parameter groups `groups`.
    fn scan_arguments(&self, x: Tensor<4>, groups: Range<usize>) -> ScanArguments {
        let [_, per_group, d_inner] = self.x_proj_weight.dims();
        let rows = groups.start * d_inner..groups.end * d_inner;
        let all = groups == (0..GROUPS);

        // A slice of everything would copy the parameters.
        let pick3 = |t: &Param<Tensor<3>>| if all { t.val() } else { t.val().slice(s![groups.clone()]) };
        let projection = pick3(&self.x_proj_weight).reshape([groups.len() * per_group, d_inner]);
        ScanArguments {
            projections: vision_ops::linear(x.clone(), projection, None),
            x,
            dt_weight: pick3(&self.dt_projs_weight),
            dt_bias: if all { self.dt_projs_bias.val() } else { self.dt_projs_bias.val().slice(s![groups.clone()]) },
            a_logs: if all { self.A_logs.val() } else { self.A_logs.val().slice(s![rows.clone()]) },
            d: if all { self.Ds.val() } else { self.Ds.val().slice(s![rows]) },
        }
    }

    /// `v052dc`: each row as a sequence in both directions (groups 0 and 1), then each column of the result (groups 2 and 3), both after a
    /// LayerNorm without parameters.
    fn cascade(&self, x: Tensor<4>) -> Tensor<4> {
        let normalised = |x: Tensor<4>| vision_ops::channel_norm(x, None, None, ChannelNorm::EPSILON);
        let y = self.scan_lines(normalised(x), 0);
        let columns_as_lines = normalised(y).swap_dims(1, 2);
        self.scan_lines(columns_as_lines, 2).swap_dims(1, 2)
    }

    /// Scans every line of `x` `[batch, lines, length, D]` as a sequence: forwards with group `first`, backwards with the next group. The
    /// official code adds the backward result without reversing it, so position j receives the result of position length - 1 - j. The
    /// published ablation was trained that way.
    fn scan_lines(&self, x: Tensor<4>, first: usize) -> Tensor<4> {
        let [batch, lines, length, d_inner] = x.dims();
        let x = x.reshape([batch * lines, 1, length, d_inner]);
        let forwards = self.scan_groups(x.clone(), first, &[Route::Rows]);
        let backwards = self.scan_groups(x, first + 1, &[Route::RowsReversed]);
        (forwards + backwards.flip([2])).reshape([batch, lines, length, d_inner])
    }
}

/// The arguments of [`vision_ops::selective_scan_2d`] besides the routes; its documentation has the shapes.
#[derive(Clone, Debug)]
pub(crate) struct ScanArguments {
    pub(crate) x: Tensor<4>,
    pub(crate) projections: Tensor<4>,
    pub(crate) dt_weight: Tensor<3>,
    pub(crate) dt_bias: Tensor<2>,
    pub(crate) a_logs: Tensor<2>,
    pub(crate) d: Tensor<1>,
}

impl ScanArguments {
    /// The sum over the routes, `[batch, height, width, D]`.
    pub(crate) fn scan(self, routes: &[Route]) -> Tensor<4> {
        vision_ops::selective_scan_2d(self.x, self.projections, self.dt_weight, self.dt_bias, self.a_logs, self.d, routes)
    }
}

/// Norm of the merged scan.
#[derive(Module, Debug)]
pub enum OutNorm {
    /// LayerNorm over channels.
    LayerNorm(ChannelNorm),
    /// Depthwise 3x3 convolution without bias.
    DwConv3(DepthwiseConv),
    /// LayerNorm over channels, then a depthwise 3x3 convolution.
    CNorm(NormConv),
    /// A function without parameters.
    Fixed(FixedNorm),
}

/// LayerNorm over channels, then a depthwise 3x3 convolution.
#[derive(Module, Debug)]
pub struct NormConv {
    norm: ChannelNorm,
    conv: DepthwiseConv,
}

/// An output norm without parameters.
#[derive(Module, Debug)]
pub struct FixedNorm {
    #[module(skip)]
    kind: FixedNormKind,
}

#[derive(Clone, Copy, Debug)]
enum FixedNormKind {
    Identity,
    SpatialSoftmax,
    Sigmoid,
}

impl OutNorm {
    fn new(kind: OutNormKind, d_inner: usize, device: &Device) -> Self {
        let norm = || ChannelNorm::new(d_inner, device);
        let conv = || DepthwiseConv::new(d_inner, 3, false, device);
        match kind {
            OutNormKind::LayerNorm => Self::LayerNorm(norm()),
            OutNormKind::DwConv3 => Self::DwConv3(conv()),
            OutNormKind::CNorm => Self::CNorm(NormConv { norm: norm(), conv: conv() }),
            OutNormKind::None => Self::Fixed(FixedNorm { kind: FixedNormKind::Identity }),
            OutNormKind::Softmax => Self::Fixed(FixedNorm { kind: FixedNormKind::SpatialSoftmax }),
            OutNormKind::Sigmoid => Self::Fixed(FixedNorm { kind: FixedNormKind::Sigmoid }),
        }
    }

    /// `[batch, height, width, D]` to the same shape.
    fn forward(&self, y: Tensor<4>) -> Tensor<4> {
        match self {
            Self::LayerNorm(norm) => norm.forward(y),
            Self::DwConv3(conv) => conv.forward(y),
            Self::CNorm(NormConv { norm, conv }) => conv.forward(norm.forward(y)),
            Self::Fixed(FixedNorm { kind: FixedNormKind::Identity }) => y,
            Self::Fixed(FixedNorm { kind: FixedNormKind::Sigmoid }) => Activation::Sigmoid.forward(y),
            Self::Fixed(FixedNorm { kind: FixedNormKind::SpatialSoftmax }) => {
                let [batch, height, width, d_inner] = y.dims();
                let positions: Tensor<3> = y.reshape([batch, height * width, d_inner]);
                let dtype = positions.dtype();
                burn::tensor::activation::softmax(positions.cast(DType::F32), 1).cast(dtype).reshape([batch, height, width, d_inner])
            }
        }
    }
}
