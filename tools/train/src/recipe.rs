//! The model, data, loss and validation of a training run.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::prelude::*;

use crate::config::TrainConfig;
use crate::error::BoxError;
use crate::optimizer::{Groups, ungrouped};
use crate::parameters::KeyMap;
use crate::precision::Precision;

/// Named figures of a step or a validation, in order.
pub type Scalars = Vec<(String, f64)>;

/// An endless iterator over training batches.
pub type Batches<'a, B> = Box<dyn Iterator<Item = Result<B, BoxError>> + 'a>;

/// The batches that a run requests. They depend on these fields only, not on the number of worker threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOrder {
    /// Number of the first batch, from 0; a resumed run begins in the middle.
    pub first: u64,
    /// Images of a batch.
    pub batch_size: usize,
    /// Seed of the order of the images and of their augmentation.
    pub seed: u64,
}

/// Device, seed and precision of a loss.
#[derive(Clone, Debug)]
pub struct StepContext {
    /// The device of the model, with gradients.
    pub device: Device,
    /// Seed of the random numbers in the loss.
    pub seed: u64,
    /// Type of the activations.
    pub precision: Precision,
}

/// The loss of a batch.
#[derive(Clone, Debug)]
pub struct StepLoss {
    /// The loss to minimise, `[1]`.
    pub total: Tensor<1>,
    /// Its terms and other figures for the log, by their official names.
    pub parts: Scalars,
}

/// A model, its training data, its loss and its validation. The threads of all devices share it.
pub trait Recipe: Send + Sync {
    /// The model.
    type Model: Module + 'static;
    /// A batch of training samples.
    type Batch: Send;

    /// Number of training samples; one pass over them is an epoch.
    fn samples(&self) -> usize;

    /// Training batches from batch `order.first` on, without end.
    fn batches(&self, order: BatchOrder) -> Batches<'_, Self::Batch>;

    /// Checks that model, data and settings fit together, before a run is built. What is frozen is frozen in `model`.
    ///
    /// # Errors
    /// When they do not, for instance because they have other classes.
    fn check(&self, _model: &Self::Model, _config: &TrainConfig) -> Result<(), BoxError> {
        Ok(())
    }

    /// Checks that the data are those of the run whose checkpoint has this metadata, before it is resumed.
    ///
    /// # Errors
    /// When they are not, for instance because their classes have another order, which the shapes of the weights do not show.
    fn check_resumed(&self, _metadata: &BTreeMap<String, String>) -> Result<(), BoxError> {
        Ok(())
    }

    /// Notes about the data, one sentence each, which observers receive before the run.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Loss of a batch.
    fn loss(&self, model: &Self::Model, batch: &Self::Batch, context: &StepContext) -> StepLoss;

    /// Figures on the validation set as shares of 1; the first is maximised. Empty without a validation set.
    ///
    /// # Errors
    /// When a sample cannot be read or evaluated.
    fn validate(&self, model: &Self::Model, device: &Device) -> Result<Scalars, BoxError>;

    /// Maps the paths of the model's parameters to the keys of its checkpoints.
    fn keys(&self) -> KeyMap;

    /// Weight decay and layer of every parameter, by its key. By default weight decay goes by dimension, and all parameters have one learning
    /// rate.
    fn parameter_groups(&self) -> Groups {
        ungrouped()
    }

    /// Names of the samples of a batch, for messages.
    fn sample_names(&self, _batch: &Self::Batch) -> Vec<String> {
        Vec::new()
    }

    /// The first module of the forward pass whose output is not finite. Called when a loss is not finite but all weights are.
    fn first_non_finite_module(&self, _model: &Self::Model, _batch: &Self::Batch, _context: &StepContext) -> Option<String> {
        None
    }

    /// Name of the run, the title of its plots.
    fn name(&self) -> String {
        "training".to_owned()
    }

    /// Name of the figure that is maximised.
    fn metric(&self) -> &'static str {
        "metric"
    }

    /// Names of the losses to plot.
    fn plotted_losses(&self) -> &'static [&'static str] {
        &["loss"]
    }

    /// Metadata of a checkpoint. With the configuration and the classes of the model, a checkpoint is usable without other files.
    ///
    /// # Errors
    /// When something cannot be serialised.
    fn metadata(&self, _config: &TrainConfig) -> Result<BTreeMap<String, String>, BoxError> {
        Ok(BTreeMap::new())
    }
}
