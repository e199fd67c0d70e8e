//! ConvNeXt (Liu et al., "A ConvNet for the 2020s"): depthwise 7x7 convolutions and MLPs, with LayerNorm and layer scale.
//!
//! ```text
//! image ─ stem: conv 4x4 /4, norm ─ stages[0] ─ stages[1] ─ stages[2] ─ stages[3]   a stage: downsample (norm, conv 2x2 /2), blocks
//!                                       │           │           │           │
//!                                   outnorm[0]  outnorm[1]  outnorm[2]  outnorm[3]  backbone: strides 4, 8, 16, 32
//!                                                                           └─ classifier: average, norm, head
//! block:  x ─┬─ dwconv 7x7 ─ norm ─ pwconv1 ─ gelu ─ pwconv2 ─ gamma * ─ drop path ─ + ─
//!            └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Keys and the output norms `norm0` … `norm3` are those of the official repository and its detectors.

mod family;

use std::borrow::Cow;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use serde::{Deserialize, Serialize};
use vision_ops::{Pointwise, gelu};

use crate::complexity::{Complexity, OpKind, product};
use crate::feature_pyramid::{FeaturePyramid, normalised};
use crate::last_map::{Chain, channels_first, last_map_of_trunk};
use crate::layers::{ChannelNorm, Conv, ConvConfig, Dense, DepthwiseConv, DropPath};
use crate::vmamba::ConfigError;
use crate::vmamba::config::{require, require_stages};

/// Added to the variance in every norm.
const EPSILON: f64 = 1e-6;
/// Size of the depthwise convolutions.
const KERNEL: usize = 7;
/// Hidden width of the MLP over the block's.
const EXPANSION: usize = 4;

/// Options of a ConvNeXt. The default is ConvNeXt-T.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConvnextConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Blocks of each stage; its length is the number of stages.
    pub depths: Vec<usize>,
    /// Channels of each stage.
    pub dims: Vec<usize>,
    /// Stochastic depth of the last block; it rises linearly from 0 over all blocks.
    pub drop_path_rate: f64,
    /// Where the scale of every block's branch starts; 0 leaves the scale out.
    pub layer_scale_init_value: f64,
    /// Stages whose features the backbone gives, ascending.
    pub out_indices: Vec<usize>,
}

/// The backbone: the normalised feature of every stage of `out_indices`.
#[derive(Module, Debug)]
pub struct Convnext {
    trunk: Trunk,
    /// One entry a stage; only the stages of `out_indices` have a norm.
    outnorm: Vec<Option<ChannelNorm>>,
    #[module(skip)]
    config: ConvnextConfig,
}

/// The classifier.
#[derive(Module, Debug)]
pub struct ConvnextClassifier {
    trunk: Trunk,
    norm: ChannelNorm,
    head: Dense,
    #[module(skip)]
    config: ConvnextConfig,
}

/// What backbone and classifier share: the stem and the stages.
#[derive(Module, Debug)]
pub struct Trunk {
    stem: NormConv,
    stages: Vec<Stage>,
}

/// Blocks of one resolution, and the way there from the stage before.
#[derive(Module, Debug)]
pub struct Stage {
    downsample: Option<NormConv>,
    blocks: Vec<Block>,
}

/// A strided convolution, normalised behind it in the stem and before it between stages.
#[derive(Module, Debug)]
pub struct NormConv {
    norm: ChannelNorm,
    conv: Conv,
}

/// A residual block.
#[derive(Module, Debug)]
pub struct Block {
    dwconv: DepthwiseConv,
    norm: ChannelNorm,
    pwconv1: Dense,
    pwconv2: Dense,
    /// Layer scale, `[channels]`.
    gamma: Option<Param<Tensor<1>>>,
    drop_path: DropPath,
}

impl Default for ConvnextConfig {
    fn default() -> Self {
        Self::tiny()
    }
}

