//! Mask R-CNN on a backbone of one's own: any implementation of `FeaturePyramid` will do.
//!
//! ```text
//! cargo run --release -p mask-rcnn --example detector_on_own_backbone
//! ```

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::prelude::*;
use burn::tensor::activation::relu;
use mask_rcnn::{HeadsConfig, MaskRcnn};
use vmamba::FeaturePyramid;
use vmamba_detection::{Detector, ImageInfo, ImageTruth, RandomChoice};
use vmamba_types::Instance;

/// Three strided convolutions.
#[derive(Module, Debug)]
struct Strided {
    levels: Vec<Conv2d>,
}

impl Strided {
    fn new(device: &Device) -> Self {
        let conv = |inputs, outputs, side: usize| Conv2dConfig::new([inputs, outputs], [side, side]).with_stride([side, side]).init(device);
        Self { levels: vec![conv(3, 16, 4), conv(16, 32, 2), conv(32, 64, 2)] }
    }
}

impl FeaturePyramid for Strided {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut x = images;
        let mut features = Vec::new();
        for level in &self.levels {
            x = relu(level.forward(x));
            features.push(x.clone());
        }
        features
    }

    fn channels(&self) -> Vec<usize> {
        vec![16, 32, 64]
    }

    fn strides(&self) -> Vec<usize> {
        vec![4, 8, 16]
    }
}

fn main() -> Result<(), vmamba::NotFinite> {
    let device = Device::flex().autodiff();
    device.seed(0);
    let mut heads = HeadsConfig::default();
    heads.fpn.channels = 32;
    heads.rpn.channels = 32;
    // Random weights give every box a low score.
    heads.test.score_threshold = 0.0;
    heads.test.max_per_image = 5;
    let model = MaskRcnn::new(Strided::new(&device), 3, &heads, &device);

    // A training step: an image, its objects, and the random choice of the boxes that are trained.
    let images = Tensor::<4>::zeros([1, 3, 128, 160], &device);
    let object = Instance { bbox: [20.0, 30.0, 90.0, 110.0], category: 1, crowd: false, mask: None };
    let truth = [ImageTruth { size: [120, 160], instances: vec![object], crowds: Vec::new() }];
    let loss = model.loss(images.clone(), &truth, &mut RandomChoice::new(1));
    println!("loss {:.3}", loss.total.clone().into_scalar::<f32>());
    let gradients = loss.total.backward();
    let first = model.backbone.levels.first().and_then(|level| level.weight.val().grad(&gradients));
    println!("the backbone has gradients: {}", first.is_some());

    // Prediction for a photo of 240x320 pixels that was resized to 120x160 for the network.
    let model = model.valid();
    let infos = [ImageInfo::new([240, 320], [120, 160])];
    for object in model.predict(images.inner(), &infos)?.concat() {
        println!("class {} at {:?}, {:.2}", object.category, object.bbox, object.score);
    }
    Ok(())
}
