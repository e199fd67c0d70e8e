//! Inputs and outputs of the selective scan in one SS2D for one image, from which activation maps are computed (section 5.3 of the paper and
//! its appendix; the debug switch of the official SS2D).

use std::fmt;

use burn::prelude::*;
use burn::tensor::DType;
use thiserror::Error;
use vision_ops::Route;

use crate::vmamba::ss2d::ScanArguments;
use crate::vmamba::{Trunk, Vmamba, VmambaClassifier};

/// A block of a network, both numbers counted from 0. Displayed as `stage.block`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockIndex {
    /// The stage.
    pub stage: usize,
    /// The block within the stage.
    pub block: usize,
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.stage, self.block)
    }
}

/// The scan of one SS2D for one image. All tensors are in raster order, independent of the route.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanTrace {
    /// Height and width of the grid of patches.
    pub size: [usize; 2],
    /// D, the inner width.
    pub channels: usize,
    /// N, the states of a channel.
    pub state: usize,
    /// Input of the scan, `[height, width, D]`.
    pub u: Vec<f32>,
    /// The routes in the official order.
    pub routes: Vec<RouteTrace>,
    /// Output of the scan, summed over the routes, `[height, width, D]`.
    pub merged: Vec<f32>,
}

/// The parameters of the scan along one route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteTrace {
    /// The route.
    pub route: Route,
    /// Step sizes, after bias and softplus: `[height, width, D]`.
    pub delta: Vec<f32>,
    /// `A`, negative: `[D, N]`.
    pub a: Vec<f32>,
    /// `B`: `[height, width, N]`.
    pub b: Vec<f32>,
    /// `C`: `[height, width, N]`.
    pub c: Vec<f32>,
    /// The skip connection: `[D]`.
    pub d: Vec<f32>,
}

/// Why a scan cannot be traced.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TraceError {
    /// The block does not exist.
    #[error("layer {layer} does not exist; stages and blocks count from 0: {}", blocks_of(depths))]
    NoSuchLayer {
        /// The block that was asked for.
        layer: BlockIndex,
        /// Blocks of every stage.
        depths: Vec<usize>,
    },
    /// The blocks have no SS2D.
    #[error("the blocks of this model have no scan (`ssm_ratio` is 0)")]
    NoScan,
    /// The cascade scans lines instead of the image.
    #[error(
        "the cascade pattern (v052dc) scans every row and then every column as its own sequence; no sequence runs through the whole image, \
         so a patch has no activation map"
    )]
    Cascade,
    /// The batch does not have exactly one image.
    #[error("a scan is traced for one image, not for {0}")]
    Batch(usize),
}

/// `0.0 to 0.1, 1.0 to 1.1`.
fn blocks_of(depths: &[usize]) -> String {
    let range = |(stage, depth): (usize, &usize)| match depth {
        0 => None,
        1 => Some(format!("{stage}.0")),
        _ => Some(format!("{stage}.0 to {stage}.{}", depth - 1)),
    };
    depths.iter().enumerate().filter_map(range).collect::<Vec<_>>().join(", ")
}

impl Vmamba {
    /// The scan of the block `layer` for `images` `[1, in_chans, height, width]`, in a forward pass up to that block. The trace is float32 for
    /// activations of every type.
    ///
    /// # Errors
    /// When the block does not exist, has no scan or the cascade's, or the batch does not have exactly one image.
    pub fn trace_scan(&self, images: Tensor<4>, layer: BlockIndex) -> Result<ScanTrace, TraceError> {
        trace(self.trunk(), images, layer)
    }
}

impl VmambaClassifier {
    /// As [`Vmamba::trace_scan`].
    ///
    /// # Errors
    /// As [`Vmamba::trace_scan`].
    pub fn trace_scan(&self, images: Tensor<4>, layer: BlockIndex) -> Result<ScanTrace, TraceError> {
        trace(self.trunk(), images, layer)
    }
}

fn trace(trunk: &Trunk, images: Tensor<4>, layer: BlockIndex) -> Result<ScanTrace, TraceError> {
    match images.dims()[0] {
        1 => (),
        other => return Err(TraceError::Batch(other)),
    }
    let BlockIndex { stage, block } = layer;
    let (block, x) = trunk.run_to(images, stage, block).ok_or_else(|| TraceError::NoSuchLayer { layer, depths: trunk.depths() })?;
    let (operator, x) = block.operator(x).ok_or(TraceError::NoScan)?;
    let (scan, routes) = operator.image_scan(x).ok_or(TraceError::Cascade)?;
    Ok(ScanTrace::of(scan, &routes))
}

impl ScanTrace {
    /// Reads the arguments of a scan of one image.
    pub(crate) fn of(scan: ScanArguments, routes: &[Route]) -> Self {
        let [_, height, width, channels] = scan.x.dims();
        let [_, _, rank] = scan.dt_weight.dims();
        let (length, state) = (height * width, scan.a_logs.dims()[1]);
        let projections = scan.projections.clone().cast(DType::F32).reshape([length, routes.len() * (rank + 2 * state)]);
        let route = |(group, route): (usize, &Route)| {
            let part = |from: usize, size: usize| projections.clone().narrow(1, group * (rank + 2 * state) + from, size);
            let weight: Tensor<2> = scan.dt_weight.clone().narrow(0, group, 1).squeeze_dim(0);
            let step = vision_ops::linear(part(0, rank), weight, None) + scan.dt_bias.clone().narrow(0, group, 1);
            RouteTrace {
                route: *route,
                delta: values(vision_ops::softplus(step)),
                a: values(scan.a_logs.clone().narrow(0, group * channels, channels).exp().neg()),
                b: values(part(rank, state)),
                c: values(part(rank + state, state)),
                d: values(scan.d.clone().narrow(0, group * channels, channels)),
            }
        };
        Self {
            size: [height, width],
            channels,
            state,
            u: values(scan.x.clone()),
            routes: routes.iter().enumerate().map(route).collect(),
            merged: values(scan.scan(routes)),
        }
    }
}

fn values<const R: usize>(tensor: Tensor<R>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