impl ConvnextConfig {
    /// ConvNeXt-T: 28.6M parameters, 4.5 GFLOPs. `drop_path_rate` is that of ImageNet-1K; the published detectors use 0.4.
    pub fn tiny() -> Self {
        Self {
            in_chans: 3,
            depths: vec![3, 3, 9, 3],
            dims: vec![96, 192, 384, 768],
            drop_path_rate: 0.1,
            layer_scale_init_value: 1e-6,
            out_indices: vec![0, 1, 2, 3],
        }
    }

    /// ConvNeXt-S: 50.2M parameters, 8.7 GFLOPs. The published detectors use a `drop_path_rate` of 0.6.
    pub fn small() -> Self {
        Self { depths: vec![3, 3, 27, 3], drop_path_rate: 0.4, ..Self::tiny() }
    }

    /// ConvNeXt-B: 88.6M parameters, 15.4 GFLOPs. The published detectors use a `drop_path_rate` of 0.7.
    pub fn base() -> Self {
        Self { dims: vec![128, 256, 512, 1024], drop_path_rate: 0.5, ..Self::small() }
    }

    /// Checks that the options make a network.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first field that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require(self.in_chans > 0, "in_chans", "at least 1", &self.in_chans)?;
        let positive = |numbers: &[usize]| !numbers.is_empty() && numbers.iter().all(|number| *number > 0);
        require(positive(&self.depths), "depths", "one positive number a stage", &self.depths)?;
        let dims = positive(&self.dims) && self.dims.len() == self.depths.len();
        require(dims, "dims", "one positive number a stage, as many as depths", &self.dims)?;
        require((0.0..1.0).contains(&self.drop_path_rate), "drop_path_rate", "a rate in [0, 1)", &self.drop_path_rate)?;
        let scale = self.layer_scale_init_value;
        require(scale >= 0.0 && scale.is_finite(), "layer_scale_init_value", "0 or a positive number", &scale)?;
        require_stages(&self.out_indices, self.depths.len())
    }

    /// Checks that the network can take images of `[height, width]` pixels. Sizes that a stride does not divide are rounded down, so that
    /// the image must have a position in the last stage, 32 pixels each way for four stages.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the size.
    pub fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError> {
        let least = self.stride(self.depths.len().saturating_sub(1));
        require(image.iter().all(|size| *size >= least), "image", &format!("height and width of at least {least} pixels"), &image)
    }

    /// A backbone with random weights on `device`.
    ///
    /// # Errors
    /// As [`ConvnextConfig::validate`].
    pub fn try_init(&self, device: &Device) -> Result<Convnext, ConfigError> {
        self.validate()?;
        let norm = |(stage, dim): (usize, &usize)| self.out_indices.contains(&stage).then(|| norm(*dim, device));
        let outnorm = self.dims.iter().enumerate().map(norm).collect();
        Ok(Convnext { trunk: Trunk::new(self, device), outnorm, config: self.clone() })
    }

    /// A classifier with random weights on `device`. `out_indices` has no meaning for it.
    ///
    /// # Errors
    /// As [`ConvnextConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<ConvnextClassifier, ConfigError> {
        self.validate()?;
        let width = self.dim(self.dims.len() - 1);
        Ok(ConvnextClassifier {
            trunk: Trunk::new(self, device),
            norm: norm(width, device),
            head: Dense::new(width, num_classes, true, device),
            config: self.clone(),
        })
    }

    /// Channels of stage `stage`; 0 for a stage that does not exist.
    pub fn dim(&self, stage: usize) -> usize {
        self.dims.get(stage).copied().unwrap_or(0)
    }

    /// Pixels of the image between two neighbouring positions of stage `stage`.
    pub fn stride(&self, stage: usize) -> usize {
        4 << stage
    }

    /// Height and width of every stage's feature for an image of `[height, width]` pixels.
    pub fn stage_sizes(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        (0..self.depths.len()).map(|stage| image.map(|size| size / self.stride(stage))).collect()
    }

    /// Stochastic depth of every block, from 0 to `drop_path_rate` in equal steps.
    pub fn drop_path_rates(&self) -> Vec<f64> {
        let steps = self.depths.iter().sum::<usize>().saturating_sub(1);
        (0..=steps).map(|step| self.drop_path_rate * step as f64 / steps.max(1) as f64).collect()
    }

    /// Cost of the backbone, output norms included, for one image of `[height, width]` pixels.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.trunk_complexity(image);
        for (stage, size) in self.stage_sizes(image).into_iter().enumerate().filter(|(stage, _)| self.out_indices.contains(stage)) {
            cost.layer_norm(self.dim(stage), size);
        }
        cost
    }

    /// Cost of the classifier for one image of `[height, width]` pixels.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let mut cost = self.trunk_complexity(image);
        if let (Some([height, width]), Some(dim)) = (self.stage_sizes(image).pop(), self.dims.last()) {
            cost.add(OpKind::AdaptiveAvgPool, product(&[*dim, height, width]));
            cost.layer_norm(*dim, [1, 1]);
            cost.linear(OpKind::Linear, *dim, num_classes, true, [1, 1]);
        }
        cost
    }

    fn trunk_complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = Complexity::default();
        let mut size = cost.conv_layer(&self.stem(), image);
        cost.layer_norm(self.dim(0), size);
        for (stage, (depth, dim)) in self.depths.iter().zip(&self.dims).enumerate() {
            if let Some(conv) = self.downsample(stage) {
                cost.layer_norm(conv.inputs, size);
                size = cost.conv_layer(&conv, size);
            }
            for _ in 0..*depth {
                cost.depthwise(*dim, KERNEL, true, size);
                cost.layer_norm(*dim, size);
                cost.linear(OpKind::Linear, *dim, EXPANSION * dim, true, size);
                cost.linear(OpKind::Linear, EXPANSION * dim, *dim, true, size);
                cost.add_params(if self.layer_scale_init_value > 0.0 { *dim } else { 0 });
            }
        }
        cost
    }

    fn stem(&self) -> ConvConfig {
        ConvConfig { inputs: self.in_chans, outputs: self.dim(0), kernel: 4, stride: 4, padding: 0 }
    }

    /// What leads to stage `stage`; the stem leads to the first.
    fn downsample(&self, stage: usize) -> Option<ConvConfig> {
        let before = stage.checked_sub(1)?;
        Some(ConvConfig { inputs: self.dim(before), outputs: self.dim(stage), kernel: 2, stride: 2, padding: 0 })
    }
}

