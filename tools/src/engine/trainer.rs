//! The training loop, the same for every task.
//!
//! One iteration is one optimiser step. Everything random in it is drawn from generators seeded by `(seed, iteration)`, so that a resumed
//! run takes exactly the steps the uninterrupted one would have taken.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anstream::println;
use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use vision_datasets::DataError;
use vmamba::checkpoint::{Checkpoint, LoadOptions, Weights, load_into, save_checkpoint, state_dict_of};

use super::config::{Length, NonFinite, TrainConfig};
use super::data_parallel::{DeviceGroup, Others, Replica};
use super::ema::Ema;
use super::freeze::freeze;
use super::guard::{Incident, REPORT_FILE, first_bad_gradient, first_bad_weight};
use super::logging::{RunLog, Scalars};
use super::optimizer::Optimizer;
use super::parameters::{KeyMap, trainable};
use super::process::interrupted;

/// Loss of a batch: what is minimised, and figures for the log.
pub struct StepLoss {
    /// `[1]`
    pub total: Tensor<1>,
    /// Named parts.
    pub parts: Scalars,
}

/// What distinguishes one task from another. The threads of all devices share it.
pub trait Task: Sync {
    /// The model.
    type Model: Module + 'static;
    /// A batch of training images.
    type Batch: Send;

    /// Number of training images.
    fn samples(&self) -> usize;

    /// Batches from batch `first` on.
    fn batches(&self, first: u64) -> Box<dyn Iterator<Item = Result<Self::Batch, DataError>>>;

    /// Names of the images of a batch.
    fn names(&self, batch: &Self::Batch) -> Vec<String>;

    /// Loss of a batch on `device`; what the loss draws at random comes from `seed`.
    fn loss(&self, model: &Self::Model, batch: &Self::Batch, device: &Device, seed: u64) -> StepLoss;

    /// The first module of the forward pass over a batch whose output is no number.
    fn diagnose(&self, model: &Self::Model, batch: &Self::Batch, device: &Device) -> Option<String>;

    /// Shares of 1 on the validation set; the first is the one that is maximised.
    ///
    /// # Errors
    /// When a sample cannot be read.
    fn validate(&self, model: &Self::Model, device: &Device) -> Result<Scalars>;

    /// Official keys of the model's parameters.
    fn keys(&self) -> KeyMap;

    /// Name of the run, over its plots.
    fn name(&self) -> String;

    /// Name of the figure that is maximised.
    fn metric(&self) -> &'static str;

    /// Names of the loss parts that are plotted.
    fn plotted(&self) -> &'static [&'static str];

    /// What a checkpoint says about itself: everything needed to use it without other files.
    ///
    /// # Errors
    /// When the configuration cannot be written down.
    fn metadata(&self) -> Result<BTreeMap<String, String>>;
}

/// A training run.
pub struct Trainer<'a, T: Task> {
    task: &'a T,
    config: &'a TrainConfig,
    group: &'a DeviceGroup,
    length: Length,
    folder: PathBuf,
    /// The first device's, which are the ones that are validated and saved.
    first: Replica<T::Model>,
    ema: Option<Ema>,
    iteration: u64,
    best: Option<(u64, f64)>,
    /// The iteration after which the model was last validated.
    validated: Option<u64>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All iterations are done.
    Finished,
    /// A signal ended it; `--resume` continues.
    Interrupted,
}

/// The checkpoint of the newest step.
pub const LAST: &str = "last.safetensors";
/// The checkpoint of the best validation.
pub const BEST: &str = "best.safetensors";

impl<'a, T: Task> Trainer<'a, T> {
    /// A new run with `model`, which must be on the first device of the group, in `folder`.
    ///
    /// # Errors
    /// When the configuration does not say how long it is, or names what does not exist.
    pub fn new(task: &'a T, config: &'a TrainConfig, model: T::Model, group: &'a DeviceGroup, folder: &Path) -> Result<Self> {
        let length = config.length(task.samples(), group.count())?;
        let (model, _) = freeze(model, config, task.keys())?;
        if let Some(decay) = config.optimizer.layer_decay
            && !trainable(&model, task.keys()).keys().any(|key| decay.acts_on(key))
        {
            bail!("train.optimizer.layer_decay goes by names that no parameter of this backbone has");
        }
        let optimizer = Optimizer::new(config.optimizer.clone(), task.keys());
        let ema = config.ema.map(|decay| Ema::new(decay, task.keys(), &model));
        let folder = folder.to_owned();
        let first = Replica::new(group.first().clone(), model, optimizer);
        Ok(Self { task, config, group, length, folder, first, ema, iteration: 0, best: None, validated: None })
    }

