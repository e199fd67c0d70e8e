//! One optimiser step: batches, losses, gradients, their mean over the devices, the update.

use std::time::{Duration, Instant};

use burn::module::Module;

use super::Trainer;
use crate::config::{Length, NonFinite, TrainConfig};
use crate::data_parallel::{DeviceGroup, Others, Replica};
use crate::error::{BoxError, TrainError};
use crate::guard::{Incident, first_bad_gradient, first_bad_weight};
use crate::recipe::{Recipe, Scalars, StepContext, StepLoss};

/// What a step did.
pub(super) struct Step {
    pub(super) parts: Scalars,
    pub(super) lr: f64,
    pub(super) norm: f64,
    /// Why the step was skipped, if it was.
    pub(super) skipped: Option<String>,
}

/// Where the time of the steps since the last report went.
#[derive(Default)]
pub(super) struct Times {
    data: Duration,
    forward: Duration,
    backward: Duration,
    optimizer: Duration,
    steps: u32,
}

impl Times {
    /// Mean seconds of a step; begins anew.
    pub(super) fn take(&mut self) -> Scalars {
        let Self { data, forward, backward, optimizer, steps } = std::mem::take(self);
        let mean = |time: Duration| time.as_secs_f64() / f64::from(steps.max(1));
        [("data_seconds", data), ("forward_seconds", forward), ("backward_seconds", backward), ("optimizer_seconds", optimizer)]
            .into_iter()
            .map(|(name, time)| (name.to_owned(), mean(time)))
            .collect()
    }
}

/// The losses of the batches of a step. Their gradients are on the replicas.
#[derive(Default)]
struct Losses {
    /// Mean over the batches.
    parts: Scalars,
    images: Vec<String>,
    /// The first loss that is not finite.
    incident: Option<Incident>,
}

impl Losses {
    fn add(&mut self, batch: BatchLoss, batches: f64) {
        self.images.extend(batch.images);
        self.incident = self.incident.take().or(batch.incident);
        for (index, (name, value)) in batch.parts.into_iter().enumerate() {
            match self.parts.get_mut(index) {
                Some(part) => part.1 += value / batches,
                None => self.parts.push((name, value / batches)),
            }
        }
    }
}

