//! The training loop, the same for every task.
//!
//! One iteration is one optimiser step. Everything random in it is drawn from generators seeded by `(seed, iteration)`, so a resumed run
//! takes exactly the steps that the uninterrupted run would have taken.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::module::Module;
use vmamba::checkpoint::{Checkpoint, LoadOptions, StateDict, Weights, load_into, state_dict_of};

mod builder;
mod step;

pub use builder::TrainerBuilder;

use crate::config::{Length, TrainConfig};
use crate::data_parallel::{DeviceGroup, Others, Replica};
use crate::ema::Ema;
use crate::error::{BoxError, TrainError};
use crate::observer::{CheckpointKind, Observer, RunInfo, Snapshot, StepReport, ValidationReport};
use crate::recipe::{BatchOrder, Recipe};
use step::{Step, Times};

/// A training run.
pub struct Trainer<R: Recipe> {
    recipe: Arc<R>,
    config: Arc<TrainConfig>,
    group: Arc<DeviceGroup>,
    length: Length,
    /// The replica on the first device, which is validated and saved.
    first: Replica<R::Model>,
    ema: Option<Ema>,
    iteration: u64,
    /// The best validation: iteration and figure.
    best: Option<(u64, f64)>,
    /// The weights of the best validation in this process, on the host.
    best_weights: Option<StateDict>,
    /// The iteration after which the model was last validated.
    validated: Option<u64>,
    observers: Vec<Box<dyn Observer>>,
    stop: Arc<AtomicBool>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All iterations are done.
    Finished,
    /// The stop flag was set. The newest checkpoint is saved, and a resumed run goes on from it.
    Interrupted,
}

impl<R: Recipe> Trainer<R> {
    /// Builds a run of `model` with the batches, loss and validation of `recipe`.
    pub fn builder(recipe: R, model: R::Model) -> TrainerBuilder<R> {
        TrainerBuilder::new(recipe, model)
    }

    /// Continues from a checkpoint of [`CheckpointKind::Latest`] of the same run.
    ///
    /// # Errors
    /// When the file cannot be read, belongs to another model, or has no optimiser state.
    pub fn resume(&mut self, path: &Path) -> Result<(), TrainError> {
        let checkpoint = Checkpoint::read(path)?;
        let damaged = |message: String| TrainError::Resume { path: path.to_owned(), message };
        let keys = self.recipe.keys();
        let state = checkpoint.state_dict(Weights::Model)?;
        let (model, _) = load_into(self.first.model.clone(), &keys, &state, &LoadOptions::new())
            .map_err(|source| TrainError::OtherModel { path: path.to_owned(), source })?;
        let metadata = checkpoint.metadata();
        let number = |name: &str| metadata.get(name).and_then(|text| text.parse::<f64>().ok());
        self.recipe.check_resumed(metadata).map_err(|error| damaged(error.to_string()))?;
        let iteration = number("iteration").ok_or_else(|| damaged("it does not say its iteration".to_owned()))? as u64;
        let plain = self.first.device.clone().inner();
        let mut optimizer = self.first.optimizer.copy_to(&plain);
        optimizer.restore(&model, &plain, |name| checkpoint.blob(name).map_err(TrainError::from), damaged)?;
        let ema = match self.config.ema {
            Some(decay) => Some(Ema::restore(decay, keys, &model, &checkpoint.state_dict(Weights::Ema)?, &plain)),
            None => None,
        };
        // Nothing fails from here on: an error leaves weights, optimiser and iteration as they were.
        (self.first.model, self.first.optimizer, self.ema, self.iteration) = (model, optimizer, ema, iteration);
        self.validated = number("validated_iteration").map(|iteration| iteration as u64);
        self.best = number("best_iteration").map(|iteration| iteration as u64).zip(number("best_metric"));
        let (began, now) = (number("devices").unwrap_or(1.0), self.group.count());
        if began != now as f64 {
            self.tell(&format!("changed since the run began: the number of devices was {began}, is {now}"));
        }
        Ok(())
    }

    /// Adds an observer, after those of the builder.
    pub fn observe(&mut self, observer: impl Observer + 'static) {
        self.observers.push(Box::new(observer));
    }

    /// How long the run is.
    pub fn length(&self) -> Length {
        self.length
    }

    /// Optimiser steps done so far.
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// The best validation so far: iteration and figure, a share of 1.
    pub fn best(&self) -> Option<(u64, f64)> {
        self.best
    }

    /// The recipe.
    pub fn recipe(&self) -> &R {
        &self.recipe
    }

    /// A line for every trainable parameter with its weight decay and, with layer-wise decay, its learning rate.
    pub fn describe_groups(&self) -> String {
        self.first.optimizer.describe(&self.first.model)
    }

