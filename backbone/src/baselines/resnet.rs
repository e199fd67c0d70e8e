//! ResNet with bottleneck blocks (He et al., "Deep Residual Learning for Image Recognition"), in the variant of torchvision, timm and
//! mmdetection: the 3x3 convolution of a stage's first block has the stride ("v1.5", mmdetection's `style="pytorch"`).
//!
//! ```text
//! image ─ conv1 7x7 /2 ─ bn1 ─ relu ─ max pool 3x3 /2 ─ layers[0] ─ layers[1] ─ layers[2] ─ layers[3]
//!                                                           │           │           │           │   backbone: strides 4, 8, 16, 32
//!                                                                                               └─ classifier: average, fc
//! block:  x ─┬─ conv1 1x1 ─ bn1 ─ relu ─ conv2 3x3 ─ bn2 ─ relu ─ conv3 1x1 ─ bn3 ─ + ─ relu ─
//!            └─ downsample: conv 1x1, norm (first block of a stage), or nothing ────┘
//! ```
//!
//! The levels of the pyramid have no norm, as in the published detectors. mmsegmentation's segmentors replace the 7x7 convolution by three 3x3
//! ones (`ResNetV1c`); that is the option `deep_stem`.

mod config;
mod family;
mod key_map;

use burn::module::{Param, ParamGroup};
use burn::prelude::*;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{DType, Distribution};
use vision_ops::Pointwise;

use crate::feature_pyramid::FeaturePyramid;
use crate::last_map::{Chain, channels_first, last_map_of_trunk};
use crate::layers::{BatchNorm2d, Conv, ConvConfig, Dense, trains_batch_norm};

pub use config::ResnetConfig;
pub use key_map::{key, rename};

/// Output channels of a block over its inner channels.
const EXPANSION: usize = 4;

/// The backbone: the feature of every stage of `out_indices`, without the classifier.
#[derive(Module, Debug)]
pub struct Resnet {
    trunk: Trunk,
    #[module(skip)]
    config: ResnetConfig,
}

/// The classifier (torchvision's `ResNet`).
#[derive(Module, Debug)]
pub struct ResnetClassifier {
    trunk: Trunk,
    fc: Dense,
    #[module(skip)]
    config: ResnetConfig,
}

/// The stem and stages, which backbone and classifier share.
#[derive(Module, Debug)]
pub struct Trunk {
    stem: Stem,
    layers: Vec<Vec<Bottleneck>>,
}

/// The layers before the max pool.
// A network has only one, and Burn has no boxed modules.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Stem {
    /// One 7x7 convolution.
    Plain(ConvNorm),
    /// Three 3x3 convolutions.
    Deep(Vec<ConvNorm>),
}

/// A residual block.
#[derive(Module, Debug)]
pub struct Bottleneck {
    conv1: Conv,
    bn1: BatchNorm2d,
    conv2: Conv,
    bn2: BatchNorm2d,
    conv3: Conv,
    bn3: BatchNorm2d,
    /// The shortcut of a block that changes stride or channels.
    downsample: Option<ConvNorm>,
}

/// A convolution without bias and its norm.
#[derive(Module, Debug)]
pub struct ConvNorm {
    conv: Conv,
    norm: BatchNorm2d,
}

/// Convolutions of a block.
struct BlockShape {
    convs: [ConvConfig; 3],
    shortcut: Option<ConvConfig>,
}

impl Resnet {
    /// The configuration it was built from.
    pub fn config(&self) -> &ResnetConfig {
        &self.config
    }

    /// Batch norms use their running statistics in training as well, but still learn scales and shifts (mmdetection's `norm_eval`).
    #[must_use]
    pub fn norm_eval(self) -> Self {
        self.freeze_group(ParamGroup::from_predicate(".training"))
    }

    /// Freezes the stem and the first `stages` stages, running statistics included (mmdetection's `frozen_stages`, which is 1 in its published
    /// detectors).
    #[must_use]
    pub fn freeze_stages(self, stages: usize) -> Self {
        let stages = (0..stages).map(|stage| format!("trunk.layers.{stage}."));
        let stem = "trunk.stem.".to_owned();
        self.freeze_group(ParamGroup::from_any_predicates(std::iter::once(stem).chain(stages).collect()))
    }
}