impl<R: Recipe> Trainer<R> {
    pub(super) fn step<'a>(
        &mut self,
        recipe: &'a R,
        config: &'a TrainConfig,
        group: &'a DeviceGroup,
        others: &Others<'a, R::Model>,
        batches: &mut dyn Iterator<Item = Result<R::Batch, BoxError>>,
        times: &mut Times,
    ) -> Result<Step, TrainError> {
        let Length { iterations, epoch, .. } = self.length;
        let lr = config.schedule.learning_rate(config.optimizer.lr, self.iteration, iterations, epoch);
        // A backend has one generator for all its devices. Seeding it here makes the step independent of what was drawn before.
        let seed = config.seed ^ (self.iteration + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.first.device.seed(seed);
        let iteration = self.iteration + 1;
        let Losses { parts, images, mut incident } = self.add_batches(recipe, config, group, others, batches, times, seed)?;

        let begin = Instant::now();
        let gradients = others.each(&mut self.first, vec![(); group.count()], move |replica, ()| replica.take_gradients(group))?;
        let norm = gradients.first().map_or(0.0, |own| self.first.optimizer.norm(&self.first.model, own));
        if incident.is_none() && !norm.is_finite() {
            let place = gradients.first().and_then(|own| first_bad_gradient(&self.first.model, own, recipe.keys()));
            let place = place.unwrap_or_else(|| "the norm over all parameters, which overflows".to_owned());
            incident = Some(Incident { iteration, images, what: "gradient", place, parts: parts.clone() });
        }
        let skipped = match incident {
            Some(incident) => Some(self.report_incident(incident, config.non_finite)?),
            None => {
                others.each(&mut self.first, gradients, move |replica, gradients| replica.step(gradients, norm, lr))?;
                if let Some(ema) = &mut self.ema {
                    ema.update(&self.first.model);
                }
                None
            }
        };
        times.optimizer += begin.elapsed();
        times.steps += 1;
        self.iteration = iteration;
        Ok(Step { parts, lr, norm, skipped })
    }

    /// Adds the gradients of all batches of a step to the replicas.
    fn add_batches<'a>(
        &mut self,
        recipe: &'a R,
        config: &'a TrainConfig,
        group: &'a DeviceGroup,
        others: &Others<'a, R::Model>,
        batches: &mut dyn Iterator<Item = Result<R::Batch, BoxError>>,
        times: &mut Times,
        seed: u64,
    ) -> Result<Losses, TrainError> {
        let iteration = self.iteration + 1;
        let devices = group.count() as u64;
        let mut losses = Losses::default();
        for micro_batch in 0..config.accumulation {
            let begin = Instant::now();
            // Consecutive batches go to consecutive devices, so an epoch has every image once on any number of devices.
            let mut inputs = Vec::new();
            for number in micro_batch * devices..(micro_batch + 1) * devices {
                let batch = batches.next().ok_or(TrainError::DataEnded { iteration: self.iteration })?;
                inputs.push((batch.map_err(TrainError::Recipe)?, seed.wrapping_add(number)));
            }
            times.data += begin.elapsed();
            if losses.incident.is_some() {
                // The step is left out, but its batches are used up.
                continue;
            }
            let found = others
                .each(&mut self.first, inputs, move |replica, (batch, seed)| add_batch(recipe, config, iteration, replica, &batch, seed))?;
            if let Some(own) = found.first() {
                times.forward += own.forward;
                times.backward += own.backward;
            }
            for batch in found {
                losses.add(batch, (config.accumulation * devices) as f64);
            }
        }
        Ok(losses)
    }

    /// Tells the observers about a step that cannot be taken; ends the run unless the configuration says to go on.
    fn report_incident(&mut self, incident: Incident, choice: NonFinite) -> Result<String, TrainError> {
        self.notify(|observer| observer.incident(&incident))?;
        match choice {
            NonFinite::Skip => Ok(incident.summary()),
            NonFinite::Stop => Err(TrainError::NonFinite(Box::new(incident))),
        }
    }
}

/// What one device found for one batch.
struct BatchLoss {
    /// The loss and its parts; empty when the loss is not finite.
    parts: Scalars,
    images: Vec<String>,
    incident: Option<Incident>,
    forward: Duration,
    backward: Duration,
}

/// Adds the gradients of a batch to those of the step, unless its loss is not finite.
fn add_batch<R: Recipe>(
    recipe: &R,
    config: &TrainConfig,
    iteration: u64,
    replica: &mut Replica<R::Model>,
    batch: &R::Batch,
    seed: u64,
) -> BatchLoss
where
    R::Model: Module,
{
    let begin = Instant::now();
    let context = StepContext { device: replica.device.clone(), seed, precision: config.precision };
    let StepLoss { total, parts } = recipe.loss(&replica.model, batch, &context);
    let value = f64::from(total.clone().into_scalar::<f32>());
    let forward = begin.elapsed();
    let images = recipe.sample_names(batch);
    if !value.is_finite() {
        let place = first_bad_weight(&replica.model, recipe.keys())
            .or_else(|| recipe.first_non_finite_module(&replica.model, batch, &context))
            .unwrap_or_else(|| "the loss itself".to_owned());
        let incident = Some(Incident { iteration, images: images.clone(), what: "loss", place, parts });
        return BatchLoss { parts: Vec::new(), images, incident, forward, backward: Duration::ZERO };
    }
    let begin = Instant::now();
    replica.add_gradients(total / config.accumulation as f64);
    let parts = std::iter::once(("loss".to_owned(), value)).chain(parts).collect();
    BatchLoss { parts, images, incident: None, forward, backward: begin.elapsed() }
}
