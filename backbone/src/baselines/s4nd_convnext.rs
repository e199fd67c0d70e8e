//! S4ND-ConvNeXt (Nguyen et al. 2022, "S4ND: Modeling Images and Videos as Multidimensional Signals Using State Spaces"): ConvNeXt with
//! [S4ND layers](super::s4nd), which see the whole map, instead of 7x7 convolutions and in the stem.
//!
//! ```text
//! image ─ S4ND 3 → 32, average 4x4, linear, gate, norm ─ stages[0] ─ stages[1] ─ stages[2] ─ stages[3] ─ average ─ norm ─ fc
//!                                                                    └─ norm, downsample, blocks
//! block: x + gamma * MLP(norm(S4ND(x)))
//! ```
//!
//! The reference is `convnext_timm.py` of the authors' repository (state-spaces/s4) in the copy that VMamba's authors measured
//! (`analyze/convnexts4nd`). Kernels have the length of the maps of images of [`S4ndConvnextConfig::image_size`], also on maps of other sizes.

mod config;
mod family;
mod key_map;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution, activation};
use vision_ops::{Fused, Pointwise};

use super::s4nd::S4nd;
use crate::feature_pyramid::FeaturePyramid;
use crate::last_map::{Chain, channels_first, last_map_of_trunk};
use crate::layers::{Activation, ChannelNorm, Conv, ConvConfig, Dense, DropPath, halves, uniform_fan_in};

pub use config::{S4ndConvnextConfig, S4ndDownsampling};
pub use key_map::{key, rename};

/// Epsilon of every norm.
const EPSILON: f64 = 1e-6;

/// Hidden width of a block's MLP over its channels.
const MLP_RATIO: usize = 4;

fn norm(channels: usize, device: &Device) -> ChannelNorm {
    ChannelNorm::with_epsilon(channels, EPSILON, device)
}

/// A linear layer with PyTorch's default initialisation, official `TransposedLinear`.
fn linear(inputs: usize, outputs: usize, device: &Device) -> Dense {
    Dense { weight: uniform_fan_in([outputs, inputs], inputs, device), bias: Some(uniform_fan_in([outputs], inputs, device)) }
}

/// A gated linear unit: the first half of the channels times the sigmoid of the second half.
fn gated(x: Tensor<4>) -> Tensor<4> {
    let [x, gate] = halves(x);
    x * activation::sigmoid(gate)
}

/// The backbone.
#[derive(Module, Debug)]
pub struct S4ndConvnext {
    trunk: Trunk,
    #[module(skip)]
    config: S4ndConvnextConfig,
}

/// The classifier (official `ConvNeXt`).
#[derive(Module, Debug)]
pub struct S4ndConvnextClassifier {
    trunk: Trunk,
    head: Head,
    #[module(skip)]
    config: S4ndConvnextConfig,
}

/// The stem and stages, which backbone and classifier share.
#[derive(Module, Debug)]
struct Trunk {
    stem: Stem,
    stages: Vec<Stage>,
}

/// S4ND, average over the patch, linear, gate, norm (official `Stem` of type `new_s4nd_patch`).
#[derive(Module, Debug)]
struct Stem {
    stem: S4nd,
    fc: Dense,
    norm: ChannelNorm,
    #[module(skip)]
    patch_size: usize,
}

#[derive(Module, Debug)]
struct Stage {
    /// The norm before the downsampling.
    norm_layer: Option<ChannelNorm>,
    downsample: Option<Downsample>,
    blocks: Vec<Block>,
}

#[derive(Module, Debug)]
enum Downsample {
    Convolution(Conv),
    S4nd(S4ndDownsample),
}

/// S4ND, average over 2x2, linear, gate (official `S4DownSample`).
#[derive(Module, Debug)]
struct S4ndDownsample {
    s4conv: S4nd,
    fc: Dense,
}