impl Convnext {
    /// The configuration it was built from.
    pub fn config(&self) -> &ConvnextConfig {
        &self.config
    }
}

impl FeaturePyramid for Convnext {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        normalised(self.trunk.forward(images), &self.outnorm)
    }

    fn channels(&self) -> Vec<usize> {
        self.config.out_indices.iter().map(|stage| self.config.dim(*stage)).collect()
    }

    fn strides(&self) -> Vec<usize> {
        self.config.out_indices.iter().map(|stage| self.config.stride(*stage)).collect()
    }
}

impl ConvnextClassifier {
    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to logits `[batch, num_classes]`, float32.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.head.forward(self.features(images))
    }

    /// What goes into the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let Some(feature) = self.trunk.forward(images).pop() else {
            unreachable!("a valid configuration has at least one stage");
        };
        let [batch, _, _, channels] = feature.dims();
        let averaged: Tensor<2> = feature.cast(DType::F32).mean_dim(1).mean_dim(2).reshape([batch, channels]);
        self.norm.forward(averaged)
    }

    /// The last linear layer.
    pub fn head(&self) -> &Dense {
        &self.head
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &ConvnextConfig {
        &self.config
    }
}

last_map_of_trunk!(Convnext, ConvnextClassifier);

impl Trunk {
    /// See [`LastMap`](crate::LastMap).
    fn chain(&self, _image: [usize; 2]) -> Chain<'_> {
        let mut chain = Chain::of(|images: Tensor<4>| self.stem.norm.forward(self.stem.conv.forward(images.permute([0, 2, 3, 1]))));
        for Stage { downsample, blocks } in &self.stages {
            if let Some(NormConv { norm, conv }) = downsample {
                chain = chain.then(|x| conv.forward(norm.forward(x)));
            }
            chain = blocks.iter().fold(chain, |chain, block| chain.then(|x| block.forward(x)));
        }
        chain.then(channels_first)
    }

    fn new(config: &ConvnextConfig, device: &Device) -> Self {
        let mut rates = config.drop_path_rates().into_iter();
        let stages = config.depths.iter().zip(&config.dims).enumerate().map(|(stage, (depth, dim))| Stage {
            downsample: config.downsample(stage).map(|shape| NormConv { norm: norm(shape.inputs, device), conv: conv(&shape, device) }),
            blocks: rates.by_ref().take(*depth).map(|rate| Block::new(config, *dim, rate, device)).collect(),
        });
        let stem = NormConv { norm: norm(config.dim(0), device), conv: conv(&config.stem(), device) };
        Self { stages: stages.collect(), stem }
    }

    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to the feature `[batch, height', width', dim]` of every stage in the
    /// same type, without norm.
    fn forward(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut x = self.stem.norm.forward(self.stem.conv.forward(images.permute([0, 2, 3, 1])));
        let mut features = Vec::with_capacity(self.stages.len());
        for Stage { downsample, blocks } in &self.stages {
            if let Some(NormConv { norm, conv }) = downsample {
                x = conv.forward(norm.forward(x));
            }
            x = blocks.iter().fold(x, |x, block| block.forward(x));
            features.push(x.clone());
        }
        features
    }
}

