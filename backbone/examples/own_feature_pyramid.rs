//! Your own backbone for every head: implement `FeaturePyramid`, and `ParameterGroups` to train with layer-wise learning rates.
//!
//! ```text
//! cargo run --release -p vmamba --example own_feature_pyramid
//! ```

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::prelude::*;
use vmamba::{FeaturePyramid, LayerGrouping, ParameterGroups, Place};

/// Four strided convolutions, a minimal pyramid.
#[derive(Module, Debug)]
struct Pyramid {
    levels: Vec<Conv2d>,
}

impl Pyramid {
    const CHANNELS: [usize; 4] = [16, 32, 64, 128];
    const STRIDES: [usize; 4] = [4, 8, 16, 32];

    fn new(device: &Device) -> Self {
        let mut inputs = 3;
        let levels = Self::CHANNELS.into_iter().enumerate().map(|(level, outputs)| {
            let side = if level == 0 { 4 } else { 2 };
            let conv = Conv2dConfig::new([inputs, outputs], [side, side]).with_stride([side, side]).init(device);
            inputs = outputs;
            conv
        });
        Self { levels: levels.collect() }
    }
}

impl FeaturePyramid for Pyramid {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut x = images;
        let mut features = Vec::new();
        for level in &self.levels {
            x = burn::tensor::activation::relu(level.forward(x));
            features.push(x.clone());
        }
        features
    }

    fn channels(&self) -> Vec<usize> {
        Self::CHANNELS.to_vec()
    }

    fn strides(&self) -> Vec<usize> {
        Self::STRIDES.to_vec()
    }
}

/// Every level is a stage of one block. Its parameters are `levels.0.weight` to `levels.3.bias`, with the prefix `backbone.` in a
/// whole model.
impl ParameterGroups for Pyramid {
    fn depths(&self) -> Vec<usize> {
        vec![1; Self::CHANNELS.len()]
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        let (level, _) = key.strip_prefix("levels.")?.split_once('.')?;
        Some(Place::Block { stage: level.parse().ok()?, block: 0 })
    }
}

/// Stands in for a head, which knows only the trait.
fn describe(backbone: &impl FeaturePyramid, images: Tensor<4>) {
    for ((feature, channels), stride) in backbone.forward_features(images).iter().zip(backbone.channels()).zip(backbone.strides()) {
        println!("stride {stride:>2}, {channels:>3} channels: {:?}", feature.dims());
    }
}

fn main() {
    let device = Device::flex();
    let backbone = Pyramid::new(&device);
    describe(&backbone, Tensor::zeros([1, 3, 96, 128], &device));
    for key in ["backbone.levels.0.weight", "backbone.levels.3.weight", "decode_head.conv_seg.weight"] {
        println!("{key}: learning rate x {:.3}", backbone.lr_scale(key, 0.8, LayerGrouping::Block));
    }
}