    /// Continues from the newest checkpoint of the folder.
    ///
    /// # Errors
    /// When there is none, or it is not of this run's model.
    pub fn resume(&mut self) -> Result<()> {
        let path = self.folder.join(LAST);
        let checkpoint = Checkpoint::read(&path).context("cannot resume")?;
        let keys = self.task.keys();
        let state = checkpoint.state_dict(Weights::Model)?;
        let (model, _) = load_into(self.first.model.clone(), &keys, &state, &LoadOptions::new())
            .with_context(|| format!("cannot resume from {}", path.display()))?;
        self.first.model = model;
        let metadata = checkpoint.metadata();
        let number = |name: &str| metadata.get(name).and_then(|text| text.parse::<f64>().ok());
        self.iteration = number("iteration").with_context(|| format!("{} does not say its iteration", path.display()))? as u64;
        self.validated = number("validated_iteration").map(|iteration| iteration as u64);
        let (began, now) = (number("devices").unwrap_or(1.0), self.group.count());
        if began != now as f64 {
            println!("changed since the run began: --devices was {began}, is {now}");
        }
        self.best = number("best_iteration").map(|iteration| iteration as u64).zip(number("best_metric"));
        let plain = self.first.device.clone().inner();
        self.first
            .optimizer
            .restore(&self.first.model, &plain, |name| Ok(checkpoint.blob(name)?))
            .with_context(|| format!("cannot resume from {}", path.display()))?;
        if let Some(decay) = self.config.ema {
            self.ema = Some(Ema::restore(decay, keys, &self.first.model, &checkpoint.state_dict(Weights::Ema)?, &plain));
        }
        Ok(())
    }

    /// How long the run is.
    pub fn length(&self) -> Length {
        self.length
    }

    /// Steps done so far.
    pub fn iteration(&self) -> u64 {
        self.iteration
    }

    /// The best validation so far: iteration and figure.
    pub fn best(&self) -> Option<(u64, f64)> {
        self.best
    }

    /// The parameter groups, for inspection.
    pub fn describe_groups(&self) -> String {
        self.first.optimizer.describe(&self.first.model)
    }

    /// The model as it is evaluated: without gradients, with averaged weights where the run keeps them.
    ///
    /// # Errors
    /// Never in practice: the averaged weights are the model's own.
    pub fn evaluated_model(&self) -> Result<T::Model> {
        let model = self.first.model.valid();
        match &self.ema {
            Some(ema) => Ok(load_into(model, &self.task.keys(), &ema.state_dict(&self.first.model), &LoadOptions::new())?.0),
            None => Ok(model),
        }
    }

    /// Trains to the end, or until a signal arrives.
    ///
    /// # Errors
    /// When data cannot be read, a loss is not finite, something cannot be written, or a device fails. The newest checkpoint is intact.
    pub fn run(&mut self) -> Result<Outcome> {
        std::thread::scope(|scope| self.run_with(&Others::start(scope, self.group, &self.first)))
    }

