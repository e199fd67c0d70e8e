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
//! The keys, with the output norms `norm0` … `norm3`, are those of the official repository and its detectors.

mod config;
mod family;
mod key_map;

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{DType, Distribution};
use vision_ops::{Pointwise, gelu};

use crate::feature_pyramid::{FeaturePyramid, normalised};
use crate::last_map::{Chain, channels_first, last_map_of_trunk};
use crate::layers::{ChannelNorm, Conv, ConvConfig, Dense, DepthwiseConv, DropPath};

pub use config::ConvnextConfig;
pub use key_map::{key, rename};

/// Epsilon of every norm.
const EPSILON: f64 = 1e-6;
/// Kernel size of the depthwise convolutions.
const KERNEL: usize = 7;
/// Hidden width of the MLP over the block width.
const EXPANSION: usize = 4;

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

/// The stem and stages, which backbone and classifier share.
#[derive(Module, Debug)]
pub struct Trunk {
    stem: NormConv,
    stages: Vec<Stage>,
}

/// The downsampling from the stage before, and the blocks of one resolution.
#[derive(Module, Debug)]
pub struct Stage {
    downsample: Option<NormConv>,
    blocks: Vec<Block>,
}

/// A strided convolution and a norm, which follows the convolution in the stem and precedes it between stages.
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

    /// The input of the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
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

    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to the feature `[batch, height', width', dim]` of every stage, in the
    /// type of the images, without norm.
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
            // The map is smaller than the weights, so scaling the map is cheaper than scaling the weights.
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
