//! S4ND-ConvNeXt (Nguyen et al. 2022, "S4ND: Modeling Images and Videos as Multidimensional Signals Using State Spaces"): ConvNeXt whose
//! 7x7 convolutions are [S4ND layers](super::s4nd) that see the whole map, and whose stem is one as well.
//!
//! ```text
//! image ─ S4ND 3 → 32, average 4x4, linear, gate, norm ─ stages[0] ─ stages[1] ─ stages[2] ─ stages[3] ─ average ─ norm ─ fc
//!                                                                    └─ norm, downsample, blocks
//! block: x + gamma * MLP(norm(S4ND(x)))
//! ```
//!
//! The reference is `convnext_timm.py` of the authors' repository (state-spaces/s4) in the copy that VMamba's authors measured
//! (`analyze/convnexts4nd`). Kernels are as long as the maps of images of [`S4ndConvnextConfig::image_size`], on maps of any size.

use std::borrow::Cow;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution, activation};
use serde::{Deserialize, Serialize};
use vision_ops::{Fused, Pointwise};

use super::s4nd::{S4nd, S4ndConfig};
use crate::complexity::{Complexity, OpKind, einsum_count, printed_half, product};
use crate::feature_pyramid::FeaturePyramid;
use crate::last_map::{Chain, channels_first, last_map_of_trunk};
use crate::layers::{Activation, ChannelNorm, Conv, ConvConfig, Dense, DropPath, halves, uniform_fan_in};
use crate::vmamba::ConfigError;
use crate::vmamba::config::require;

/// Added to the variance in every norm.
const EPSILON: f64 = 1e-6;

/// Hidden channels of a block's MLP, in multiples of its channels.
const MLP_RATIO: usize = 4;

/// Every option.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct S4ndConvnextConfig {
    /// Channels of the image.
    pub in_chans: usize,
    /// Pixels of one position of the first stage along each axis, 4.
    pub patch_size: usize,
    /// Channels of the stem's S4ND layer.
    pub stem_channels: usize,
    /// How many pixels the stem's kernels reach in either direction, vertically and horizontally.
    pub stem_lengths: [usize; 2],
    /// Blocks of every stage.
    pub depths: Vec<usize>,
    /// Channels of every stage.
    pub dims: Vec<usize>,
    /// Height and width of the images whose maps the kernels span; others are allowed, see [`S4ndConvnextConfig::check_image`].
    pub image_size: [usize; 2],
    /// States of every kernel, an even number.
    pub d_state: usize,
    /// Step sizes of the state spaces start between these.
    pub dt_range: [f64; 2],
    /// The way to the next stage.
    pub downsample: S4ndDownsampling,
    /// Start of the scale of every branch (`gamma`).
    pub layer_scale: f64,
    /// Rate of stochastic depth of the last block; it grows from 0.
    pub drop_path_rate: f64,
    /// Stages whose features the backbone gives.
    pub out_indices: Vec<usize>,
}

/// The way from one stage to the next, behind a norm.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum S4ndDownsampling {
    /// ConvNeXt's 2x2 convolution of stride 2: official `patch`, the default of the code and what VMamba's authors measured.
    Convolution,
    /// S4ND, average over 2x2, linear, gate: official `s4nd` with `downsample_glu`, of the configuration that was trained on ImageNet.
    S4nd,
}

impl Default for S4ndConvnextConfig {
    fn default() -> Self {
        Self::tiny()
    }
}

impl S4ndConvnextConfig {
    /// S4ND-ConvNeXt-T as VMamba's tables have it: 30 M parameters, 5.2 GFLOPs.
    pub fn tiny() -> Self {
        Self {
            in_chans: 3,
            patch_size: 4,
            stem_channels: 32,
            stem_lengths: [16, 16],
            depths: vec![3, 3, 9, 3],
            dims: vec![96, 192, 384, 768],
            image_size: [224, 224],
            d_state: 64,
            dt_range: [0.1, 1.0],
            downsample: S4ndDownsampling::Convolution,
            layer_scale: 1e-6,
            drop_path_rate: 0.1,
            out_indices: vec![0, 1, 2, 3],
        }
    }

    /// S4ND-ConvNeXt-T as the authors' configuration for ImageNet has it (`convnext_timm_tiny_s4nd_imagenet.yaml`).
    pub fn tiny_s4nd_downsample() -> Self {
        Self { downsample: S4ndDownsampling::S4nd, ..Self::tiny() }
    }