impl Block {
    fn new(config: &ConvnextConfig, dim: usize, drop_path_rate: f64, device: &Device) -> Self {
        let scale = config.layer_scale_init_value;
        Self {
            dwconv: DepthwiseConv { weight: normal([dim, 1, KERNEL, KERNEL], device), bias: Some(zeros(dim, device)) },
            norm: norm(dim, device),
            pwconv1: Dense::new(dim, EXPANSION * dim, true, device),
            pwconv2: Dense::new(EXPANSION * dim, dim, true, device),
            gamma: (scale > 0.0).then(|| Param::from_tensor(Tensor::full([dim], scale, device))),
            drop_path: DropPath::new(drop_path_rate),
        }
    }

    /// `[batch, height, width, dim]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.norm.forward(self.dwconv.forward(x.clone()));
        if x.device().is_autodiff() {
            let y = self.pwconv2.forward(gelu(self.pwconv1.forward(y)));
            return x + self.drop_path.forward(self.scaled(y));
        }
        let mut layers = [&self.pwconv1, &self.pwconv2].map(|layer| (layer.weight.val(), layer.bias.as_ref().map(Param::val)));
        let [batch, height, width, dim] = x.dims();
        match &self.gamma {
            // The map is smaller than the weights that the scale would be multiplied into.
            Some(_) if batch * height * width < EXPANSION * dim => x + self.scaled(vision_ops::mlp(y, layers, Pointwise::Gelu, None)),
            gamma => {
                if let Some(gamma) = gamma {
                    let (gamma, (weight, bias)) = (gamma.val(), layers[1].clone());
                    layers[1] = (weight * gamma.clone().unsqueeze_dim(1), bias.map(|bias| bias * gamma));
                }
                vision_ops::mlp(y, layers, Pointwise::Gelu, Some(x))
            }
        }
    }

    /// The branch times the layer scale, in the type of the branch.
    fn scaled(&self, branch: Tensor<4>) -> Tensor<4> {
        let Some(gamma) = &self.gamma else {
            return branch;
        };
        let gamma: Tensor<4> = gamma.val().reshape([1, 1, 1, -1]).cast(branch.dtype());
        branch * gamma
    }
}