/// `x + gamma * MLP(norm(S4ND(x)))`.
#[derive(Module, Debug)]
struct Block {
    conv_dw: S4nd,
    norm: ChannelNorm,
    mlp: BlockMlp,
    /// Scale of the branch, `[channels]`.
    gamma: Param<Tensor<1>>,
    drop_path: DropPath,
}

#[derive(Module, Debug)]
struct BlockMlp {
    fc1: Dense,
    fc2: Dense,
}

/// Average over positions, norm, linear.
#[derive(Module, Debug)]
struct Head {
    norm: ChannelNorm,
    fc: Dense,
}

impl S4ndConvnext {
    /// The configuration it was built from.
    pub fn config(&self) -> &S4ndConvnextConfig {
        &self.config
    }
}

impl FeaturePyramid for S4ndConvnext {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let features = self.trunk.forward(images).into_iter().enumerate();
        features.filter(|(stage, _)| self.config.out_indices.contains(stage)).map(|(_, feature)| feature.permute([0, 3, 1, 2])).collect()
    }

    fn channels(&self) -> Vec<usize> {
        self.config.out_indices.iter().map(|stage| self.config.dims[*stage]).collect()
    }

    fn strides(&self) -> Vec<usize> {
        let strides = self.config.strides();
        self.config.out_indices.iter().map(|stage| strides[*stage]).collect()
    }
}

impl S4ndConvnextClassifier {
    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to logits `[batch, num_classes]`, float32.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.fc.forward(self.features(images))
    }

    /// The input of the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        match self.trunk.forward(images).pop() {
            Some(feature) => self.head.pooled(feature),
            None => unreachable!("a valid configuration has at least one stage"),
        }
    }

    /// The last linear layer.
    pub fn head(&self) -> &Dense {
        &self.head.fc
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &S4ndConvnextConfig {
        &self.config
    }
}

last_map_of_trunk!(S4ndConvnext, S4ndConvnextClassifier);

impl Trunk {
    /// See [`LastMap`](crate::LastMap).
    fn chain(&self, _image: [usize; 2]) -> Chain<'_> {
        let mut chain = Chain::of(|images: Tensor<4>| self.stem.forward(images.permute([0, 2, 3, 1])));
        for stage in &self.stages {
            chain = chain.then(|x| stage.enter(x));
            chain = stage.blocks.iter().fold(chain, |chain, block| chain.then(|x| block.forward(x)));
        }
        chain.then(channels_first)
    }

    fn new(config: &S4ndConvnextConfig, device: &Device) -> Self {
        let (stages, blocks) = (config.depths.len(), config.depths.iter().sum::<usize>());
        let step = config.drop_path_rate / (blocks.max(2) - 1) as f64;
        let mut rates = (0..blocks).map(|block| step * block as f64);
        Self {
            stem: Stem {
                stem: config.stem_layer().init(device),
                fc: linear(config.stem_channels, 2 * config.dims[0], device),
                norm: norm(config.dims[0], device),
                patch_size: config.patch_size,
            },
            stages: (0..stages).map(|stage| Stage::new(config, stage, &mut rates, device)).collect(),
        }
    }

    /// `images` `[batch, in_chans, height, width]` to the map `[batch, height', width', dim]` of every stage, in the type of the images.
    fn forward(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut x = self.stem.forward(images.permute([0, 2, 3, 1]));
        let mut features = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            x = stage.forward(x);
            features.push(x.clone());
        }
        features
    }
}

impl Stem {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.stem.forward_pooled(x, self.patch_size);
        self.norm.forward(gated(self.fc.forward(x)))
    }
}

