//! Trains Mask R-CNN and evaluates it: `cargo run --release --example finetune_detector [CHECKPOINT]`.
//!
//! CHECKPOINT, a classifier's or a detector's, gives the weights to start from. Without it they are random.

use anyhow::Context;
use burn::prelude::*;
use mask_rcnn::MaskRcnnConfig;
use vision_datasets::sample::DetectionDataset;
use vision_datasets::scenes::{SceneConfig, SceneObjects};
use vision_datasets::transforms::{DetectionTestPipeline, DetectionTrainPipeline};
use vmamba_recipes::detection::Detection;
use vmamba_report::{Console, RunFolder};
use vmamba_train::{OptimizerConfig, ScheduleConfig, Trainer};

fn main() -> anyhow::Result<()> {
    let device = Device::flex();
    // Own data: CocoDataset::open("cells/annotations/train.json".as_ref(), "cells/train".as_ref(), &CocoOptions::train())?
    let scenes = SceneConfig { count: 200, ..SceneConfig::default() };
    let (train, val) = (SceneObjects::new(scenes.clone())?, SceneObjects::new(scenes.following(20))?);

    let mut config = MaskRcnnConfig::on(vmamba_examples::small_backbone(), train.classes().len());
    config.heads.fpn.channels = 48;
    config.heads.rpn.channels = 48;
    config.heads.box_head.channels = 128;
    config.heads.mask_head.channels = 48;
    let model = match std::env::args().nth(1) {
        Some(checkpoint) => {
            let (model, report) = config.init_from(checkpoint, &device)?;
            println!("{report}");
            model
        }
        None => config.try_init(&device)?,
    };

    // Photos of the usual size need no transforms of their own: the default is that of the published COCO recipe.
    let transforms = DetectionTrainPipeline { scales: vec![[128, 128]], ..DetectionTrainPipeline::coco() };
    let recipe = Detection::new(train, val)
        .model(config)
        .name("scenes")
        .transforms(transforms, DetectionTestPipeline { scale: None, ..DetectionTestPipeline::coco() });
    let mut trainer = Trainer::builder(recipe, model)
        .batch_size(4)
        .epochs(4)
        .optimizer(OptimizerConfig::adamw(1e-3).weight_decay(0.05).clip_norm(10.0))
        .schedule(ScheduleConfig::step([3]).warmup(20, 1e-3))
        .observe(RunFolder::overwrite("runs/finetune_detector")?)
        .observe(Console::default())
        .build(&device)?;
    trainer.run()?;
    let (iteration, best) = trainer.best().context("no validation")?;
    println!("best bbox AP {:.1} after iteration {iteration}", best * 100.0);
    Ok(())
}
