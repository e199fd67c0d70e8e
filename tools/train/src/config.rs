//! Settings of a run: the table `train` of a configuration file, and the fields that [`TrainerBuilder`](crate::TrainerBuilder) sets.

use serde::{Deserialize, Serialize};

use vmamba_types::setting::{self, SettingError};

use crate::error::TrainError;
use crate::optimizer::OptimizerConfig;
use crate::precision::Precision;
use crate::schedule::{Decay, ScheduleConfig};

/// Largest number of steps of a run or an interval.
pub(crate) const MAX_STEPS: u64 = 1_000_000_000;

/// Largest number of images of a batch, and of batches of a step.
const MAX_BATCH: usize = 65_536;

/// How a model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps of the run. Set either this or `epochs`.
    #[serde(default)]
    pub iterations: Option<u64>,
    /// Passes over the training set. Set either this or `iterations`.
    #[serde(default)]
    pub epochs: Option<u64>,
    /// Images of a batch on every device.
    pub batch_size: usize,
    /// Batches whose gradients are averaged for one optimiser step.
    #[serde(default = "one")]
    pub accumulation: u64,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
    /// The learning rate over the run.
    pub schedule: ScheduleConfig,
    /// Decay of the exponential moving average of the weights; absent for no average.
    #[serde(default)]
    pub ema: Option<f64>,
    /// Type of the activations in training; validations compute in float32.
    #[serde(default)]
    pub precision: Precision,
    /// Seed of random weights, order of the images, augmentation and dropout.
    #[serde(default)]
    pub seed: u64,
    /// Optimiser steps between validations; absent for one validation an epoch.
    #[serde(default)]
    pub val_interval: Option<u64>,
    /// Optimiser steps between checkpoints; absent for the interval of the validations.
    #[serde(default)]
    pub checkpoint_interval: Option<u64>,
    /// Optimiser steps between printed lines of progress; `metrics.jsonl` has every step.
    #[serde(default = "log_interval")]
    pub log_interval: u64,
    /// Validation images drawn at the end of the run.
    #[serde(default = "pictures")]
    pub pictures: usize,
    /// Parameters whose official key contains one of these texts are not trained.
    #[serde(default)]
    pub freeze: Vec<String>,
    /// Freezes the weights and the statistics of all norm layers.
    #[serde(default)]
    pub freeze_norms: bool,
    /// Batch norms of the backbone normalise by their stored statistics, which do not change; their weights are trained (mmdetection's
    /// `norm_eval`).
    #[serde(default)]
    pub norm_eval: bool,
    /// The reaction to a loss or gradient that is not finite.
    #[serde(default)]
    pub non_finite: NonFinite,
}

/// The reaction to a loss or gradient that is not finite. Both choices report the incident to the observers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// The run ends; the newest checkpoint is kept.
    #[default]
    Stop,
    /// The optimiser step is skipped and the run goes on.
    Skip,
}

/// The length of a run in optimiser steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Steps of the whole run.
    pub iterations: u64,
    /// Steps of an epoch, a pass over the training set.
    pub epoch: u64,
    /// Steps between validations.
    pub val_interval: u64,
    /// Steps between checkpoints.
    pub checkpoint_interval: u64,
}

impl Default for TrainConfig {
    /// Batches of one image, AdamW at 1e-4, a constant learning rate. The length is not set.
    fn default() -> Self {
        Self {
            iterations: None,
            epochs: None,
            batch_size: 1,
            accumulation: one(),
            optimizer: OptimizerConfig::adamw(1e-4),
            schedule: ScheduleConfig::constant(),
            ema: None,
            precision: Precision::default(),
            seed: 0,
            val_interval: None,
            checkpoint_interval: None,
            log_interval: log_interval(),
            pictures: pictures(),
            freeze: Vec::new(),
            freeze_norms: false,
            norm_eval: false,
            non_finite: NonFinite::default(),
        }
    }
}

impl TrainConfig {
    /// Images of an optimiser step on every device.
    pub fn step_size(&self) -> u64 {
        (self.batch_size as u64).saturating_mul(self.accumulation)
    }

    /// The length of a run over `samples` training images on `devices` devices.
    ///
    /// # Errors
    /// When neither or both of `iterations` and `epochs` are set.
    pub fn length(&self, samples: usize, devices: usize) -> Result<Length, TrainError> {
        let epoch = (samples as u64).div_ceil(self.step_size().saturating_mul(devices as u64).max(1)).max(1);
        let iterations = match (self.iterations, self.epochs) {
            (Some(iterations), None) => iterations,
            (None, Some(epochs)) => epochs.saturating_mul(epoch),
            (None, None) => return Err(TrainError::config("iterations", " or train.epochs must be set")),
            (Some(_), Some(_)) => {
                let message = " and train.epochs are both set; remove one of them from the configuration file (--set cannot remove a key)";
                return Err(TrainError::config("iterations", message));
            }
        };
        let val_interval = self.val_interval.unwrap_or(epoch);
        Ok(Length { iterations, epoch, val_interval, checkpoint_interval: self.checkpoint_interval.unwrap_or(val_interval) })
    }

    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.length(1, 1)?;
        self.ranges()?;
        Ok(())
    }

    /// Validates value ranges, field by field.
    fn ranges(&self) -> Result<(), SettingError> {
        for (field, value) in [
            ("iterations", self.iterations.unwrap_or(1)),
            ("epochs", self.epochs.unwrap_or(1)),
            ("val_interval", self.val_interval.unwrap_or(1)),
            ("checkpoint_interval", self.checkpoint_interval.unwrap_or(1)),
            ("log_interval", self.log_interval),
        ] {
            setting::whole(field, value, 1..=MAX_STEPS)?;
        }
        setting::whole("batch_size", self.batch_size, 1..=MAX_BATCH)?;
        setting::whole("accumulation", self.accumulation, 1..=MAX_BATCH as u64)?;
        setting::whole("pictures", self.pictures, 0..=100_000)?;
        self.optimizer.validate().map_err(|error| error.within("optimizer"))?;
        self.schedule.validate().map_err(|error| error.within("schedule"))?;
        if let Decay::Poly { min_lr, .. } = self.schedule.decay {
            let lr = self.optimizer.lr;
            let allowed = format!("at most optimizer.lr ({lr}), from which the learning rate falls");
            setting::require(min_lr <= lr, "schedule.decay.min_lr", allowed, min_lr)?;
        }
        self.ema.map_or(Ok(()), |decay| setting::rate("ema", decay))
    }
}

fn one() -> u64 {
    1
}

fn log_interval() -> u64 {
    10
}

fn pictures() -> usize {
    8
}
