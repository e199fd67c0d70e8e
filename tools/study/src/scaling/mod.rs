//! The input-resolution scaling study: cost, speed, memory and accuracy of models that were trained at 224 pixels, at every size.
//!
//! ```text
//! models × sides × batches × precisions × {inference, training} ── a process each ──> study.json (after every one) ──> tables, plots
//! ```
//! A study that was interrupted goes on from `study.json`. What a model cannot do becomes a row that says why.

pub mod accuracy;
pub mod allocator;
mod measure;
mod report;

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anstream::eprintln;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use vmamba::zoo::BackboneConfig;

use vmamba_train::precision::Precision;

pub use accuracy::{Accuracy, AccuracyPlan, Source};
pub use measure::{CLASSES, Measured, Protocol, Purpose, Request, Work, measure, measure_apart};
pub use report::{text, write};

/// What a study covers.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Models by name.
    pub models: Vec<String>,
    /// Heights and widths of the images in pixels.
    pub sides: Vec<usize>,
    /// Numbers of images at once.
    pub batches: Vec<usize>,
    /// Numbers to compute with.
    pub precisions: Vec<Precision>,
    /// What the models do.
    pub purposes: Vec<Purpose>,
    /// The device, as the user names it.
    pub device: String,
    /// How times are taken.
    pub protocol: Protocol,
}

/// One row: what was measured, or why it was not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was to be measured.
    pub work: Work,
    /// Tells the options of the model, which may change under its name: the CRC-32C of them as JSON.
    #[serde(default)]
    pub options: String,
    /// How.
    pub protocol: Protocol,
    /// The numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// The reason that there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// Everything measured so far, as `study.json` holds it.
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
    /// The study in `folder`, or a new one.
    ///
    /// # Errors
    /// When the file is there and no study.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is no study", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the study into `folder`, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let written = || -> Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            writeln!(file, "{}", serde_json::to_string_pretty(self)?)?;
            file.persist(&path)?;
            Ok(())
        };
        written().with_context(|| format!("cannot write {}", path.display()))
    }

    /// The row of a work on a model with these options, measured by this protocol.
    pub fn row(&self, work: &Work, config: &BackboneConfig, protocol: Protocol) -> Option<&Row> {
        let options = options(config);
        self.rows.iter().find(|row| row.work == *work && row.protocol == protocol && row.options == options)
    }
}

/// What tells the options of a model, see [`Row::options`].
pub fn options(config: &BackboneConfig) -> String {
    checksum(Value::Object(Map::from(config.clone())).to_string().as_bytes())
}

fn checksum(bytes: &[u8]) -> String {
    format!("{:08x}", crc32c::crc32c(bytes))
}

impl Plan {
    /// Checks names and sizes.
    ///
    /// # Errors
    /// Names what is wrong.
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
                bail!("--{name}: at least one, and none of them 0");
            }
        }
        Ok(())
    }

    /// All works with their models, the smallest images first, so that what is known early is known of every model.
    ///
    /// # Errors
    /// When a model does not exist.
    pub fn works(&self) -> Result<Vec<(Work, BackboneConfig)>> {
        let models = self.models.iter().map(|name| Ok((name.clone(), BackboneConfig::named(name)?))).collect::<Result<Vec<_>>>()?;
        Ok(self.works_of(&models))
    }

    /// As [`Plan::works`], of models that have no published name.
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

/// Runs what the study lacks, saves it after every work, and returns whether it is complete: false when it was interrupted.
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
    let weights: Vec<f64> = works.iter().map(|(work, config)| weight(work, config)).collect();
    let (start, mut done) = (Instant::now(), 0.0);
    for (index, ((work, config), weight)) in works.iter().zip(&weights).enumerate() {
        if interrupted.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let left = weights.iter().skip(index).sum::<f64>();
        let left =
            if done > 0.0 { format!(", about {} left", duration(start.elapsed().as_secs_f64() / done * left)) } else { String::new() };
        eprintln!(
            "{}/{}: {} of {}, {}x{}, batch {}, {}{left}",
            index + 1,
            works.len(),
            work.purpose.name(),
            work.model,
            work.side,
            work.side,
            work.batch,
            work.precision.name()
        );
        let outcome = match config.check_image([work.side; 2]) {
            Ok(()) => measure_apart(work, config, protocol),
            Err(error) => Err(error.to_string()),
        };
        if interrupted.load(Ordering::SeqCst) {
            // The interrupt reached the process that measures as well: what it said last is no result.
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
        // A model of other options had this name.
        study.rows.retain(|row| row.work != *work || row.protocol != protocol);
        study.rows.push(Row { work: work.clone(), options: options(config), protocol, measured, failed });
        study.save(folder)?;
        done += weight;
    }
    Ok(true)
}

/// How long a work takes beside others: its FLOPs, three times as many with the backward pass.
fn weight(work: &Work, config: &BackboneConfig) -> f64 {
    let flops = match config.check_image([work.side; 2]) {
        Ok(()) => config.classifier_complexity(CLASSES, [work.side; 2]).flops(),
        Err(_) => 0,
    };
    let passes = if work.purpose == Purpose::Training { 3.0 } else { 1.0 };
    flops as f64 * work.batch as f64 * passes
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}
