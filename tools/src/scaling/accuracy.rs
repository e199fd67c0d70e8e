//! The accuracy columns of a study: classifiers evaluated at sizes that they were not trained for, as they are and with their last layer
//! tuned for the size.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anstream::eprintln;
use anyhow::{Context, Result};
use burn::prelude::Device;
use serde::{Deserialize, Serialize};
use vision_datasets::imagenet::ImageFolder;
use vision_datasets::transforms::ClassificationPipeline;
use vmamba::checkpoint::{Checkpoint, Weights};
use vmamba::zoo::BackboneConfig;

use super::Study;
use crate::engine::classification::linear_tuning::{TuningConfig, extract_features, published_lr, tune_head};
use crate::engine::classification::{Feed, check_classes, evaluate_classifier, load_classifier};
use crate::engine::logging::progress_bar;
use crate::engine::precision::Precision;

/// Shares of correct answers, or why there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Model.
    pub model: String,
    /// Height and width of the images in pixels.
    pub side: usize,
    /// The weights.
    pub checkpoint: PathBuf,
    /// The images.
    pub data: PathBuf,
    /// Numbers computed with.
    pub precision: Precision,
    /// Share of images whose class was the first answer, with the weights as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// The same with the last layer tuned at this size; the best epoch, as published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned_top1: Option<f64>,
    /// Images that were judged.
    pub images: usize,
    /// Images that could not be read and were left out.
    pub skipped: usize,
    /// The reason that there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// What is evaluated.
#[derive(Clone, Debug)]
pub struct AccuracyPlan {
    /// Images to judge by.
    pub data: Arc<ImageFolder>,
    /// Images to tune the last layer on; none for no tuning.
    pub train: Option<Arc<ImageFolder>>,
    /// Models by name with their weights.
    pub checkpoints: Vec<(String, PathBuf)>,
    /// Heights and widths in pixels.
    pub sides: Vec<usize>,
    /// Images at once.
    pub batch_size: usize,
    /// Numbers to compute with.
    pub precision: Precision,
}

/// Evaluates what the study lacks, saves it after every evaluation, and returns whether it is complete: false when it was interrupted.
///
/// # Errors
/// When a checkpoint or the data do not fit the model, or a file cannot be written. A size that the model cannot take becomes a row.
pub fn run(plan: &AccuracyPlan, device: &Device, study: &mut Study, folder: &Path, interrupted: &AtomicBool) -> Result<bool> {
    for (model, checkpoint) in &plan.checkpoints {
        let config = BackboneConfig::named(model)?;
        // The published figures are of the averaged weights.
        let averaged = Checkpoint::read(checkpoint)?.weight_sets().contains(&"model_ema");
        let weights = if averaged { Weights::Ema } else { Weights::Auto };
        let classifier = load_classifier(checkpoint, &config, weights, device)?;
        check_classes(&plan.data, classifier.num_classes).context("--data")?;
        if let Some(train) = &plan.train {
            check_classes(train, classifier.num_classes).context("--linear-tuning")?;
        }
        for side in &plan.sides {
            if plan.is_known(study, model, *side, checkpoint) {
                continue;
            }
            if interrupted.load(Ordering::SeqCst) {
                return Ok(false);
            }
            eprintln!("accuracy of {model}, {side}x{side}");
            let mut row = plan.row(model, *side, checkpoint);
            match config.check_image([*side; 2]) {
                Ok(()) => plan.evaluate(&classifier.model, *side, device, &mut row)?,
                Err(error) => row.failed = Some(error.to_string()),
            }
            if let Some(top1) = row.top1 {
                let tuned = row.tuned_top1.map_or(String::new(), |tuned| format!(", tuned {:.2}", 100.0 * tuned));
                eprintln!("  top-1 {:.2}{tuned} % of {} images, {} left out", 100.0 * top1, row.images, row.skipped);
            }
            study.accuracies.retain(|known| !row.is_of(known));
            study.accuracies.push(row);
            study.save(folder)?;
        }
    }
    Ok(true)
}

impl Accuracy {
    /// Whether both are of the same evaluation, tuned or not.
    fn is_of(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.model.clone(), row.side, row.checkpoint.clone(), row.data.clone(), row.precision);
        key(self) == key(other)
    }
}

impl AccuracyPlan {
    fn row(&self, model: &str, side: usize, checkpoint: &Path) -> Accuracy {
        Accuracy {
            model: model.to_owned(),
            side,
            checkpoint: checkpoint.to_owned(),
            data: self.data.root().to_owned(),
            precision: self.precision,
            top1: None,
            tuned_top1: None,
            images: 0,
            skipped: 0,
            failed: None,
        }
    }

    fn is_known(&self, study: &Study, model: &str, side: usize, checkpoint: &Path) -> bool {
        let wanted = self.row(model, side, checkpoint);
        let known = study.accuracies.iter().find(|row| wanted.is_of(row));
        known.is_some_and(|row| row.failed.is_some() || self.train.is_none() || row.tuned_top1.is_some())
    }

    fn evaluate(&self, model: &vmamba::zoo::Classifier, side: usize, device: &Device, row: &mut Accuracy) -> Result<()> {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
        let pipeline = ClassificationPipeline::new(side);
        let feed = Feed { pipeline, batch_size: self.batch_size, workers, precision: self.precision, device: device.clone() };
        let bar = progress_bar(self.data.len() as u64);
        let report = evaluate_classifier(model, &self.data, &feed, &bar)?;
        bar.finish_and_clear();
        (row.top1, row.images, row.skipped) = (Some(report.top1), report.images, report.skipped.len());
        let Some(train) = &self.train else { return Ok(()) };
        let extract = |data: &Arc<ImageFolder>| {
            let bar = progress_bar(data.len() as u64).with_message("features");
            let table = extract_features(model, data, &feed, &bar);
            bar.finish_and_clear();
            table
        };
        let (val, train) = (extract(&self.data)?, extract(train)?);
        // The protocol of the paper's resolution study.
        let config = TuningConfig { epochs: 30, batch_size: 4096, lr: published_lr(side), reinit: false, seed: 0 };
        row.tuned_top1 = Some(tune_head(model, train, &val, &config, |_| ())?.best.top1);
        Ok(())
    }
}
