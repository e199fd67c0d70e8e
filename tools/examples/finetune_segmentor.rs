//! Trains UperNet and evaluates it: `cargo run --release --example finetune_segmentor [CHECKPOINT]`.
//!
//! CHECKPOINT, a classifier's or a segmentor's, gives the weights to start from. Without it they are random.

use anyhow::Context;
use burn::prelude::*;
use upernet::{FcnHeadConfig, UperHeadConfig, UperNetConfig};
use vision_datasets::sample::SegmentationDataset;
use vision_datasets::scenes::{SceneConfig, SceneDataset};
use vision_datasets::transforms::{CropConfig, TestPipeline, TrainPipeline};
use vmamba_recipes::segmentation::Segmentation;
use vmamba_report::{Console, RunFolder};
use vmamba_train::{OptimizerConfig, ScheduleConfig, Trainer};

fn main() -> anyhow::Result<()> {
    let device = Device::flex();
    // Own data: FolderDataset::open("camvid".as_ref(), "training", &FolderOptions::new(classes))?
    let scenes = SceneConfig { count: 300, height: 96, width: 96, ..SceneConfig::default() };
    let (train, val) = (SceneDataset::new(scenes.clone())?, SceneDataset::new(scenes.following(20))?);

    let mut config = UperNetConfig::on(vmamba_examples::small_backbone(), train.classes().len());
    config.head = UperHeadConfig { channels: 48, ..UperHeadConfig::default() };
    config.auxiliary = Some(FcnHeadConfig { channels: 32, ..FcnHeadConfig::default() });
    let model = match std::env::args().nth(1) {
        Some(checkpoint) => {
            let (model, report) = config.init_from(checkpoint, &device)?;
            println!("{report}");
            model
        }
        None => config.try_init(&device)?,
    };

    // Photos of the usual size need no transforms of their own: the default is that of the published ADE20K recipe.
    let transforms = TrainPipeline { resize: None, crop: CropConfig::of([96, 96]), ..TrainPipeline::ade20k() };
    let recipe = Segmentation::new(train, val)
        .model(config)
        .name("scenes")
        .transforms(transforms, TestPipeline { resize: None, ..TestPipeline::ade20k() });
    let mut trainer = Trainer::builder(recipe, model)
        .batch_size(8)
        .epochs(4)
        .optimizer(OptimizerConfig::adamw(2e-3).weight_decay(0.01))
        .schedule(ScheduleConfig::poly(1.0).warmup(20, 1e-3))
        .observe(RunFolder::overwrite("runs/finetune_segmentor")?)
        .observe(Console::default())
        .build(&device)?;
    trainer.run()?;
    let (iteration, best) = trainer.best().context("no validation")?;
    println!("best mIoU {:.1} after iteration {iteration}", best * 100.0);
    Ok(())
}
