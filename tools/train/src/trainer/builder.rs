//! A run from its parts, with defaults for everything but its length.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::module::Module;
use burn::prelude::*;

use super::Trainer;
use crate::config::{NonFinite, TrainConfig};
use crate::data_parallel::{DeviceGroup, Replica};
use crate::ema::Ema;
use crate::error::TrainError;
use crate::freeze::freeze;
use crate::observer::Observer;
use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::parameters::trainable;
use crate::precision::Precision;
use crate::recipe::Recipe;
use crate::schedule::ScheduleConfig;

/// Builds a [`Trainer`]. `iterations` or `epochs` must be set; everything else has the default of [`TrainConfig`].
#[must_use]
pub struct TrainerBuilder<R: Recipe> {
    recipe: R,
    model: R::Model,
    config: TrainConfig,
    observers: Vec<Box<dyn Observer>>,
    stop: Arc<AtomicBool>,
}

impl<R: Recipe> TrainerBuilder<R> {
    pub(super) fn new(recipe: R, model: R::Model) -> Self {
        Self { recipe, model, config: TrainConfig::default(), observers: Vec::new(), stop: Arc::default() }
    }

    /// Replaces all settings, for instance by those of a configuration file.
    pub fn config(mut self, config: TrainConfig) -> Self {
        self.config = config;
        self
    }

    /// The optimiser.
    pub fn optimizer(mut self, optimizer: OptimizerConfig) -> Self {
        self.config.optimizer = optimizer;
        self
    }

    /// The learning rate over the run.
    pub fn schedule(mut self, schedule: ScheduleConfig) -> Self {
        self.config.schedule = schedule;
        self
    }

    /// Passes over the training set, instead of a number of iterations.
    pub fn epochs(mut self, epochs: u64) -> Self {
        (self.config.epochs, self.config.iterations) = (Some(epochs), None);
        self
    }

    /// Optimiser steps, instead of a number of epochs.
    pub fn iterations(mut self, iterations: u64) -> Self {
        (self.config.iterations, self.config.epochs) = (Some(iterations), None);
        self
    }

    /// Images of a batch on every device.
    pub fn batch_size(mut self, images: usize) -> Self {
        self.config.batch_size = images;
        self
    }

    /// Batches whose gradients are averaged for one optimiser step.
    pub fn accumulation(mut self, batches: u64) -> Self {
        self.config.accumulation = batches;
        self
    }

    /// Keeps an exponential moving average of the weights with this decay; validations use it.
    pub fn ema(mut self, decay: f64) -> Self {
        self.config.ema = Some(decay);
        self
    }

