//! Observers of a run: the trainer reports every event to them, and they print, log, draw and save.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use vmamba::checkpoint::{CheckpointError, StateDict, save_checkpoint};

use crate::config::Length;
use crate::error::BoxError;
use crate::guard::Incident;
use crate::recipe::Scalars;
use crate::trainer::Outcome;

/// A run, before its first step.
#[derive(Clone, Debug)]
pub struct RunInfo {
    /// Name of the run.
    pub name: String,
    /// Steps of earlier sessions; 0 for a new run.
    pub first: u64,
    /// The steps after which earlier sessions last validated the model, as the checkpoint knows it. Later validations are repeated.
    pub validated: Option<u64>,
    /// Notes about the data, one sentence each.
    pub notes: Vec<String>,
    /// How long the run is.
    pub length: Length,
    /// Images in a step on all devices together.
    pub step_size: u64,
    /// Name of the figure that is maximised.
    pub metric: &'static str,
    /// Names of the losses to plot.
    pub plotted_losses: &'static [&'static str],
}

/// A step that was taken or skipped.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// The step, from 1.
    pub iteration: u64,
    /// Steps of the whole run.
    pub iterations: u64,
    /// Losses, learning rate, gradient norm, images per second. Every `log_interval` steps also the seconds of each part of a step.
    pub scalars: Scalars,
    /// Whether the step is a multiple of `log_interval` or the last one.
    pub due: bool,
    /// Estimated remaining time, without validations.
    pub left: Duration,
    /// Why the step was skipped, if it was.
    pub skipped: Option<String>,
}

impl StepReport {
    /// A figure by its name; NaN where the step has none.
    pub fn scalar(&self, name: &str) -> f64 {
        self.scalars.iter().find(|(own, _)| own == name).map_or(f64::NAN, |(_, value)| *value)
    }
}

/// The figures of a validation.
#[derive(Clone, Debug)]
pub struct ValidationReport {
    /// Steps done.
    pub iteration: u64,
    /// Figures as shares of 1; the first is maximised.
    pub scalars: Scalars,
    /// Whether it is the best so far.
    pub best: bool,
}

/// The kind of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointKind {
    /// The newest step, with the optimiser's state, to resume from.
    Latest,
    /// The best validation so far, without the optimiser's state.
    Best,
}

/// A checkpoint in memory.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Which one.
    pub kind: CheckpointKind,
    /// The trained weights.
    pub weights: StateDict,
    /// The averaged weights, if the run keeps them; validations use them.
    pub averaged: Option<StateDict>,
    /// Metadata of the recipe and the state of the run.
    pub metadata: BTreeMap<String, String>,
    /// The optimiser's state by name; empty in [`CheckpointKind::Best`].
    pub optimizer: BTreeMap<String, Vec<u8>>,
}

impl Snapshot {
    /// Writes the checkpoint to `path` atomically.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        save_checkpoint(path, &self.weights, self.averaged.as_ref(), &self.metadata, &self.optimizer)
    }
}

/// Observes a run. Every method does nothing by default. An error ends the run, after all observers have been told.
pub trait Observer: Send {
    /// Before the first step.
    ///
    /// # Errors
    /// When the observer cannot go on.
    fn started(&mut self, _run: &RunInfo) -> Result<(), BoxError> {
        Ok(())
    }

    /// After every step.
    ///
    /// # Errors
    /// When the observer cannot go on.
    fn step(&mut self, _step: &StepReport) -> Result<(), BoxError> {
        Ok(())
    }

    /// After every validation.
    ///
    /// # Errors
    /// When the observer cannot go on.
    fn validated(&mut self, _validation: &ValidationReport) -> Result<(), BoxError> {
        Ok(())
    }

    /// Whether [`Observer::save`] does anything; the trainer makes snapshots only for observers that want them.
    fn wants_checkpoints(&self) -> bool {
        false
    }

    /// When a checkpoint is due.
    ///
    /// # Errors
    /// When it cannot be saved.
    fn save(&mut self, _snapshot: &Snapshot) -> Result<(), BoxError> {
        Ok(())
    }

    /// When a loss or a gradient is not finite, before the run stops or skips the step.
    ///
    /// # Errors
    /// When the observer cannot go on.
    fn incident(&mut self, _incident: &Incident) -> Result<(), BoxError> {
        Ok(())
    }

    /// A message for the user.
    fn message(&mut self, _text: &str) {}

    /// After the last step, or after the step in which the run was stopped.
    ///
    /// # Errors
    /// When the observer cannot finish its work.
    fn finished(&mut self, _outcome: Outcome, _iteration: u64) -> Result<(), BoxError> {
        Ok(())
    }
}