fn norm(channels: usize, device: &Device) -> ChannelNorm {
    ChannelNorm::with_epsilon(channels, EPSILON, device)
}

fn conv(shape: &ConvConfig, device: &Device) -> Conv {
    let weight = normal([shape.outputs, shape.inputs, shape.kernel, shape.kernel], device);
    shape.with_parameters(weight, Some(zeros(shape.outputs, device)))
}

/// Initial weights of convolutions.
fn normal(shape: [usize; 4], device: &Device) -> Param<Tensor<4>> {
    Param::from_tensor(Tensor::random(shape, Distribution::Normal(0.0, 0.02), device))
}

/// Initial biases.
fn zeros(channels: usize, device: &Device) -> Param<Tensor<1>> {
    Param::from_tensor(Tensor::zeros([channels], device))
}

/// The key in the official repository, classifiers and detectors, of the parameter at `path` in a [`Convnext`] or [`ConvnextClassifier`].
///
/// ```
/// use vmamba::baselines::convnext::key;
/// assert_eq!(key("trunk.stem.conv.weight"), "downsample_layers.0.0.weight");
/// assert_eq!(key("trunk.stages.2.downsample.conv.weight"), "downsample_layers.2.1.weight");
/// assert_eq!(key("trunk.stages.2.blocks.8.pwconv1.bias"), "stages.2.8.pwconv1.bias");
/// assert_eq!(key("outnorm.3.weight"), "norm3.weight");
/// ```
pub fn key(path: &str) -> String {
    let path = path.strip_prefix("trunk.").unwrap_or(path);
    match *path.split('.').collect::<Vec<_>>() {
        // The first module is 0: the norm before a convolution, or the convolution of the stem.
        ["stem", "conv", name] => format!("downsample_layers.0.0.{name}"),
        ["stem", "norm", name] => format!("downsample_layers.0.1.{name}"),
        ["stages", stage, "downsample", "norm", name] => format!("downsample_layers.{stage}.0.{name}"),
        ["stages", stage, "downsample", "conv", name] => format!("downsample_layers.{stage}.1.{name}"),
        ["stages", stage, "blocks", block, ref rest @ ..] => format!("stages.{stage}.{block}.{}", rest.join(".")),
        ["outnorm", stage, name] => format!("norm{stage}.{name}"),
        _ => path.to_owned(),
    }
}

/// That key for one of timm, torchvision or mmpretrain.
///
/// A classifier of mmpretrain has its norm as `backbone.norm3`; in its detectors, whose keys are looked up without `backbone.`, `norm3` is
/// the norm of the last level.
pub fn rename(key: &str) -> Option<Cow<'_, str>> {
    let (key, classifier) = match key.strip_prefix("backbone.") {
        Some(key) => (key, true),
        None => (key, false),
    };
    let renamed = match *key.split('.').collect::<Vec<_>>() {
        // timm
        ["stem", index, name] => format!("downsample_layers.0.{index}.{name}"),
        ["stages", stage, "downsample", index, name] => format!("downsample_layers.{stage}.{index}.{name}"),
        ["stages", stage, "blocks", block, ref rest @ ..] => format!("stages.{stage}.{block}.{}", block_key(rest)),
        ["head", "norm", name] => format!("norm.{name}"),
        ["head", "fc", name] => format!("head.{name}"),
        // torchvision: stem, and then stages and downsamplings in turn
        ["features", "0", index, name] => format!("downsample_layers.0.{index}.{name}"),
        ["features", index, first, ref rest @ ..] => {
            let Ok(index) = index.parse::<usize>() else {
                return Some(key.into());
            };
            match (index % 2, rest) {
                (0, [name]) => format!("downsample_layers.{}.{first}.{name}", index / 2),
                _ => format!("stages.{}.{first}.{}", index / 2, block_key(rest)),
            }
        }
        ["classifier", "0", name] => format!("norm.{name}"),
        ["classifier", "2", name] => format!("head.{name}"),
        // mmpretrain
        ["stages", stage, block, ref rest @ ..] => format!("stages.{stage}.{block}.{}", block_key(rest)),
        ["norm3", name] if classifier => format!("norm.{name}"),
        _ => return Some(key.into()),
    };
    Some(renamed.into())
}

