//! The accuracy of a study: classifiers at image sizes they were not trained at, without changes and with the last layer tuned at that size.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::Module;
use burn::prelude::Device;
use serde::{Deserialize, Serialize};
use vision_datasets::imagenet::ImageFolder;
use vision_datasets::transforms::ClassificationPipeline;
use vmamba::checkpoint::Weights;
use vmamba::zoo::{BackboneConfig, Classifier, LoadedClassifier, load_classifier};

use vmamba_recipes::classification::linear_tuning::{TuningConfig, extract_features, published_lr, tune_head};
use vmamba_recipes::classification::{Feed, Interrupted, check_classes, evaluate_classifier};
use vmamba_report::console::{progress_bar, warn_of_skipped, weights_line};
use vmamba_report::eprintln;
use vmamba_train::Precision;

use super::{Progress, Study, checksum, flops};
use crate::error::{Place, Result, StudyError};

/// A file or a data set with a checksum that detects changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The file or folder.
    pub path: PathBuf,
    /// CRC-32C of the file, or of the names of the classes and images of a folder.
    pub checksum: String,
}

impl Source {
    /// Describes a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(path: &Path) -> Result<Self> {
        let bytes = vmamba_files::read(path).map_err(StudyError::read(path))?;
        Ok(Self { path: path.to_owned(), checksum: checksum(&bytes) })
    }

    /// Describes a data set.
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

/// Top-1 accuracies as shares from 0 to 1, or the reason for a failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Name of the model.
    pub model: String,
    /// Height and width of the images in pixels.
    pub side: usize,
    /// The weights.
    pub checkpoint: Source,
    /// The images.
    pub data: Source,
    /// Type to compute in.
    pub precision: Precision,
    /// Top-1 accuracy of the unchanged weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// Top-1 accuracy with the last layer tuned at this size, after the best epoch, as published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned_top1: Option<f64>,
    /// The training images of the tuned layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned_on: Option<Source>,
    /// Number of evaluated images.
    pub images: usize,
    /// Number of unreadable images.
    pub skipped: usize,
    /// The reason for a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// The request of an evaluation.
#[derive(Clone, Debug)]
pub struct AccuracyPlan {
    /// Validation images.
    pub data: Arc<ImageFolder>,
    /// Training images of the last layer; `None` for no tuning.
    pub train: Option<Arc<ImageFolder>>,
    /// Names of models with their checkpoints.
    pub checkpoints: Vec<(String, PathBuf)>,
    /// Heights and widths in pixels.
    pub sides: Vec<usize>,
    /// Images of a batch.
    pub batch_size: usize,
    /// Types to compute in.
    pub precisions: Vec<Precision>,
}

impl AccuracyPlan {
    /// Loads every checkpoint once, so that a wrong one is an error before the first measurement.
    ///
    /// # Errors
    /// When a checkpoint cannot be read, belongs to another model, or has another number of classes than the data.
    pub fn check(&self, device: &Device) -> Result<()> {
        self.checkpoints.iter().try_for_each(|(model, checkpoint)| {
            let loaded = self.load(model, checkpoint, device)?;
            loaded.report.origin.iter().for_each(|origin| eprintln!("{}", weights_line(checkpoint, origin)));
            Ok(())
        })
    }

    fn load(&self, model: &str, checkpoint: &Path, device: &Device) -> Result<LoadedClassifier> {
        let config = BackboneConfig::named(model)?;
        // The published accuracies are those of the averaged weights.
        let loaded = load_classifier(&config, checkpoint, Weights::Validated, device).at_with(|| format!("--checkpoint {model}"))?;
        let classifier = LoadedClassifier { model: loaded.model.valid(), ..loaded };
        check_classes(&self.data, classifier.num_classes).at("--data")?;
        if let Some(train) = &self.train {
            check_classes(train, classifier.num_classes).at("--linear-tuning")?;
        }
        Ok(classifier)
    }

    /// All rows without figures; the smallest images of a checkpoint first.
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
        // The protocol of the resolution study in the paper.
        let config = TuningConfig { epochs: 30, batch_size: 4096, lr: published_lr(row.side), reinit: false, seed: 0 };
        row.tuned_top1 = Some(tune_head(model, train, &val, &config, |_| ())?.best.top1);
        row.tuned_on = Some(source.clone());
        Ok(())
    }
}

/// Evaluates the missing rows and saves the study after each. Returns false when it was interrupted.
///
/// # Errors
/// When a checkpoint or the data do not fit the model, or a file cannot be written. An unsupported image size becomes a row with the reason.
pub fn run(plan: &AccuracyPlan, device: &Device, study: &mut Study, folder: &Path, interrupted: &Arc<AtomicBool>) -> Result<bool> {
    let tuned_on = plan.train.as_deref().map(Source::folder);
    let missing: Vec<Accuracy> = plan.rows()?.into_iter().filter(|row| !row.is_known(study, tuned_on.as_ref())).collect();
    let weights = missing.iter().map(|row| Ok(flops(&BackboneConfig::named(&row.model)?, row.side))).collect::<Result<Vec<f64>>>()?;
    let mut progress = Progress::new(weights);
    let mut loaded: Option<(Source, LoadedClassifier)> = None;
    for mut row in missing {
        if interrupted.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let Accuracy { model, side, precision, .. } = &row;
        progress.begin(&format!("accuracy of {model}, {side}x{side}, {precision}"));
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
                    Err(StudyError::Other(error)) if error.is::<Interrupted>() => return Ok(false),
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
        progress.done();
    }
    Ok(true)
}

impl Accuracy {
    /// Whether `other` has the same model, size, precision and paths; the content of the files may differ.
    fn replaces(&self, other: &Self) -> bool {
        let key = |row: &Self| (row.model.clone(), row.side, row.precision, row.checkpoint.path.clone(), row.data.path.clone());
        key(self) == key(other)
    }

    /// Whether the study has the figures of this row, including the last layer tuned on `tuned_on` where that is requested.
    fn is_known(&self, study: &Study, tuned_on: Option<&Source>) -> bool {
        let same = |row: &&Accuracy| self.replaces(row) && self.checkpoint == row.checkpoint && self.data == row.data;
        let known = study.accuracies.iter().find(same);
        known.is_some_and(|row| row.failed.is_some() || tuned_on.is_none() || row.tuned_on.as_ref() == tuned_on)
    }
}