impl FeaturePyramid for Resnet {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let features = self.trunk.forward(images).into_iter().enumerate();
        let given = features.filter(|(stage, _)| self.config.out_indices.contains(stage));
        given.map(|(_, feature)| feature.permute([0, 3, 1, 2])).collect()
    }

    fn channels(&self) -> Vec<usize> {
        self.config.out_indices.iter().map(|stage| self.config.channels(*stage)).collect()
    }

    fn strides(&self) -> Vec<usize> {
        self.config.out_indices.iter().map(|stage| self.config.stride(*stage)).collect()
    }

    fn fewest_norm_values(&self, image: [usize; 2]) -> Option<usize> {
        // All stages run, whichever are given.
        let [height, width] = self.config.stage_sizes(image).pop()?;
        trains_batch_norm(&self.trunk).then_some(height * width)
    }
}

impl ResnetClassifier {
    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to logits `[batch, num_classes]`, float32.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.fc.forward(self.features(images))
    }

    /// The input of the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, to `[batch, channels]`, float32.
    pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let Some(feature) = self.trunk.forward(images).pop() else {
            unreachable!("a valid configuration has at least one stage");
        };
        let [batch, _, _, channels] = feature.dims();
        feature.cast(DType::F32).mean_dim(1).mean_dim(2).reshape([batch, channels])
    }

    /// The last linear layer.
    pub fn head(&self) -> &Dense {
        &self.fc
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &ResnetConfig {
        &self.config
    }
}

last_map_of_trunk!(Resnet, ResnetClassifier);

impl Trunk {
    /// See [`LastMap`](crate::LastMap).
    fn chain(&self, _image: [usize; 2]) -> Chain<'_> {
        let blocks = self.layers.iter().flatten();
        blocks.fold(Chain::of(|images| self.embed(images)), |chain, block| chain.then(|x| block.forward(x))).then(channels_first)
    }

    fn new(config: &ResnetConfig, device: &Device) -> Self {
        let stage = |stage| config.blocks(stage).iter().map(|block| Bottleneck::new(block, device)).collect();
        Self { stem: Stem::new(&config.stem(), device), layers: (0..config.depths.len()).map(stage).collect() }
    }

    /// `images` `[batch, in_chans, height, width]` to the input of the first block.
    fn embed(&self, images: Tensor<4>) -> Tensor<4> {
        let x = self.stem.forward(images.permute([0, 2, 3, 1]));
        let pool = MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]);
        max_pool2d(x.permute([0, 3, 1, 2]), pool).permute([0, 2, 3, 1])
    }

    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, to the feature `[batch, height', width', channels]` of every stage, in
    /// the type of the images.
    fn forward(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut x = self.embed(images);
        let mut features = Vec::with_capacity(self.layers.len());
        for blocks in &self.layers {
            x = blocks.iter().fold(x, |x, block| block.forward(x));
            features.push(x.clone());
        }
        features
    }
}

impl Stem {
    fn new(shapes: &[ConvConfig], device: &Device) -> Self {
        match shapes {
            [shape] => Self::Plain(ConvNorm::new(shape, device)),
            shapes => Self::Deep(shapes.iter().map(|shape| ConvNorm::new(shape, device)).collect()),
        }
    }

    /// `[batch, height, width, in]` to half of the height and the width, rounded up.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Plain(layer) => layer.forward(x, Pointwise::Relu),
            Self::Deep(layers) => layers.iter().fold(x, |x, layer| layer.forward(x, Pointwise::Relu)),
        }
    }
}

impl ConvNorm {
    fn new(shape: &ConvConfig, device: &Device) -> Self {
        let (conv, norm) = conv_norm(shape, device);
        Self { conv, norm }
    }

    /// `[batch, height, width, in]` to `[batch, height', width', out]`.
    fn forward(&self, x: Tensor<4>, activation: Pointwise) -> Tensor<4> {
        self.norm.forward_behind(&self.conv, x, None, activation)
    }
}