/// The official name of a parameter inside a block for one of timm (`conv_dw`, `mlp.fc1`), torchvision (`block.0`) or mmpretrain
/// (`depthwise_conv`).
fn block_key(names: &[&str]) -> String {
    let (module, name) = match *names {
        ["layer_scale"] => return "gamma".to_owned(),
        ["conv_dw" | "depthwise_conv", name] | ["block", "0", name] => ("dwconv", name),
        ["block", "2", name] => ("norm", name),
        ["mlp", "fc1", name] | ["pointwise_conv1", name] | ["block", "3", name] => ("pwconv1", name),
        ["mlp", "fc2", name] | ["pointwise_conv2", name] | ["block", "5", name] => ("pwconv2", name),
        _ => return names.join("."),
    };
    format!("{module}.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> ConvnextConfig {
        ConvnextConfig { depths: vec![1, 2], dims: vec![8, 12], out_indices: vec![0, 1], ..ConvnextConfig::default() }
    }

    #[test]
    fn options_that_make_no_network_are_refused_by_name() {
        type Change = fn(&mut ConvnextConfig);
        let changes: [(&str, Change); 7] = [
            ("in_chans", |c| c.in_chans = 0),
            ("depths", |c| c.depths = vec![]),
            ("dims", |c| c.dims = vec![8]),
            ("drop_path_rate", |c| c.drop_path_rate = 1.0),
            ("layer_scale_init_value", |c| c.layer_scale_init_value = f64::NAN),
            ("out_indices", |c| c.out_indices = vec![4]),
            ("out_indices", |c| c.out_indices = vec![1, 0]),
        ];
        for (field, change) in changes {
            let mut config = ConvnextConfig::default();
            change(&mut config);
            let error = config.try_init(&Device::flex()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}`")), "{field}: {error}");
        }
        let error = ConvnextConfig::tiny().check_image([224, 31]).unwrap_err().to_string();
        assert!(error.contains("at least 32 pixels"), "{error}");
        assert!(ConvnextConfig::tiny().check_image([32, 33]).is_ok());
    }

    #[test]
    fn sizes_channels_and_rates_are_as_promised_in_both_types() {
        let config = small();
        let backbone = config.try_init(&Device::flex()).unwrap();
        assert_eq!((backbone.channels(), backbone.strides()), (vec![8, 12], vec![4, 8]));
        for dtype in [DType::F32, DType::BF16] {
            let features = backbone.forward_features(Tensor::ones([2, 3, 45, 34], (&Device::flex(), dtype)));
            let found: Vec<_> = features.iter().map(|feature| (feature.dims(), feature.dtype())).collect();
            assert_eq!(found, [([2, 8, 11, 8], dtype), ([2, 12, 5, 4], dtype)]);
        }
        assert_eq!(config.stage_sizes([45, 34]), [[11, 8], [5, 4]]);
        assert_eq!(config.drop_path_rates(), [0.0, 0.05, 0.1]);
    }

    #[test]
    fn the_last_norm_of_a_classifier_is_not_that_of_a_level() {
        assert_eq!(rename("backbone.norm3.weight").unwrap(), "norm.weight");
        assert_eq!(rename("norm3.weight").unwrap(), "norm3.weight");
        assert_eq!(rename("something.else").unwrap(), "something.else");
    }
}