    fn run_with(&mut self, others: &Others<'a, T::Model>) -> Result<Outcome> {
        let (config, Length { iterations, checkpoint_interval, .. }) = (self.config, self.length);
        let devices = self.group.count() as u64;
        let mut log = RunLog::open(&self.folder, self.iteration, iterations)?;
        let mut batches = self.task.batches(self.iteration * config.accumulation * devices);
        let mut times = Times::default();
        let interrupted = interrupted();
        if self.iteration > 0 && self.validation_is_due() {
            // The signal that ended the run before left no time for it.
            self.validate(&mut log)?;
            self.save(LAST)?;
        }
        let (started, first) = (Instant::now(), self.iteration);
        let mut validation_time = Duration::ZERO;
        while self.iteration < iterations {
            let Step { parts, lr, norm, skipped } = self.step(others, &mut *batches, &mut times)?;
            if let Some(incident) = &skipped {
                log.say(&format!("left out: {incident}"));
            }
            let done = self.iteration - first;
            let pace = (started.elapsed() - validation_time).as_secs_f64() / done as f64;
            let left = Duration::from_secs_f64(pace * (iterations - self.iteration) as f64);
            let rate = (config.step_size() * devices) as f64 / pace;
            let due = self.iteration.is_multiple_of(config.log_interval) || self.iteration == iterations;
            let loss = parts.first().map_or(f64::NAN, |(_, loss)| *loss);
            log.progress(self.iteration, &format!("loss {loss:.4}  lr {lr:.2e}  {rate:.1} img/s"), Some(left), due);

            // Every step is in the file: the loss trace is the evidence that a resumed run is the same run.
            let mut scalars = parts;
            scalars.extend([("lr".to_owned(), lr), ("gradient_norm".to_owned(), norm), ("images_per_second".to_owned(), rate)]);
            if due {
                scalars.extend(times.take());
            }
            log.record("train", self.iteration, &scalars)?;

            let stop = interrupted.load(Ordering::SeqCst);
            let finished = self.iteration == iterations;
            let mut save = stop || finished || self.iteration.is_multiple_of(checkpoint_interval);
            if !stop && self.validation_is_due() {
                let begin = Instant::now();
                // A validation may take longer than the steps before it, and may be cut short.
                self.save(LAST)?;
                self.validate(&mut log)?;
                save = true;
                validation_time += begin.elapsed();
            }
            if save {
                self.save(LAST)?;
            }
            if stop {
                log.say(&format!("interrupted after iteration {}; continue with --resume", self.iteration));
                return Ok(Outcome::Interrupted);
            }
        }
        Ok(Outcome::Finished)
    }