    /// The model as validations see it: without gradients, with averaged weights where the run keeps them.
    ///
    /// # Errors
    /// When the averaged weights do not fit the model, which a wrong key map of the recipe would cause.
    pub fn evaluated_model(&self) -> Result<R::Model, TrainError> {
        let model = self.first.model.valid();
        match &self.ema {
            Some(ema) => {
                let averaged = ema.state_dict(&self.first.model);
                Ok(load_into(model, &self.recipe.keys(), &averaged, &LoadOptions::new()).map_err(TrainError::Average)?.0)
            }
            None => Ok(model),
        }
    }

    /// The model of the best validation, as that validation saw it.
    ///
    /// # Errors
    /// When nothing has been validated, or the best validation was before this run was resumed and only its checkpoint has the weights.
    pub fn best_model(&self) -> Result<R::Model, TrainError> {
        let reason = match (&self.best_weights, self.best) {
            (Some(weights), _) => {
                let model = self.first.model.valid();
                return Ok(load_into(model, &self.recipe.keys(), weights, &LoadOptions::new()).map_err(TrainError::Average)?.0);
            }
            (None, Some(_)) => "the best validation was before the run was resumed; load its checkpoint instead",
            (None, None) => "no validation has given a number; does the recipe have a validation set?",
        };
        Err(TrainError::NoBestModel { reason })
    }

    /// Trains to the end, or until the stop flag is set.
    ///
    /// # Errors
    /// When data cannot be read, a loss is not finite, an observer fails, or a device fails. If data or an observer fail, the steps so far are
    /// saved first. Checkpoints saved before stay as they are after other failures.
    pub fn run(&mut self) -> Result<Outcome, TrainError> {
        let (recipe, config, group) = (Arc::clone(&self.recipe), Arc::clone(&self.config), Arc::clone(&self.group));
        let first = self.iteration;
        let outcome = std::thread::scope(|scope| {
            let others = Others::start(scope, &group, &self.first);
            self.run_on(&recipe, &config, &group, &others)
        });
        let outcome = outcome.map_err(|error| if self.iteration > first { self.save_after(error) } else { error })?;
        let iteration = self.iteration;
        self.notify(|observer| observer.finished(outcome, iteration))?;
        Ok(outcome)
    }

