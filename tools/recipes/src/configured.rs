//! Recipes that a configuration file describes.

use anyhow::{Result, bail};
use burn::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vmamba::checkpoint::LoadReport;
use vmamba::complexity::Complexity;
use vmamba_train::{Recipe, TrainConfig};

use crate::init::Init;

/// What the configurations of all tasks have in common.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a> {
    /// The task that the configuration names, if it does.
    pub task: Option<&'a str>,
    /// Name of the configuration.
    pub name: &'a str,
    /// Where training starts from.
    pub init: &'a Init,
    /// How it is trained.
    pub train: &'a TrainConfig,
}

/// A recipe that a configuration file describes.
pub trait Configured: Recipe + Sized {
    /// Its configuration.
    type Config: DeserializeOwned + Serialize;

    /// The task, as configurations and checkpoints name it.
    const TASK: &'static str;

    /// A configuration that runs without any data of the user's.
    const DEMO: &'static str;

    /// The fields that all tasks have.
    fn common(config: &Self::Config) -> Common<'_>;

    /// Writes the task into a configuration that leaves it out.
    fn name_task(config: &mut Self::Config);

    /// Validates value ranges, and refuses the configuration of another task.
    ///
    /// # Errors
    /// Names the first invalid field.
    fn validate_config(config: &Self::Config) -> Result<()>;

    /// Opens the data that a configuration names.
    ///
    /// # Errors
    /// When data are missing or wrong.
    fn open(config: &Self::Config) -> Result<Self>;

    /// The model with random weights, drawn with the configuration's seed.
    ///
    /// # Errors
    /// When the options of the model do not fit together.
    fn random_model(&self, config: &Self::Config, device: &Device) -> Result<Self::Model>;

    /// The model with the weights that training starts from.
    ///
    /// # Errors
    /// When the checkpoint is missing or does not fit. Training never starts from other weights than the configuration names.
    fn initial_model(&self, config: &Self::Config, device: &Device) -> Result<(Self::Model, Option<LoadReport>)>;

    /// Cost of the model for one training image, and the image's size `[height, width]`.
    fn complexity(&self, config: &Self::Config) -> (Complexity, [usize; 2]);

    /// The data in one line.
    fn describe_data(&self) -> String;
}

/// Refuses the configuration of another task.
pub(crate) fn check_task(expected: &str, named: Option<&str>) -> Result<()> {
    match named {
        Some(task) if task != expected => bail!("task = \"{task}\": this is a configuration for {task}, not for {expected}"),
        _ => Ok(()),
    }
}
