//! Features of a backbone for a head of one's own: `cargo run --release --example features_for_own_head [CHECKPOINT]`.
//!
//! CHECKPOINT is an official VMamba-T[s1l8] classifier. Without it, the weights are random.

use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use vmamba::FeaturePyramid;
use vmamba::zoo::{Backbone, BackboneConfig, load_pretrained};

/// Classifies an image by the mean of the coarsest features.
#[derive(Module, Debug)]
struct MyHead {
    backbone: Backbone,
    linear: Linear,
}

impl MyHead {
    fn new(backbone: Backbone, classes: usize, device: &Device) -> Self {
        let channels = backbone.channels().last().copied().unwrap_or_default();
        Self { linear: LinearConfig::new(channels, classes).init(device), backbone }
    }

    /// `images` `[batch, 3, height, width]` to logits `[batch, classes]`.
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let levels = self.backbone.forward_features(images);
        let [batch, channels, height, width] = levels[3].dims();
        let mean = levels[3].clone().reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, channels]);
        self.linear.forward(mean)
    }
}

fn main() -> anyhow::Result<()> {
    let device = Device::flex();
    let config = BackboneConfig::named("vmamba_tiny_s1l8")?;
    let mut backbone = config.try_init(&device)?;
    if let Some(checkpoint) = std::env::args().nth(1) {
        let (loaded, report) = load_pretrained(backbone, &config, checkpoint)?;
        println!("{report}");
        backbone = loaded;
    }
    for (level, stride) in config.levels([224, 224]).iter().zip(backbone.strides()) {
        println!("stride {stride}: {} channels, {:?} (height, width)", level.channels, level.size);
    }
    let logits = MyHead::new(backbone, 5, &device).forward(Tensor::zeros([1, 3, 224, 224], &device));
    println!("logits {:?}", logits.dims());
    Ok(())
}