    /// Checks that the options fit together.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first field that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let stages = self.depths.len();
        let positive = |values: &[usize]| !values.is_empty() && values.iter().all(|value| *value > 0);
        require(self.in_chans > 0, "in_chans", "at least 1", &self.in_chans)?;
        require(self.patch_size > 0, "patch_size", "at least 1", &self.patch_size)?;
        require(self.stem_channels > 0, "stem_channels", "at least 1", &self.stem_channels)?;
        require(positive(&self.stem_lengths), "stem_lengths", "positive numbers", &self.stem_lengths)?;
        require(positive(&self.depths), "depths", "one positive number a stage", &self.depths)?;
        require(self.dims.len() == stages && positive(&self.dims), "dims", "as many positive numbers as `depths`", &self.dims)?;
        require(self.d_state > 0 && self.d_state.is_multiple_of(2), "d_state", "a positive even number", &self.d_state)?;
        let [low, high] = self.dt_range;
        require(low > 0.0 && high > low && high.is_finite(), "dt_range", "two positive numbers that rise", &self.dt_range)?;
        require(self.layer_scale.is_finite(), "layer_scale", "a finite number", &self.layer_scale)?;
        require((0.0..1.0).contains(&self.drop_path_rate), "drop_path_rate", "a rate in [0, 1)", &self.drop_path_rate)?;
        let rising = self.out_indices.windows(2).all(|pair| pair[0] < pair[1]);
        require(
            rising && self.out_indices.last().is_some_and(|last| *last < stages),
            "out_indices",
            &format!("at least one stage below {stages}, in rising order"),
            &self.out_indices,
        )?;
        let least = self.strides()[stages - 1];
        require(
            self.image_size.iter().all(|size| *size >= least),
            "image_size",
            &format!("at least {least}, so that the last stage has a position"),
            &self.image_size,
        )
    }

    /// Checks that the last stage has a position for images of this height and width.
    ///
    /// # Errors
    /// [`ConfigError::Field`] called `image`.
    pub fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError> {
        let least = self.strides().last().copied().unwrap_or(1);
        require(image.iter().all(|size| *size >= least), "image", &format!("at least {least} pixels along each axis"), &image)
    }

    /// The backbone with random weights.
    ///
    /// # Errors
    /// As [`S4ndConvnextConfig::validate`].
    pub fn try_init(&self, device: &Device) -> Result<S4ndConvnext, ConfigError> {
        self.validate()?;
        Ok(S4ndConvnext { trunk: Trunk::new(self, device), config: self.clone() })
    }

    /// The classifier with random weights.
    ///
    /// # Errors
    /// As [`S4ndConvnextConfig::validate`], and without classes.
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<S4ndConvnextClassifier, ConfigError> {
        self.validate()?;
        require(num_classes > 0, "num_classes", "at least 1", &num_classes)?;
        let width = self.dims[self.dims.len() - 1];
        let head = Head { norm: norm(width, device), fc: Dense::new(width, num_classes, true, device) };
        Ok(S4ndConvnextClassifier { trunk: Trunk::new(self, device), head, config: self.clone() })
    }

    /// Height and width of every stage's map for images of `[height, width]` pixels.
    pub fn stage_sizes(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        let first = image.map(|size| size / self.patch_size);
        (0..self.depths.len()).map(|stage| first.map(|size| size >> stage)).collect()
    }

    /// Pixels of a position of every stage along each axis.
    pub fn strides(&self) -> Vec<usize> {
        (0..self.depths.len()).map(|stage| self.patch_size << stage).collect()
    }

    /// Cost of the backbone for one image of `[height, width]` pixels.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        Counter::trunk(self, image).finish()
    }

    /// Cost of the classifier for one image of `[height, width]` pixels.
    ///
    /// VMamba's counting, to its digits: what the official code computes by Fourier transforms is counted by a formula for these, products
    /// of spectra by what fvcore makes of an einsum, and kernels hardly at all. LayerNorms of maps whose memory is not laid out by channels
    /// escape it: those of the stem and of the downsampling.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let mut counter = Counter::trunk(self, image);
        let last = self.dims.len() - 1;
        let (width, [height, columns]) = (self.dims[last], self.stage_sizes(image)[last]);
        counter.cost.add(OpKind::AdaptiveAvgPool, product(&[width, height, columns]));
        counter.cost.layer_norm(width, [1, 1]);
        counter.cost.linear(OpKind::Linear, width, num_classes, true, [1, 1]);
        counter.finish()
    }

    fn stem_layer(&self) -> S4ndConfig {
        let outputs = Some(self.stem_channels);
        S4ndConfig { inputs: self.in_chans, outputs, d_state: self.d_state, lengths: self.stem_lengths, dt_range: self.dt_range }
    }

    /// A depthwise layer whose kernels span the maps of stage `stage`.
    fn layer(&self, stage: usize) -> S4ndConfig {
        let lengths = self.stage_sizes(self.image_size)[stage];
        S4ndConfig { inputs: self.dims[stage], outputs: None, d_state: self.d_state, lengths, dt_range: self.dt_range }
    }
}