impl Bottleneck {
    fn new(shape: &BlockShape, device: &Device) -> Self {
        let [(conv1, bn1), (conv2, bn2), (conv3, bn3)] = shape.convs.map(|shape| conv_norm(&shape, device));
        let downsample = shape.shortcut.map(|shape| ConvNorm::new(&shape, device));
        Self { conv1, bn1, conv2, bn2, conv3, bn3, downsample }
    }

    /// `[batch, height, width, channels]` to `[batch, height', width', channels']`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = self.bn1.forward_behind(&self.conv1, x.clone(), None, Pointwise::Relu);
        let y = self.bn2.forward_behind(&self.conv2, y, None, Pointwise::Relu);
        let residual = match &self.downsample {
            Some(shortcut) => shortcut.forward(x, Pointwise::Identity),
            None => x,
        };
        self.bn3.forward_behind(&self.conv3, y, Some(residual), Pointwise::Relu)
    }
}

fn conv_norm(shape: &ConvConfig, device: &Device) -> (Conv, BatchNorm2d) {
    (conv(shape, device), BatchNorm2d::new(shape.outputs, device))
}

/// A convolution without bias. Its normal weights of variance `2 / fan_out` preserve the variance of gradients through a ReLU.
fn conv(shape: &ConvConfig, device: &Device) -> Conv {
    let deviation = (2.0 / (shape.outputs * shape.kernel * shape.kernel) as f64).sqrt();
    let weight = Tensor::random([shape.outputs, shape.inputs, shape.kernel, shape.kernel], Distribution::Normal(0.0, deviation), device);
    shape.with_parameters(Param::from_tensor(weight), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> ResnetConfig {
        ResnetConfig { width: 4, depths: vec![1, 2], out_indices: vec![0, 1], ..ResnetConfig::default() }
    }

    #[test]
    fn options_that_make_no_network_are_refused_by_name() {
        type Change = fn(&mut ResnetConfig);
        let changes: [(&str, Change); 6] = [
            ("in_chans", |c| c.in_chans = 0),
            ("width", |c| c.width = 0),
            ("width", |c| (c.width, c.deep_stem) = (5, true)),
            ("depths", |c| c.depths = vec![3, 0]),
            ("out_indices", |c| c.out_indices = vec![4]),
            ("out_indices", |c| c.out_indices = vec![1, 0]),
        ];
        for (field, change) in changes {
            let mut config = ResnetConfig::default();
            change(&mut config);
            let error = config.try_init(&Device::flex()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{field}`")), "{field}: {error}");
        }
        assert!(ResnetConfig::default().check_image([0, 32]).is_err());
    }

    #[test]
    fn sizes_and_channels_are_as_promised_in_both_types() {
        let config = small();
        let backbone = config.try_init(&Device::flex()).unwrap();
        assert_eq!((backbone.channels(), backbone.strides()), (vec![16, 32], vec![4, 8]));
        for dtype in [DType::F32, DType::BF16] {
            let features = backbone.forward_features(Tensor::ones([2, 3, 45, 34], (&Device::flex(), dtype)));
            let found: Vec<_> = features.iter().map(|feature| (feature.dims(), feature.dtype())).collect();
            assert_eq!(found, [([2, 16, 12, 9], dtype), ([2, 32, 6, 5], dtype)]);
        }
        assert_eq!(config.stage_sizes([45, 34]), [[12, 9], [6, 5]]);
    }

    #[test]
    fn frozen_stages_and_norms_are_those_named() {
        let device = Device::flex().autodiff();
        let backbone = small().try_init(&device).unwrap().freeze_stages(1).norm_eval();
        let [first, second] = [0, 1].map(|stage| &backbone.trunk.layers[stage][0]);
        let Stem::Plain(stem) = &backbone.trunk.stem else { panic!("a plain stem") };
        assert!(!stem.conv.weight.is_require_grad() && !stem.norm.weight.is_require_grad());
        assert!(!first.conv2.weight.is_require_grad() && second.conv2.weight.is_require_grad());
        assert!(second.bn2.weight.is_require_grad() && !second.bn2.training.is_enabled());
    }
}