    /// Type of the activations in training.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.config.precision = precision;
        self
    }

    /// Seed of the order of the images, the augmentation and dropout. Random weights come from the generator of the device, whose seed is set
    /// with [`Device::seed`] before the model is built. Burn draws them at their first use, at the latest in [`TrainerBuilder::build`].
    pub fn seed(mut self, seed: u64) -> Self {
        self.config.seed = seed;
        self
    }

    /// Optimiser steps between validations; without it, one validation an epoch.
    pub fn val_interval(mut self, iterations: u64) -> Self {
        self.config.val_interval = Some(iterations);
        self
    }

    /// Optimiser steps between checkpoints; without it, the interval of the validations.
    pub fn checkpoint_interval(mut self, iterations: u64) -> Self {
        self.config.checkpoint_interval = Some(iterations);
        self
    }

    /// Optimiser steps between lines of the log, 10 by default.
    pub fn log_interval(mut self, iterations: u64) -> Self {
        self.config.log_interval = iterations;
        self
    }

    /// Does not train parameters whose official key contains `text`. May be called several times.
    pub fn freeze(mut self, text: impl Into<String>) -> Self {
        self.config.freeze.push(text.into());
        self
    }

    /// Freezes the weights and the statistics of all norm layers.
    pub fn freeze_norms(mut self) -> Self {
        self.config.freeze_norms = true;
        self
    }

    /// Makes the batch norms of the backbone normalise by their stored statistics, which then do not change; their weights are trained
    /// (mmdetection's `norm_eval`).
    pub fn norm_eval(mut self) -> Self {
        self.config.norm_eval = true;
        self
    }

    /// The reaction to a loss or gradient that is not finite.
    pub fn non_finite(mut self, choice: NonFinite) -> Self {
        self.config.non_finite = choice;
        self
    }

    /// Adds an observer. Observers are told of everything in the order in which they were added.
    pub fn observe(mut self, observer: impl Observer + 'static) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// Ends the run after the step during which `flag` is set, with a checkpoint. A program sets it when a signal arrives.
    pub fn stop_flag(mut self, flag: Arc<AtomicBool>) -> Self {
        self.stop = flag;
        self
    }

    /// The run on one device. The model is moved there; a device without gradients gets them.
    ///
    /// # Errors
    /// When a setting is out of range or has no effect on this model.
    pub fn build(self, device: &Device) -> Result<Trainer<R>, TrainError> {
        self.build_on(DeviceGroup::single(device.clone()))
    }

    /// The run on several devices.
    ///
    /// # Errors
    /// As [`TrainerBuilder::build`].
    pub fn build_on(self, group: DeviceGroup) -> Result<Trainer<R>, TrainError> {
        let Self { recipe, model, config, observers, stop } = self;
        config.validate()?;
        config.precision.adopt(group.first())?;
        let length = config.length(recipe.samples(), group.count())?;
        let keys = recipe.keys();
        let model = on_device(model, group.first());
        // Burn draws random weights at their first use. This walk uses them in the order of the model; the check may use them in any order.
        let (model, _) = freeze(model, &config, keys)?;
        recipe.check(&model, &config).map_err(TrainError::Recipe)?;
        let groups = recipe.parameter_groups();
        if let Some(decay) = config.optimizer.layer_decay
            && !trainable(&model, keys).keys().any(|key| groups.layer_of(key, decay.by).is_some())
        {
            return Err(TrainError::config("optimizer.layer_decay", ": this backbone does not divide its parameters into layers"));
        }
        let optimizer = Optimizer::new(config.optimizer.clone(), keys, groups);
        let ema = config.ema.map(|decay| Ema::new(decay, keys, &model));
        let first = Replica::new(group.first().clone(), model, optimizer);
        Ok(Trainer {
            recipe: Arc::new(recipe),
            config: Arc::new(config),
            group: Arc::new(group),
            length,
            first,
            ema,
            iteration: 0,
            best: None,
            best_weights: None,
            validated: None,
            observers,
            stop,
        })
    }
}

