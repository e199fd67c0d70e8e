//! A backbone of one's own for every head: implement `FeaturePyramid`.
//!
//! ```text
//! cargo run --release -p vmamba --example own_backbone
//! ```

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::prelude::*;
use vmamba::FeaturePyramid;

/// Four strided convolutions: the smallest thing that is a pyramid.
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

/// What a head does: it knows the trait and nothing else.
fn describe(backbone: &impl FeaturePyramid, images: Tensor<4>) {
    for ((feature, channels), stride) in backbone.forward_features(images).iter().zip(backbone.channels()).zip(backbone.strides()) {
        println!("stride {stride:>2}, {channels:>3} channels: {:?}", feature.dims());
    }
}

fn main() {
    let device = Device::flex();
    describe(&Pyramid::new(&device), Tensor::zeros([1, 3, 96, 128], &device));
}