fn norm(channels: usize, device: &Device) -> ChannelNorm {
    ChannelNorm::with_epsilon(channels, EPSILON, device)
}

/// A linear layer with the framework's start, official `TransposedLinear`.
fn linear(inputs: usize, outputs: usize, device: &Device) -> Dense {
    Dense { weight: uniform_fan_in([outputs, inputs], inputs, device), bias: Some(uniform_fan_in([outputs], inputs, device)) }
}

/// The first half of the channels, as much as the second half lets through.
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

/// What backbone and classifier share.
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
    /// Before the downsampling.
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

    /// What goes into the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
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

    /// `images` `[batch, in_chans, height, width]` to the map `[batch, height', width', dim]` of every stage, in the same type.
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
    /// `rates` has a rate of stochastic depth for every block that is still to come.
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

    /// `[batch, height, width, channels]` to `[batch, height', width', channels']`, half as many positions along an axis where it
    /// downsamples.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.blocks.iter().fold(self.enter(x), |x, block| block.forward(x))
    }

    /// To what the first block gets.
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

/// The average over 2x2 positions; an odd row or column at the end is left out.
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
            // Scale and residual ride along with the product.
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
    /// The average and what follows, a row an image, are float32.
    fn pooled(&self, feature: Tensor<4>) -> Tensor<2> {
        let [batch, _, _, channels] = feature.dims();
        let averaged = feature.cast(DType::F32).mean_dim(1).mean_dim(2).reshape([batch, channels]);
        self.norm.forward(averaged)
    }
}

/// Counts an S4ND network; the transforms' FLOPs are no whole numbers before they are added up.
struct Counter {
    cost: Complexity,
    transforms: f64,
}

impl Counter {
    fn trunk(config: &S4ndConvnextConfig, image: [usize; 2]) -> Self {
        let mut counter = Self { cost: Complexity::default(), transforms: 0.0 };
        let sizes = config.stage_sizes(image);
        counter.s4nd(&config.stem_layer(), image);
        counter.gate(config.stem_channels, config.dims[0], sizes[0]);
        counter.cost.add_params(2 * config.dims[0]);
        for (stage, width) in config.dims.iter().copied().enumerate() {
            if let Some(before) = stage.checked_sub(1) {
                let inputs = config.dims[before];
                counter.cost.add_params(2 * inputs);
                match config.downsample {
                    S4ndDownsampling::Convolution => {
                        counter.cost.conv_layer(&halving(inputs, width), sizes[before]);
                    }
                    S4ndDownsampling::S4nd => {
                        counter.s4nd(&config.layer(before), sizes[before]);
                        counter.gate(inputs, width, sizes[stage]);
                    }
                }
            }
            for _ in 0..config.depths[stage] {
                counter.s4nd(&config.layer(stage), sizes[stage]);
                counter.cost.layer_norm(width, sizes[stage]);
                counter.cost.linear(OpKind::Linear, width, MLP_RATIO * width, true, sizes[stage]);
                counter.cost.linear(OpKind::Linear, MLP_RATIO * width, width, true, sizes[stage]);
                counter.cost.add_params(width);
            }
        }
        counter
    }

    fn finish(mut self) -> Complexity {
        self.cost.add(OpKind::Fft, self.transforms.round() as u64);
        self.cost
    }

    /// The linear layer before a gate, an einsum in the official code.
    fn gate(&mut self, inputs: usize, outputs: usize, [height, width]: [usize; 2]) {
        self.cost.add_params((inputs + 1) * 2 * outputs);
        self.cost.add(OpKind::Einsum, einsum_count(product(&[inputs, 2 * outputs, height, width])));
    }