impl Stage {
    /// `rates` yields the stochastic depth of this stage's blocks and of those after it.
    fn new(config: &S4ndConvnextConfig, stage: usize, rates: &mut impl Iterator<Item = f64>, device: &Device) -> Self {
        let before = stage.checked_sub(1);
        let downsample = |before: usize| {
            let (inputs, outputs) = (config.dims[before], config.dims[stage]);
            match config.downsample {
                S4ndDownsampling::Convolution => {
                    let weight = Tensor::random([outputs, inputs, 2, 2], Distribution::Normal(0.0, 0.02), device);
                    let bias = Param::from_tensor(Tensor::zeros([outputs], device));
                    Downsample::Convolution(halving(inputs, outputs).with_parameters(Param::from_tensor(weight), Some(bias)))
                }
                S4ndDownsampling::S4nd => {
                    Downsample::S4nd(S4ndDownsample { s4conv: config.layer(before).init(device), fc: linear(inputs, 2 * outputs, device) })
                }
            }
        };
        Self {
            norm_layer: before.map(|before| norm(config.dims[before], device)),
            downsample: before.map(downsample),
            blocks: rates.take(config.depths[stage]).map(|rate| Block::new(config, stage, rate, device)).collect(),
        }
    }

    /// `[batch, height, width, channels]` to `[batch, height', width', channels']`, with half as many positions along an axis after a
    /// downsampling.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.blocks.iter().fold(self.enter(x), |x, block| block.forward(x))
    }

    /// From the output of the stage before to the input of the first block.
    fn enter(&self, x: Tensor<4>) -> Tensor<4> {
        match (&self.norm_layer, &self.downsample) {
            (Some(norm), Some(downsample)) => downsample.forward(norm.forward(x)),
            _ => x,
        }
    }
}

/// The 2x2 convolution between two stages.
fn halving(inputs: usize, outputs: usize) -> ConvConfig {
    ConvConfig { inputs, outputs, kernel: 2, stride: 2, padding: 0 }
}

impl Downsample {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Convolution(conv) => conv.forward(x),
            Self::S4nd(S4ndDownsample { s4conv, fc }) => gated(fc.forward(halved(s4conv.forward(x)))),
        }
    }
}

/// The average over 2x2 positions; an odd last row or column is dropped.
fn halved(x: Tensor<4>) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let [rows, columns] = [height / 2, width / 2];
    let x: Tensor<6> = x.slice(s![.., ..2 * rows, ..2 * columns, ..]).reshape([batch, rows, 2, columns, 2, channels]);
    x.mean_dim(4).mean_dim(2).reshape([batch, rows, columns, channels])
}

impl Block {
    fn new(config: &S4ndConvnextConfig, stage: usize, drop_path_rate: f64, device: &Device) -> Self {
        let width = config.dims[stage];
        Self {
            conv_dw: config.layer(stage).init(device),
            norm: norm(width, device),
            mlp: BlockMlp {
                fc1: Dense::new(width, MLP_RATIO * width, true, device),
                fc2: Dense::new(MLP_RATIO * width, width, true, device),
            },
            gamma: Param::from_tensor(Tensor::full([width], config.layer_scale, device)),
            drop_path: DropPath::new(drop_path_rate),
        }
    }

    /// `[batch, height, width, channels]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let BlockMlp { fc1, fc2 } = &self.mlp;
        let branch = self.norm.forward(self.conv_dw.forward(x.clone()));
        let gamma = self.gamma.val();
        if !x.device().is_autodiff() {
            let hidden = fc1.forward_fused(branch, Fused::default().activation(Pointwise::Gelu));
            // The epilogue of the product applies the scale and adds the residual.
            let bias = fc2.bias.as_ref().map(|bias| bias.val() * gamma.clone());
            let fused = Fused { scale: Some(gamma), bias, residual: Some(x), activation: Pointwise::Identity };
            return vision_ops::linear_fused(hidden, fc2.weight.val(), fused);
        }
        let branch = fc2.forward(Activation::Gelu.forward(fc1.forward(branch)));
        let gamma = gamma.reshape([1, 1, 1, -1]).cast(branch.dtype());
        x + self.drop_path.forward(branch * gamma)
    }
}

impl Head {
    /// The normalised average over positions, in float32.
    fn pooled(&self, feature: Tensor<4>) -> Tensor<2> {
        let [batch, _, _, channels] = feature.dims();
        let averaged = feature.cast(DType::F32).mean_dim(1).mean_dim(2).reshape([batch, channels]);
        self.norm.forward(averaged)
    }
}
