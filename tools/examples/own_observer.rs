//! Writes a table of the steps beside the run and uses the trained model at once: `cargo run --release --example own_observer`.

use std::fs::File;
use std::io::Write;

use burn::prelude::*;
use mask_rcnn::MaskRcnnConfig;
use vision_datasets::sample::DetectionDataset;
use vision_datasets::scenes::{SceneConfig, SceneObjects};
use vision_datasets::transforms::{DetectionTestPipeline, DetectionTrainPipeline};
use vmamba_recipes::detection::Detection;
use vmamba_train::{BoxError, Observer, OptimizerConfig, StepReport, Trainer, ValidationReport};

/// Writes a line of comma-separated values for every step, and prints every validation.
struct Csv(File);

impl Observer for Csv {
    fn step(&mut self, step: &StepReport) -> Result<(), BoxError> {
        writeln!(self.0, "{},{},{}", step.iteration, step.scalar("lr"), step.scalar("loss"))?;
        Ok(())
    }

    fn validated(&mut self, validation: &ValidationReport) -> Result<(), BoxError> {
        println!("iteration {}: {:.3?}", validation.iteration, validation.scalars);
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let device = Device::flex();
    let scenes = SceneConfig { count: 80, ..SceneConfig::default() };
    let (train, val) = (SceneObjects::new(scenes.clone())?, SceneObjects::new(scenes.following(8))?);
    let (classes, photo) = (train.classes().clone(), val.get(0)?.image);

    let mut config = MaskRcnnConfig::on(vmamba_examples::small_backbone(), classes.len());
    config.heads.fpn.channels = 48;
    config.heads.rpn.channels = 48;
    config.heads.box_head.channels = 128;
    config.heads.mask_head.channels = 48;
    let model = config.try_init(&device)?;
    let mut table = File::create("steps.csv")?;
    writeln!(table, "iteration,lr,loss")?;
    let transforms = DetectionTrainPipeline { scales: vec![[128, 128]], ..DetectionTrainPipeline::coco() };
    let recipe = Detection::new(train, val).transforms(transforms, DetectionTestPipeline { scale: None, ..DetectionTestPipeline::coco() });
    let mut trainer = Trainer::builder(recipe, model)
        .batch_size(4)
        .epochs(1)
        .optimizer(OptimizerConfig::adamw(1e-3))
        .observe(Csv(table))
        .build(&device)?;
    trainer.run()?;

    let best = trainer.best_model()?;
    let found = trainer.recipe().predictor(&best, &device).predict(&photo)?;
    for object in found.iter().take(5) {
        println!("{:.2} {} {:?}", object.score, classes.names[object.category], object.bbox);
    }
    Ok(())
}