    fn s4nd(&mut self, layer: &S4ndConfig, size: [usize; 2]) {
        self.cost.add_params(layer.num_params());
        let maps = layer.inputs * layer.outputs.unwrap_or(1);
        // Kernels are never longer than the map, and both are padded to the sum of their lengths.
        let padded = [0, 1].map(|axis| size[axis] + layer.lengths[axis].min(size[axis]));
        let spectrum = [padded[0], padded[1] / 2 + 1];
        for axis in [0, 1] {
            let kernel = [layer.kernel_channels(), layer.inputs, layer.lengths[axis] / 2 + 1];
            self.transform(&kernel, 1, true);
            self.transform(&[maps, padded[axis]], 1, false);
        }
        self.transform(&[layer.inputs, size[0], size[1]], 2, false);
        self.transform(&[layer.outputs.unwrap_or(layer.inputs), spectrum[0], spectrum[1]], 2, true);
        // The kernels' outer product, its product with the map, and the input's weight.
        let products = printed_half(product(&[maps, spectrum[0], spectrum[1]]));
        self.cost.add(OpKind::Einsum, 2 * products);
        if layer.outputs.is_none() {
            self.cost.add(OpKind::Einsum, printed_half(product(&[layer.inputs, size[0], size[1]])));
        }
    }

    /// VMamba's formula for a transform of the last `axes` axes: logarithms of the sizes times the number of values, four times that of
    /// complex ones.
    fn transform(&mut self, shape: &[usize], axes: usize, complex: bool) {
        let values: f64 = shape.iter().map(|size| *size as f64).product();
        let logarithms: f64 = shape[shape.len() - axes..].iter().map(|size| (*size as f64).log2()).product();
        self.transforms += values * logarithms * if complex { 4.0 } else { 1.0 };
    }
}

/// The key of the parameter at `path` in an [`S4ndConvnext`] or [`S4ndConvnextClassifier`] in the official `convnext_timm.ConvNeXt`.
pub fn key(path: &str) -> String {
    const RENAMED: [(&str, &str); 4] = [
        ("stem.fc.", "stem.post_stem.1."),
        ("stem.norm.", "stem.post_stem.3."),
        ("downsample.Convolution.", "downsample.conv."),
        ("downsample.S4nd.", "downsample."),
    ];
    let path = path.strip_prefix("trunk.").unwrap_or(path);
    RENAMED.iter().fold(path.to_owned(), |path, (ours, official)| path.replacen(ours, official, 1))
}

/// The official key for one of a training run's checkpoint, where the network is the part `model` of another; `None` for what is no
/// parameter: the length of a kernel, and roots of unity that older versions stored.
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    let key = key.strip_prefix("model.").unwrap_or(key);
    let buffer = key.contains(".kernel.") && [".l_kernel", ".omega", ".z"].iter().any(|end| key.ends_with(end));
    (!buffer).then_some(Cow::Borrowed(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_configuration_is_refused_by_its_field() {
        type Change = fn(&mut S4ndConvnextConfig);
        let changes: [(&str, Change); 8] = [
            ("in_chans", |c| c.in_chans = 0),
            ("dims", |c| c.dims = vec![96]),
            ("depths", |c| c.depths[0] = 0),
            ("d_state", |c| c.d_state = 7),
            ("dt_range", |c| c.dt_range = [0.5, 0.1]),
            ("drop_path_rate", |c| c.drop_path_rate = 1.0),
            ("out_indices", |c| c.out_indices = vec![4]),
            ("image_size", |c| c.image_size = [224, 31]),
        ];
        for (field, change) in changes {
            let mut config = S4ndConvnextConfig::tiny();
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{field}`")), "{message}");
        }
        assert!(S4ndConvnextConfig::tiny().check_image([224, 31]).is_err());
        assert!(S4ndConvnextConfig::tiny().check_image([32, 100]).is_ok());
    }

    #[test]
    fn keys_are_the_official_ones() {
        for (path, official) in [
            ("trunk.stem.stem.kernel.0.inv_dt", "stem.stem.kernel.0.inv_dt"),
            ("trunk.stem.fc.weight", "stem.post_stem.1.weight"),
            ("trunk.stem.norm.bias", "stem.post_stem.3.bias"),
            ("trunk.stages.1.downsample.Convolution.weight", "stages.1.downsample.conv.weight"),
            ("trunk.stages.1.downsample.S4nd.s4conv.D", "stages.1.downsample.s4conv.D"),
            ("trunk.stages.2.blocks.8.mlp.fc1.weight", "stages.2.blocks.8.mlp.fc1.weight"),
            ("head.norm.weight", "head.norm.weight"),
        ] {
            assert_eq!(key(path), official);
        }
        assert_eq!(rename("model.stages.0.blocks.0.gamma").as_deref(), Some("stages.0.blocks.0.gamma"));
        assert_eq!(rename("stages.0.blocks.0.conv_dw.kernel.1.l_kernel"), None);
    }
}
