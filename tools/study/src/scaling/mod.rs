//! The input-resolution study: cost, speed, memory and accuracy at several image sizes of models trained at 224 pixels.
//!
//! ```text
//! models × sides × batches × precisions × {inference, training} ── a child process each ──> study.json (after each) ──> tables, plots
//! ```
//! An interrupted study continues from `study.json`. A failure becomes a row with its reason.

pub mod accuracy;
mod progress;
mod report;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use vision_datasets::json;
use vmamba::zoo::BackboneConfig;
use vmamba_report::eprintln;
use vmamba_report::files::write_whole;
use vmamba_train::Precision;

use crate::error::{Result, StudyError, invalid};
use crate::measure::{CLASSES, Measured, Protocol, Purpose, Subject, Task, speed_apart};
use progress::Progress;

pub use accuracy::{Accuracy, AccuracyPlan, Source};
pub use report::{text, write};

/// The grid of a study.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names of models.
    pub models: Vec<String>,
    /// Heights and widths of the images in pixels.
    pub sides: Vec<usize>,
    /// Batch sizes.
    pub batches: Vec<usize>,
    /// Types to compute in.
    pub precisions: Vec<Precision>,
    /// Inference, training or both.
    pub purposes: Vec<Purpose>,
    /// The device by name.
    pub device: String,
    /// The timing protocol.
    pub protocol: Protocol,
}

/// One cell of the grid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Name of the model.
    pub model: String,
    /// Height and width of the images in pixels.
    pub side: usize,
    /// Images of a batch.
    pub batch: usize,
    /// The device by name.
    pub device: String,
    /// Type to compute in.
    pub precision: Precision,
    /// Inference or training; training is the forward pass, cross-entropy loss and backward pass without the optimizer, as in the paper's
    /// table.
    pub purpose: Purpose,
}

impl Work {
    fn measure(&self, config: &BackboneConfig, protocol: Protocol) -> Result<Measured, String> {
        config.check_image([self.side; 2]).map_err(|error| error.to_string())?;
        let Self { side, batch, precision, .. } = *self;
        let task = Task { work: self.purpose.work(false), size: [side; 2], batch, precision, threads: None };
        speed_apart(Subject { config: config.clone(), task, device: self.device.clone() }, protocol)
    }
}

/// A row: a cell of the grid with its figures or the reason for a failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The cell.
    pub work: Work,
    /// Fingerprint of the model's options, which may change while its name stays: the CRC-32C of the options as JSON.
    #[serde(default)]
    pub options: String,
    /// The timing protocol.
    pub protocol: Protocol,
    /// The figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// The reason for a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// All results so far; the content of `study.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Speed and memory.
    pub rows: Vec<Row>,
    /// Accuracy.
    #[serde(default)]
    pub accuracies: Vec<Accuracy>,
}

/// The file of a study in its folder.
const FILE: &str = "study.json";

impl Study {
    /// Reads the study in `folder`; a new one where there is none.
    ///
    /// # Errors
    /// [`StudyError::Content`] when the file is not a study.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        vmamba_files::may_replace(&path);
        match vmamba_files::read_text(&path) {
            Ok(text) => json::parse(&text).map_err(StudyError::content(path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(StudyError::read(&path)(error)),
        }
    }

    /// Writes the study into `folder` atomically.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(StudyError::content(path.display()))?;
        Ok(write_whole(&path, format!("{text}\n").as_bytes())?)
    }

    /// The row of `work` on a model with the options of `config`, measured by `protocol`.
    pub fn row(&self, work: &Work, config: &BackboneConfig, protocol: Protocol) -> Option<&Row> {
        let options = options(config);
        self.rows.iter().find(|row| row.work == *work && row.protocol == protocol && row.options == options)
    }
}

/// The fingerprint of a model, see [`Row::options`].
pub fn options(config: &BackboneConfig) -> String {
    checksum(Value::Object(Map::from(config.clone())).to_string().as_bytes())
}

fn checksum(bytes: &[u8]) -> String {
    format!("{:08x}", crc32c::crc32c(bytes))
}