    fn step(
        &mut self,
        others: &Others<'a, T::Model>,
        batches: &mut dyn Iterator<Item = Result<T::Batch, DataError>>,
        times: &mut Times,
    ) -> Result<Step> {
        let (task, config, group) = (self.task, self.config, self.group);
        let Length { iterations, epoch, .. } = self.length;
        let lr = config.schedule.learning_rate(config.optimizer.lr, self.iteration, iterations, epoch);
        // Burn's generator is one for all devices of a backend; seeded here, it does not depend on what came before.
        let seed = config.seed ^ (self.iteration + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.first.device.seed(seed);
        let iteration = self.iteration + 1;
        let devices = group.count() as u64;
        let count = (config.accumulation * devices) as f64;
        let mut parts: Scalars = Vec::new();
        let mut images = Vec::new();
        let mut incident = None;
        for micro_batch in 0..config.accumulation {
            let begin = Instant::now();
            // Consecutive batches go to consecutive devices, so that an epoch has every image once whatever their number.
            let mut inputs = Vec::new();
            for number in micro_batch * devices..(micro_batch + 1) * devices {
                inputs.push((batches.next().context("the training data ended")??, seed.wrapping_add(number)));
            }
            times.data += begin.elapsed();
            if incident.is_some() {
                // The step is left out, but its batches are used up.
                continue;
            }
            let found = others
                .each(&mut self.first, inputs, move |replica, (batch, seed)| add_batch(task, config, iteration, replica, &batch, seed))?;
            if let Some(own) = found.first() {
                times.forward += own.forward;
                times.backward += own.backward;
            }
            for batch in found {
                images.extend(batch.images);
                incident = incident.or(batch.incident);
                for (index, (name, value)) in batch.parts.into_iter().enumerate() {
                    match parts.get_mut(index) {
                        Some(part) => part.1 += value / count,
                        None => parts.push((name, value / count)),
                    }
                }
            }
        }
        let begin = Instant::now();
        let gradients = others.each(&mut self.first, vec![(); group.count()], move |replica, ()| replica.take_gradients(group))?;
        let norm = gradients.first().map_or(0.0, |own| self.first.optimizer.norm(&self.first.model, own));
        if incident.is_none() && !norm.is_finite() {
            let place = gradients.first().and_then(|own| first_bad_gradient(&self.first.model, own, task.keys()));
            let place = place.unwrap_or_else(|| "the norm over all parameters, which overflows".to_owned());
            incident = Some(Incident { iteration, images, what: "gradient", place, parts: parts.clone() });
        }
        let skipped = match incident {
            Some(incident) => Some(self.refuse(&incident)?),
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

    /// Writes down what led to a step that cannot be taken; ends the run unless it is to go on.
    fn refuse(&self, incident: &Incident) -> Result<String> {
        incident.write(&self.folder)?;
        match self.config.non_finite {
            NonFinite::Skip => Ok(incident.summary()),
            NonFinite::Stop => bail!(
                "{}; details are in {}, the newest good checkpoint is {}",
                incident.summary(),
                self.folder.join(REPORT_FILE).display(),
                self.folder.join(LAST).display()
            ),
        }
    }

    fn validation_is_due(&self) -> bool {
        let due = self.iteration == self.length.iterations || self.iteration.is_multiple_of(self.length.val_interval);
        due && self.validated != Some(self.iteration)
    }

    /// Evaluates, and keeps the model when it is the best so far.
    fn validate(&mut self, log: &mut RunLog) -> Result<()> {
        let scalars = self.task.validate(&self.evaluated_model()?, &self.first.device.clone().inner())?;
        // Shares are shown in percent, as the field's tables do.
        let text: Vec<String> = scalars.iter().map(|(name, share)| format!("{name} {:.2}", share * 100.0)).collect();
        log.say(&format!("iteration {}: validation {}", self.iteration, text.join("  ")));
        log.record("val", self.iteration, &scalars)?;
        self.validated = Some(self.iteration);
        let Some((name, value)) = scalars.first().cloned() else { return Ok(()) };
        if self.best.is_none_or(|(_, best)| value > best) {
            self.best = Some((self.iteration, value));
            self.save(BEST)?;
        }
        log.plot(&self.task.name(), self.task.plotted(), &name)
    }

    fn save(&self, name: &str) -> Result<()> {
        let keys = self.task.keys();
        let mut metadata = self.task.metadata()?;
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
        let ema = self.ema.as_ref().map(|ema| ema.state_dict(&self.first.model));
        // Only the newest checkpoint is resumed from; the best one is smaller without the optimiser.
        let blobs = if name == LAST { self.first.optimizer.to_blobs() } else { BTreeMap::new() };
        save_checkpoint(self.folder.join(name), &state_dict_of(&self.first.model, &keys), ema.as_ref(), &metadata, &blobs)?;
        Ok(())
    }
}

/// What one device found for one batch.
struct BatchLoss {
    /// The loss and its parts; none when the loss is no number.
    parts: Scalars,
    images: Vec<String>,
    incident: Option<Incident>,
    forward: Duration,
    backward: Duration,
}

/// Adds the gradients of a batch to those of the step, unless its loss is no number.
fn add_batch<T: Task>(
    task: &T,
    config: &TrainConfig,
    iteration: u64,
    replica: &mut Replica<T::Model>,
    batch: &T::Batch,
    seed: u64,
) -> BatchLoss {
    let begin = Instant::now();
    let StepLoss { total, parts } = task.loss(&replica.model, batch, &replica.device, seed);
    let value = f64::from(total.clone().into_scalar::<f32>());
    let forward = begin.elapsed();
    let images = task.names(batch);
    if !value.is_finite() {
        let place = first_bad_weight(&replica.model, task.keys())
            .or_else(|| task.diagnose(&replica.model, batch, &replica.device))
            .unwrap_or_else(|| "the loss itself".to_owned());
        let incident = Some(Incident { iteration, images: images.clone(), what: "loss", place, parts });
        return BatchLoss { parts: Vec::new(), images, incident, forward, backward: Duration::ZERO };
    }
    let begin = Instant::now();
    replica.add_gradients(total / config.accumulation as f64);
    let parts = std::iter::once(("loss".to_owned(), value)).chain(parts).collect();
    BatchLoss { parts, images, incident: None, forward, backward: begin.elapsed() }
}

/// What a step did.
struct Step {
    parts: Scalars,
    lr: f64,
    norm: f64,
    /// Why it was left out.
    skipped: Option<String>,
}

/// Where the time of the steps since the last line went.
#[derive(Default)]
struct Times {
    data: Duration,
    forward: Duration,
    backward: Duration,
    optimizer: Duration,
    steps: u32,
}

impl Times {
    /// Seconds a step, and begins anew.
    fn take(&mut self) -> Scalars {
        let Self { data, forward, backward, optimizer, steps } = std::mem::take(self);
        let mean = |time: Duration| time.as_secs_f64() / f64::from(steps.max(1));
        [("data_seconds", data), ("forward_seconds", forward), ("backward_seconds", backward), ("optimizer_seconds", optimizer)]
            .into_iter()
            .map(|(name, time)| (name.to_owned(), mean(time)))
            .collect()
    }
}
