//! Trains on a dataset that this project has no reader for: `cargo run --release --example own_dataset`.

use burn::prelude::*;
use image::{Rgb, RgbImage};
use upernet::{UperHeadConfig, UperNetConfig};
use vision_datasets::DataError;
use vision_datasets::sample::{SegmentationDataset, SegmentationSample};
use vision_datasets::transforms::{CropConfig, TestPipeline, TrainPipeline};
use vmamba_recipes::segmentation::Segmentation;
use vmamba_report::Console;
use vmamba_train::{OptimizerConfig, Trainer};
use vmamba_types::{ClassList, LabelMap};

/// Images whose left part, of varying width, is bright.
struct Halves {
    classes: ClassList,
    range: std::ops::Range<usize>,
}

impl SegmentationDataset for Halves {
    fn len(&self) -> usize {
        self.range.len()
    }

    fn get(&self, index: usize) -> Result<SegmentationSample, DataError> {
        let edge = 8 + (self.range.start + index) * 13 % 48;
        let image = RgbImage::from_fn(64, 64, |x, y| Rgb([if (x as usize) < edge { 200 } else { 40 } + (x * 7 + y * 3) as u8 % 16; 3]));
        let labels = (0..64 * 64).map(|place| u8::from(place % 64 >= edge)).collect();
        let name = format!("halves_{index}");
        Ok(SegmentationSample { image, labels: LabelMap::new(64, 64, labels), name, original_size: [64, 64] })
    }

    fn classes(&self) -> &ClassList {
        &self.classes
    }
}

fn main() -> anyhow::Result<()> {
    let device = Device::flex();
    let halves = |range| Halves { classes: ClassList::named(["bright", "dark"].map(str::to_owned)), range };
    let mut config = UperNetConfig::on(vmamba_examples::small_backbone(), 2);
    (config.head, config.auxiliary) = (UperHeadConfig { channels: 24, ..UperHeadConfig::default() }, None);
    let model = config.try_init(&device)?;
    let transforms = TrainPipeline { resize: None, crop: CropConfig { size: [64, 64], cat_max_ratio: 1.0 }, ..TrainPipeline::ade20k() };
    let recipe = Segmentation::new(halves(0..64), halves(64..80))
        .transforms(transforms, TestPipeline { resize: None, ..TestPipeline::ade20k() })
        .model(config);
    let mut trainer = Trainer::builder(recipe, model)
        .batch_size(4)
        .iterations(40)
        .optimizer(OptimizerConfig::adamw(1e-3))
        .observe(Console::default())
        .build(&device)?;
    trainer.run()?;
    println!("mIoU {:.1}", trainer.best().map_or(0.0, |(_, best)| best * 100.0));
    Ok(())
}
