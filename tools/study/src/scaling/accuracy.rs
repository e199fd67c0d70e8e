//! The accuracy columns of a study: classifiers evaluated at sizes that they were not trained for, as they are and with their last layer
//! tuned for the size.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anstream::eprintln;
use anyhow::{Context, Result};
use burn::prelude::Device;
use serde::{Deserialize, Serialize};
use vision_datasets::imagenet::ImageFolder;
use vision_datasets::transforms::ClassificationPipeline;
use vmamba::checkpoint::{Checkpoint, Weights};
use vmamba::zoo::{BackboneConfig, Classifier};

use super::{CLASSES, Study, checksum, duration};
use vmamba_recipes::classification::linear_tuning::{TuningConfig, extract_features, published_lr, tune_head};
use vmamba_recipes::classification::{Feed, Interrupted, LoadedClassifier, check_classes, evaluate_classifier, load_classifier};
use vmamba_report::console::{progress_bar, warn_of_skipped};
use vmamba_train::precision::Precision;

/// A file or a data set, and what tells that it is still the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The file or folder.
    pub path: PathBuf,
    /// CRC-32C of the file, or of the names of a folder's classes and images.
    pub checksum: String,
}

impl Source {
    /// A file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path: path.to_owned(), checksum: checksum(&bytes) })
    }

    /// A data set.
    pub fn folder(data: &ImageFolder) -> Self {
        let mut names = String::new();
        for class in data.classes() {
            names.push_str(&class.folder);
            names.push('\n');
        }
        for (path, label) in (0..data.len()).filter_map(|index| data.image(index)) {
            names.push_str(&format!("{label} {}\n", path.strip_prefix(data.root()).unwrap_or(path).display()));
        }
        Self { path: data.root().to_owned(), checksum: checksum(names.as_bytes()) }
    }
}

/// Shares of correct answers, or why there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Model.
    pub model: String,
    /// Height and width of the images in pixels.
    pub side: usize,
    /// The weights.
    pub checkpoint: Source,
    /// The images.
    pub data: Source,
    /// Numbers computed with.
    pub precision: Precision,
    /// Share of images whose class was the first answer, with the weights as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// The same with the last layer tuned at this size; the best epoch, as published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned_top1: Option<f64>,
    /// The images it was tuned on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned_on: Option<Source>,
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
    pub precisions: Vec<Precision>,
}

impl AccuracyPlan {
    /// Loads every checkpoint once, so that what does not fit is an error before anything is measured.
    ///
    /// # Errors
    /// When a checkpoint or the data do not fit the model.
    pub fn check(&self, device: &Device) -> Result<()> {
        self.checkpoints.iter().try_for_each(|(model, checkpoint)| self.load(model, checkpoint, device).map(|_| ()))
    }

    fn load(&self, model: &str, checkpoint: &Path, device: &Device) -> Result<LoadedClassifier> {
        let config = BackboneConfig::named(model)?;
        // The published figures are of the averaged weights.
        let averaged = Checkpoint::read(checkpoint).context("--checkpoint")?.weight_sets().contains(&"model_ema");
        let weights = if averaged { Weights::Ema } else { Weights::Auto };
        let classifier = load_classifier(checkpoint, &config, weights, device).with_context(|| format!("--checkpoint {model}"))?;
        check_classes(&self.data, classifier.num_classes).context("--data")?;
        if let Some(train) = &self.train {
            check_classes(train, classifier.num_classes).context("--linear-tuning")?;
        }
        Ok(classifier)
    }

    /// All rows there should be, without their figures; the smallest images of a checkpoint first.
    fn rows(&self) -> Result<Vec<Accuracy>> {
        let data = Source::folder(&self.data);
        let mut rows = Vec::new();
        for (model, checkpoint) in &self.checkpoints {
            let checkpoint = Source::file(checkpoint)?;
            for side in &self.sides {
                for precision in &self.precisions {
                    rows.push(Accuracy {
                        model: model.clone(),
                        side: *side,
                        checkpoint: checkpoint.clone(),
                        data: data.clone(),
                        precision: *precision,
                        top1: None,
                        tuned_top1: None,
                        tuned_on: None,
                        images: 0,
                        skipped: 0,
                        failed: None,
                    });
                }
            }
        }
        Ok(rows)
    }

