//! Trains UperNet on a backbone that this project does not have: `cargo run --release --example own_backbone`.

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::prelude::*;
use burn::tensor::activation::relu;
use upernet::{UperHeadConfig, UperNet};
use vision_datasets::sample::SegmentationDataset;
use vision_datasets::scenes::{SceneConfig, SceneDataset};
use vision_datasets::transforms::{CropConfig, TestPipeline, TrainPipeline};
use vmamba::FeaturePyramid;
use vmamba_recipes::segmentation::Segmentation;
use vmamba_report::Console;
use vmamba_train::{OptimizerConfig, Trainer};

/// Four convolutions whose stride is their size.
#[derive(Module, Debug)]
struct Strided {
    levels: Vec<Conv2d>,
}

impl Strided {
    fn new(device: &Device) -> Self {
        let conv = |inputs, outputs, side: usize| Conv2dConfig::new([inputs, outputs], [side, side]).with_stride([side, side]).init(device);
        Self { levels: vec![conv(3, 24, 4), conv(24, 48, 2), conv(48, 96, 2), conv(96, 96, 2)] }
    }
}

impl FeaturePyramid for Strided {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let step = |x: &mut Tensor<4>, level: &Conv2d| {
            *x = relu(level.forward(x.clone()));
            Some(x.clone())
        };
        self.levels.iter().scan(images, step).collect()
    }

    fn channels(&self) -> Vec<usize> {
        vec![24, 48, 96, 96]
    }

    fn strides(&self) -> Vec<usize> {
        vec![4, 8, 16, 32]
    }
}

fn main() -> anyhow::Result<()> {
    let device = Device::flex();
    let scenes = SceneConfig { count: 100, height: 96, width: 96, ..SceneConfig::default() };
    let (train, val) = (SceneDataset::new(scenes.clone())?, SceneDataset::new(scenes.following(10))?);
    let head = UperHeadConfig { channels: 32, ..UperHeadConfig::default() };
    let model = UperNet::new(Strided::new(&device), train.classes().len(), &head, None, &device);
    let transforms = TrainPipeline { resize: None, crop: CropConfig::of([96, 96]), ..TrainPipeline::ade20k() };
    let recipe = Segmentation::new(train, val).transforms(transforms, TestPipeline { resize: None, ..TestPipeline::ade20k() });
    let builder = Trainer::builder(recipe, model).batch_size(4).epochs(2).optimizer(OptimizerConfig::adamw(1e-3));
    builder.observe(Console::default()).build(&device)?.run()?;
    Ok(())
}
