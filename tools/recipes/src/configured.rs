//! Recipes that a configuration file describes.

use std::path::Path;

use anyhow::Result;
use burn::prelude::*;
use vmamba::checkpoint::LoadReport;
use vmamba::complexity::Complexity;
use vmamba_train::Recipe;
use vmamba_types::words::counted;

use crate::memory::MemoryEstimate;
use crate::run_config::{RunConfig, TaskConfig};

/// A recipe that a configuration file describes.
pub trait Configured: Recipe + Sized {
    /// Its task, which determines the tables of the configuration.
    type Task: TaskConfig;

    /// The built-in configuration, whose data are the built-in scenes.
    const DEMO: &'static str;

    /// Opens the data that a configuration names.
    ///
    /// # Errors
    /// When data are missing or wrong.
    fn open(config: &RunConfig<Self::Task>) -> Result<Self>;

    /// The model with random weights, drawn with the configuration's seed.
    ///
    /// # Errors
    /// When the options of the model do not fit together.
    fn random_model(&self, config: &RunConfig<Self::Task>, device: &Device) -> Result<Self::Model>;

    /// The model with the weights of a checkpoint that training starts from, a classifier's or a whole model's. Everything else is random.
    ///
    /// # Errors
    /// When the checkpoint is missing or does not fit.
    fn pretrained_model(&self, config: &RunConfig<Self::Task>, path: &Path, device: &Device) -> Result<(Self::Model, LoadReport)>;

    /// Cost of the model for one training image, and the image's size `[height, width]`.
    fn complexity(&self, config: &RunConfig<Self::Task>) -> (Complexity, [usize; 2]);

    /// The memory that training needs.
    fn memory(&self, config: &RunConfig<Self::Task>) -> MemoryEstimate;

    /// The data in one line. [`Recipe::notes`] has the rest.
    fn describe_data(&self) -> String;
}

/// The data of a run in one line.
pub(crate) fn describe(place: &str, classes: usize, [train, val]: [usize; 2]) -> String {
    let classes = counted(classes, "class", "classes");
    format!(
        "data: {place}, {classes}, {} and {}",
        counted(train, "training image", "training images"),
        counted(val, "validation image", "validation images")
    )
}