    fn run_on<'a>(
        &mut self,
        recipe: &'a R,
        config: &'a TrainConfig,
        group: &'a DeviceGroup,
        others: &Others<'a, R::Model>,
    ) -> Result<Outcome, TrainError> {
        let Length { iterations, checkpoint_interval, .. } = self.length;
        let devices = group.count() as u64;
        // A run that failed may have left the gradients of half a step.
        self.first.forget_gradients();
        let info = RunInfo {
            notes: self.recipe.notes(),
            name: recipe.name(),
            first: self.iteration,
            validated: self.validated,
            length: self.length,
            step_size: config.step_size() * devices,
            metric: recipe.metric(),
            plotted_losses: recipe.plotted_losses(),
        };
        self.observers.iter_mut().try_for_each(|observer| observer.started(&info)).map_err(TrainError::Observer)?;
        let first = self.iteration * config.accumulation * devices;
        let mut batches = recipe.batches(BatchOrder { first, batch_size: config.batch_size, seed: config.seed });
        let mut times = Times::default();
        if self.iteration > 0 && self.validation_is_due() {
            // The run was stopped before this validation.
            self.validate()?;
            self.save(CheckpointKind::Latest)?;
        }
        let (started, first) = (Instant::now(), self.iteration);
        let mut validation_time = Duration::ZERO;
        while self.iteration < iterations {
            let step = self.step(recipe, config, group, others, &mut *batches, &mut times)?;
            let pace = (started.elapsed() - validation_time).as_secs_f64() / (self.iteration - first) as f64;
            let report = self.report(step, pace, &mut times);
            self.notify(|observer| observer.step(&report))?;

            let stop = self.stop.load(Ordering::SeqCst);
            let finished = self.iteration == iterations;
            let mut save = stop || finished || self.iteration.is_multiple_of(checkpoint_interval);
            if !stop && self.validation_is_due() {
                let begin = Instant::now();
                // A validation may take longer than the steps before it, and may be interrupted.
                self.save(CheckpointKind::Latest)?;
                self.validate()?;
                save = true;
                validation_time += begin.elapsed();
            }
            if save {
                self.save(CheckpointKind::Latest)?;
            }
            if stop {
                return Ok(Outcome::Interrupted);
            }
        }
        Ok(Outcome::Finished)
    }

    /// The figures of a step. Every step is reported: the trace of the losses is the evidence that a resumed run is the same run.
    fn report(&self, step: Step, pace: f64, times: &mut Times) -> StepReport {
        let (config, Length { iterations, .. }) = (&self.config, self.length);
        let due = self.iteration.is_multiple_of(config.log_interval) || self.iteration == iterations;
        let rate = (config.step_size() * self.group.count() as u64) as f64 / pace;
        let Step { parts: mut scalars, lr, norm, skipped } = step;
        scalars.extend([("lr".to_owned(), lr), ("gradient_norm".to_owned(), norm), ("images_per_second".to_owned(), rate)]);
        if due {
            scalars.extend(times.take());
        }
        let left = Duration::try_from_secs_f64(pace * (iterations - self.iteration) as f64).unwrap_or(Duration::MAX);
        StepReport { iteration: self.iteration, iterations, scalars, due, left, skipped }
    }

    fn notify(&mut self, mut tell: impl FnMut(&mut dyn Observer) -> Result<(), BoxError>) -> Result<(), TrainError> {
        // All are told: a console that cannot print must not cost the log a line.
        let told: Vec<_> = self.observers.iter_mut().map(|observer| tell(observer.as_mut())).collect();
        told.into_iter().collect::<Result<(), BoxError>>().map_err(TrainError::Observer)
    }

    /// Saves the steps before a failure of the data or of an observer, which leaves the model as it is.
    fn save_after(&mut self, error: TrainError) -> TrainError {
        if !matches!(error, TrainError::Observer(_) | TrainError::Recipe(_) | TrainError::DataEnded { .. }) {
            return error;
        }
        match self.save(CheckpointKind::Latest) {
            Ok(()) => error,
            Err(save) => TrainError::Lost { reason: Box::new(error), save: Box::new(save) },
        }
    }

    fn tell(&mut self, text: &str) {
        for observer in &mut self.observers {
            observer.message(text);
        }
    }

    fn validation_is_due(&self) -> bool {
        let due = self.iteration == self.length.iterations || self.iteration.is_multiple_of(self.length.val_interval);
        due && self.validated != Some(self.iteration)
    }

    /// Evaluates the model, and keeps it when it is the best so far.
    fn validate(&mut self) -> Result<(), TrainError> {
        let model = self.evaluated_model()?;
        let scalars = self.recipe.validate(&model, &self.first.device.clone().inner()).map_err(TrainError::Recipe)?;
        let before = self.validated.replace(self.iteration);
        let Some(value) = scalars.first().map(|(_, value)| *value) else { return Ok(()) };
        // A NaN is no figure: it is never the best, not even as the first. A run of an older version may have stored one.
        let best = !value.is_nan() && self.best.is_none_or(|(_, best)| value > best || best.is_nan());
        if best {
            self.best = Some((self.iteration, value));
            self.best_weights = Some(state_dict_of(&model, &self.recipe.keys()));
            self.save(CheckpointKind::Best)?;
        }
        let report = ValidationReport { iteration: self.iteration, scalars, best };
        let told = self.notify(|observer| observer.validated(&report));
        if told.is_err() {
            // The log may lack it: a resumed run validates again.
            self.validated = before;
        }
        told
    }

    fn save(&mut self, kind: CheckpointKind) -> Result<(), TrainError> {
        if !self.observers.iter().any(|observer| observer.wants_checkpoints()) {
            return Ok(());
        }
        let keys = self.recipe.keys();
        let mut metadata = self.recipe.metadata(&self.config).map_err(TrainError::Recipe)?;
        metadata.insert("iteration".to_owned(), self.iteration.to_string());
        metadata.insert("iterations".to_owned(), self.length.iterations.to_string());
        if let Some(iteration) = self.validated {
            metadata.insert("validated_iteration".to_owned(), iteration.to_string());
        }
        if let Some((iteration, metric)) = self.best {
            metadata.insert("best_iteration".to_owned(), iteration.to_string());
            metadata.insert("best_metric".to_owned(), metric.to_string());
        }
        if self.group.count() > 1 {
            metadata.insert("devices".to_owned(), self.group.count().to_string());
        }
        let snapshot = Snapshot {
            kind,
            weights: state_dict_of(&self.first.model, &keys),
            averaged: self.ema.as_ref().map(|ema| ema.state_dict(&self.first.model)),
            metadata,
            // Only the newest checkpoint is resumed from; the best one is smaller without the optimiser.
            optimizer: if kind == CheckpointKind::Latest { self.first.optimizer.to_blobs() } else { BTreeMap::new() },
        };
        self.observers.iter_mut().try_for_each(|observer| observer.save(&snapshot)).map_err(TrainError::Save)
    }
}