impl Plan {
    /// Validates names and sizes.
    ///
    /// # Errors
    /// [`StudyError::Invalid`] or [`StudyError::Config`] with the first invalid option.
    pub fn validate(&self) -> Result<()> {
        for model in &self.models {
            BackboneConfig::named(model)?;
        }
        for (name, empty) in [
            ("models", self.models.is_empty()),
            ("sides", self.sides.is_empty() || self.sides.contains(&0)),
            ("batches", self.batches.is_empty() || self.batches.contains(&0)),
            ("precisions", self.precisions.is_empty()),
            ("tasks", self.purposes.is_empty()),
        ] {
            if empty {
                return Err(invalid!("--{name}: at least one, and none of them 0"));
            }
        }
        Ok(())
    }

    /// All cells with their models. Small images come first, so that early results cover every model.
    ///
    /// # Errors
    /// [`StudyError::Config`] for an unknown model.
    pub fn works(&self) -> Result<Vec<(Work, BackboneConfig)>> {
        let models = self.models.iter().map(|name| Ok((name.clone(), BackboneConfig::named(name)?))).collect::<Result<Vec<_>>>()?;
        Ok(self.works_of(&models))
    }

    /// As [`Plan::works`] for models of any configuration.
    pub fn works_of(&self, models: &[(String, BackboneConfig)]) -> Vec<(Work, BackboneConfig)> {
        let mut works = Vec::new();
        for side in &self.sides {
            for batch in &self.batches {
                for (model, config) in models {
                    for precision in &self.precisions {
                        for purpose in &self.purposes {
                            let (model, device) = (model.clone(), self.device.clone());
                            let work = Work { model, side: *side, batch: *batch, device, precision: *precision, purpose: *purpose };
                            works.push((work, config.clone()));
                        }
                    }
                }
            }
        }
        works
    }
}

/// Measures the missing cells and saves the study after each. Returns false when it was interrupted.
///
/// # Errors
/// When a file cannot be written.
pub fn run(
    works: &[(Work, BackboneConfig)],
    protocol: Protocol,
    study: &mut Study,
    folder: &Path,
    interrupted: &AtomicBool,
) -> Result<bool> {
    let works: Vec<&(Work, BackboneConfig)> = works.iter().filter(|(work, config)| study.row(work, config, protocol).is_none()).collect();
    let mut progress = Progress::new(works.iter().map(|(work, config)| weight(work, config)).collect());
    for (work, config) in works {
        if interrupted.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let Work { model, side, batch, precision, purpose, .. } = work;
        progress.begin(&format!("{purpose} of {model}, {side}x{side}, batch {batch}, {precision}"));
        let outcome = work.measure(config, protocol);
        if interrupted.load(Ordering::SeqCst) {
            // The interrupt reached the child process as well, so its answer is not a result.
            return Ok(false);
        }
        let (measured, failed) = match outcome {
            Ok(measured) => {
                eprintln!("  {:.2} images/s, {:.0} MiB", measured.images_per_second, measured.peak_bytes as f64 / f64::from(1 << 20));
                (Some(measured), None)
            }
            Err(reason) => {
                eprintln!("  failed: {reason}");
                (None, Some(reason))
            }
        };
        // Also removes the row of another model that had this name.
        study.rows.retain(|row| row.work != *work || row.protocol != protocol);
        study.rows.push(Row { work: work.clone(), options: options(config), protocol, measured, failed });
        study.save(folder)?;
        progress.done();
    }
    Ok(true)
}

/// Expected time of a cell relative to others: its FLOPs, three times as many with the backward pass.
fn weight(work: &Work, config: &BackboneConfig) -> f64 {
    let passes = if work.purpose == Purpose::Training { 3.0 } else { 1.0 };
    flops(config, work.side) * work.batch as f64 * passes
}

/// FLOPs of one image; 0 when the model does not take the size.
fn flops(config: &BackboneConfig, side: usize) -> f64 {
    let fits = config.check_image([side; 2]).is_ok();
    if fits { config.classifier_complexity(CLASSES, [side; 2]).flops() as f64 } else { 0.0 }
}