/// The model on a device with gradients. A model that is there already is not touched, so its frozen parameters stay frozen.
fn on_device<M: Module>(model: M, device: &Device) -> M {
    match model.devices().as_slice() {
        // Devices are equal whether they have gradients or not.
        [own] if own == device && own.is_autodiff() => model,
        [own] if own == device => model.train(),
        _ => model.fork(&device.clone().inner()).train(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use burn::module::{Param, ParamId};

    use super::*;
    use crate::error::BoxError;
    use crate::parameters::KeyMap;
    use crate::recipe::{BatchOrder, Batches, Scalars, StepContext, StepLoss};

    /// Two parameters that are initialised at their first use.
    #[derive(Module, Debug)]
    struct Two {
        first: Param<Tensor<1>>,
        second: Param<Tensor<1>>,
    }

    /// The names of initialised parameters, in order.
    type Order = Arc<Mutex<Vec<&'static str>>>;

    fn two(order: &Order, device: &Device) -> Two {
        let param = |name: &'static str| {
            let order = Arc::clone(order);
            let init = move |device: &Device, require_grad: bool| {
                order.lock().unwrap().push(name);
                Tensor::<1>::zeros([1], device).set_require_grad(require_grad)
            };
            Param::uninitialized(ParamId::new(), init, device.clone(), true, [1].into())
        };
        Two { first: param("first"), second: param("second") }
    }

    /// A recipe whose check reads the last parameter.
    struct ReadsTheLast;

    impl Recipe for ReadsTheLast {
        type Model = Two;
        type Batch = ();

        fn samples(&self) -> usize {
            1
        }

        fn batches(&self, _order: BatchOrder) -> Batches<'_, ()> {
            Box::new(std::iter::repeat_with(|| Ok(())))
        }

        fn check(&self, model: &Two, _config: &TrainConfig) -> Result<(), BoxError> {
            if model.second.dims() == [1] { Ok(()) } else { Err("the last parameter has another shape".into()) }
        }

        fn loss(&self, model: &Two, _batch: &(), _context: &StepContext) -> StepLoss {
            StepLoss { total: model.first.val() + model.second.val(), parts: Vec::new() }
        }

        fn validate(&self, _model: &Two, _device: &Device) -> Result<Scalars, BoxError> {
            Ok(Vec::new())
        }

        fn keys(&self) -> KeyMap {
            str::to_owned
        }
    }

    fn builder(device: &Device) -> TrainerBuilder<ReadsTheLast> {
        TrainerBuilder::new(ReadsTheLast, two(&Order::default(), device)).iterations(1)
    }

    #[test]
    fn parameters_are_initialised_in_the_order_of_the_model_whatever_the_recipe_reads() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            let order = Order::default();
            let builder = TrainerBuilder::new(ReadsTheLast, two(&order, &device)).iterations(1).ema(0.9);
            assert!(order.lock().unwrap().is_empty());
            drop(builder.build(&device).unwrap());
            assert_eq!(*order.lock().unwrap(), ["first", "second"]);
        }
    }

    /// A recipe whose validations give these figures.
    struct Figures(Mutex<std::vec::IntoIter<f64>>);

    impl Recipe for Figures {
        type Model = Two;
        type Batch = ();

        fn samples(&self) -> usize {
            1
        }

        fn batches(&self, _order: BatchOrder) -> Batches<'_, ()> {
            Box::new(std::iter::repeat_with(|| Ok(())))
        }

        fn loss(&self, model: &Two, _batch: &(), _context: &StepContext) -> StepLoss {
            StepLoss { total: model.first.val() + model.second.val(), parts: Vec::new() }
        }

        fn validate(&self, _model: &Two, _device: &Device) -> Result<Scalars, BoxError> {
            Ok(vec![("metric".to_owned(), self.0.lock().unwrap().next().unwrap())])
        }

        fn keys(&self) -> KeyMap {
            str::to_owned
        }
    }

    #[test]
    fn a_nan_is_never_the_best_validation_and_the_first_number_is() {
        let device = Device::flex();
        let best = |figures: &[f64]| {
            let recipe = Figures(Mutex::new(Vec::from(figures).into_iter()));
            let builder = TrainerBuilder::new(recipe, two(&Order::default(), &device)).iterations(figures.len() as u64).val_interval(1);
            let mut trainer = builder.build(&device).unwrap();
            trainer.run().unwrap();
            (trainer.best(), trainer.best_model().is_ok())
        };
        assert_eq!(best(&[f64::NAN, 0.2, f64::NAN, 0.1]), (Some((2, 0.2)), true));
        assert_eq!(best(&[0.2, f64::NAN, 0.3]), (Some((3, 0.3)), true));
        assert_eq!(best(&[f64::NAN, f64::NAN]), (None, false));
    }

    #[test]
    fn a_setting_out_of_range_or_without_effect_is_refused() {
        let device = Device::flex();
        let refused = |builder: TrainerBuilder<ReadsTheLast>| builder.build(&device).err().unwrap().to_string();
        assert!(refused(builder(&device).checkpoint_interval(0)).contains("train.checkpoint_interval"));
        assert!(refused(builder(&device).log_interval(0)).contains("train.log_interval"));
        assert!(refused(builder(&device).freeze("stem")).contains("train.freeze:"));
        assert!(refused(builder(&device).freeze_norms()).contains("train.freeze_norms"));
        assert!(refused(builder(&device).norm_eval()).contains("train.norm_eval"));
        assert!(refused(builder(&device).schedule(ScheduleConfig::poly(f64::NAN))).contains("train.schedule.decay.power"));
    }
}