    fn evaluate(&self, model: &Classifier, tuned_on: Option<&Source>, row: &mut Accuracy, feed: &Feed) -> Result<()> {
        let bar = progress_bar(self.data.len() as u64);
        let report = evaluate_classifier(model, &self.data, feed, &|images| bar.inc(images));
        bar.finish_and_clear();
        let report = report?;
        warn_of_skipped(report.skipped.iter().map(|image| image.reason.as_str()), "--data");
        (row.top1, row.images, row.skipped) = (Some(report.top1), report.images, report.skipped.len());
        let (Some(train), Some(source)) = (&self.train, tuned_on) else { return Ok(()) };
        let extract = |data: &Arc<ImageFolder>| {
            let bar = progress_bar(data.len() as u64).with_message("features");
            let table = extract_features(model, data, feed, &|images| bar.inc(images));
            bar.finish_and_clear();
            table
        };
        let (val, train) = (extract(&self.data)?, extract(train)?);
        warn_of_skipped(train.skipped.iter().map(|image| image.reason.as_str()), "--linear-tuning");
        // The protocol of the paper's resolution study.
        let config = TuningConfig { epochs: 30, batch_size: 4096, lr: published_lr(row.side), reinit: false, seed: 0 };
        row.tuned_top1 = Some(tune_head(model, train, &val, &config, |_| ())?.best.top1);
        row.tuned_on = Some(source.clone());
        Ok(())
    }
}

/// Evaluates what the study lacks, saves it after every evaluation, and returns whether it is complete: false when it was interrupted.
///
/// # Errors
/// When a checkpoint or the data do not fit the model, or a file cannot be written. A size that the model cannot take becomes a row.
pub fn run(plan: &AccuracyPlan, device: &Device, study: &mut Study, folder: &Path, interrupted: &Arc<AtomicBool>) -> Result<bool> {
    let tuned_on = plan.train.as_deref().map(Source::folder);
    let missing: Vec<Accuracy> = plan.rows()?.into_iter().filter(|row| !row.is_known(study, tuned_on.as_ref())).collect();
    let weights = missing.iter().map(|row| weight(&row.model, row.side)).collect::<Result<Vec<f64>>>()?;
    let (start, mut done) = (Instant::now(), 0.0);
    let mut loaded: Option<(Source, LoadedClassifier)> = None;
    let count = missing.len();
    for (index, (mut row, weight)) in missing.into_iter().zip(&weights).enumerate() {
        if interrupted.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let left = weights.iter().skip(index).sum::<f64>();
        let left =
            if done > 0.0 { format!(", about {} left", duration(start.elapsed().as_secs_f64() / done * left)) } else { String::new() };
        let Accuracy { model, side, precision, .. } = &row;
        eprintln!("{}/{count}: accuracy of {model}, {side}x{side}, {}{left}", index + 1, precision.name());
        let classifier = match loaded.take() {
            Some((source, classifier)) if source == row.checkpoint => classifier,
            _ => plan.load(&row.model, &row.checkpoint.path, device)?,
        };
        row.precision.adopt(device)?;
        match BackboneConfig::named(&row.model)?.check_image([row.side; 2]) {
            Ok(()) => {
                let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
                let (pipeline, precision) = (ClassificationPipeline::new(row.side), row.precision);
                let feed = Feed {
                    pipeline,
                    batch_size: plan.batch_size,
                    workers,
                    precision,
                    device: device.clone(),
                    stop: Some(Arc::clone(interrupted)),
                };
                match plan.evaluate(&classifier.model, tuned_on.as_ref(), &mut row, &feed) {
                    Err(error) if error.is::<Interrupted>() => return Ok(false),
                    other => other?,
                }
            }
            Err(error) => row.failed = Some(error.to_string()),
        }
        if let Some(top1) = row.top1 {
            let tuned = row.tuned_top1.map_or(String::new(), |tuned| format!(", tuned {:.2}", 100.0 * tuned));
            eprintln!("  top-1 {:.2}{tuned} % of {} images, {} left out", 100.0 * top1, row.images, row.skipped);
        }
        loaded = Some((row.checkpoint.clone(), classifier));
        study.accuracies.retain(|known| !row.replaces(known));
        study.accuracies.push(row);
        study.save(folder)?;
        done += weight;
    }
    Ok(true)
}

/// How long an evaluation takes beside others.
fn weight(model: &str, side: usize) -> Result<f64> {
    let config = BackboneConfig::named(model)?;
    let fits = config.check_image([side; 2]).is_ok();
    Ok(if fits { config.classifier_complexity(CLASSES, [side; 2]).flops() as f64 } else { 0.0 })
}

impl Accuracy {
    /// Whether the other row is of the same files, whatever was in them then.
    fn replaces(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.model.clone(), row.side, row.precision, row.checkpoint.path.clone(), row.data.path.clone());
        key(self) == key(other)
    }

    /// Whether a study has the figures of this row, with the last layer tuned on `tuned_on` where that is asked for.
    fn is_known(&self, study: &Study, tuned_on: Option<&Source>) -> bool {
        let same = |row: &&Accuracy| self.replaces(row) && self.checkpoint == row.checkpoint && self.data == row.data;
        let known = study.accuracies.iter().find(same);
        known.is_some_and(|row| row.failed.is_some() || tuned_on.is_none() || row.tuned_on.as_ref() == tuned_on)
    }
}
