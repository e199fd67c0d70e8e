//! The configuration of a training run, the same for every task.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use vmamba::ConfigError;
use vmamba::checkpoint::{Checkpoint, Weights};
use vmamba::zoo::BackboneConfig;
use vmamba_train::{BoxError, TrainConfig};
use vmamba_types::ClassList;
use vmamba_types::setting::{self, SettingError};

use crate::config::{Configuration, from_json};
use crate::init::{Init, stored_classes};

/// A table of a configuration.
pub trait Section: Clone + Debug + PartialEq + Serialize + DeserializeOwned {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    fn validate(&self) -> Result<(), SettingError>;
}

/// The tables of a configuration that depend on the task.
pub trait TaskConfig: Clone + Debug + PartialEq {
    /// The task, as configurations and checkpoints name it.
    const TASK: &'static str;
    /// The model. The data give the number of classes.
    type Model: Section;
    /// The data and their transforms.
    type Data: Section;
    /// Evaluation.
    type Test: Section + Default;
}

/// The configuration of a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, bound = "")]
#[cfg_attr(
    feature = "schema",
    schemars(bound = "T: schemars::JsonSchema, T::Model: schemars::JsonSchema, \
    T::Data: schemars::JsonSchema, T::Test: schemars::JsonSchema")
)]
pub struct RunConfig<T: TaskConfig> {
    /// The task: `"detection"` or `"segmentation"`. It may be left out where a program or a type names the task.
    #[serde(default, deserialize_with = "own_task::<T, _>")]
    pub task: Option<String>,
    /// Name of the configuration. Programs print the published row of this name beside their own result.
    pub name: String,
    /// Where training starts from: `"random"`, or a checkpoint (a classifier for the backbone, or a whole model). It has no default.
    pub init: Init,
    /// Name of the set of weights in the file of `init`, such as `"model"`; absent for the validated set: the averaged weights if the file has
    /// them. Another `init`, in a file above or by `--set`, drops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_weights: Option<String>,
    /// The model.
    pub model: T::Model,
    /// The data.
    pub data: T::Data,
    /// Training.
    pub train: TrainConfig,
    /// Evaluation.
    #[serde(default)]
    pub test: T::Test,
}

/// Refuses the configuration of another task.
fn check_task<T: TaskConfig>(task: Option<&str>) -> Result<(), String> {
    match task {
        Some(task) if task != T::TASK => Err(format!("this is a configuration for {task}, not for {}", T::TASK)),
        _ => Ok(()),
    }
}

/// Refuses a name that is not the name of a folder: a run without `--out` is in `runs/NAME`.
fn check_name(name: &str) -> Result<(), SettingError> {
    let plain = !name.contains(['/', '\\', ':']) && !name.contains(char::is_control) && !name.starts_with('.');
    let allowed = "a plain name for the folder of a run: without /, \\, : and control characters, and without a dot in front";
    setting::require(plain && !name.trim().is_empty(), "name", allowed, name)
}

fn own_task<'de, T: TaskConfig, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let task = Option::<String>::deserialize(deserializer)?;
    check_task::<T>(task.as_deref()).map_err(D::Error::custom)?;
    Ok(task)
}

impl<T: TaskConfig> RunConfig<T> {
    /// A configuration from its parts: random weights to start from, default training settings.
    pub fn new(name: impl Into<String>, model: T::Model, data: T::Data) -> Self {
        let task = Some(T::TASK.to_owned());
        Self {
            task,
            name: name.into(),
            init: Init::Random,
            init_weights: None,
            model,
            data,
            train: TrainConfig::default(),
            test: T::Test::default(),
        }
    }

    /// Validates value ranges, and refuses the configuration of another task.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<()> {
        check_task::<T>(self.task.as_deref()).map_err(|reason| anyhow!("task: {reason}"))?;
        check_name(&self.name)?;
        self.train.validate()?;
        Ok(self.validate_prediction()?)
    }

    /// Validates everything that a prediction depends on: the model, the data and the evaluation, but not the training.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate_prediction(&self) -> Result<(), SettingError> {
        self.data.validate().map_err(|error| error.within("data"))?;
        self.model.validate().map_err(|error| error.within("model"))?;
        self.test.validate().map_err(|error| error.within("test"))
    }

    /// The configuration that a checkpoint of a training program holds.
    ///
    /// # Errors
    /// When the checkpoint cannot be read, is for another task, or has no configuration.
    pub fn of_checkpoint(path: &Path) -> Result<Self> {
        Ok(Header::read(&Checkpoint::read(path)?, None)?.config)
    }

    /// The set of weights that training starts from.
    pub(crate) fn init_set(&self) -> Weights<'_> {
        self.init_weights.as_deref().map_or(Weights::Validated, Weights::Key)
    }

    /// Writes the task into a configuration that leaves it out.
    pub fn name_task(&mut self) {
        self.task.get_or_insert_with(|| T::TASK.to_owned());
    }
}

impl<T: TaskConfig> Configuration for RunConfig<T> {
    fn check(&self) -> Result<()> {
        self.validate()
    }
}

/// Refuses a backbone for other images than those with the three channels that the data have.
pub(crate) fn rgb_only(backbone: &BackboneConfig) -> Result<(), SettingError> {
    setting::require(backbone.in_chans() == 3, "backbone.in_chans", "3, because images are read as RGB", backbone.in_chans())
}

/// The error of a backbone's field, by its path in a model.
pub(crate) fn of_backbone(error: ConfigError) -> SettingError {
    match error {
        ConfigError::Field { field, expected, found } => SettingError { key: format!("backbone.{field}"), allowed: expected, found },
        other => SettingError { key: "backbone".to_owned(), allowed: "valid".to_owned(), found: other.to_string() },
    }
}

/// The metadata of a run's checkpoint. Configuration and classes make the checkpoint usable without other files.
///
/// # Errors
/// When a value cannot be serialised.
pub(crate) fn metadata<T: TaskConfig>(
    config: Option<&RunConfig<T>>,
    classes: &ClassList,
    validation_images: usize,
    metric: &str,
) -> Result<BTreeMap<String, String>, BoxError> {
    let mut metadata = BTreeMap::from([
        ("task".to_owned(), T::TASK.to_owned()),
        ("metric".to_owned(), metric.to_owned()),
        ("classes".to_owned(), serde_json::to_string(classes)?),
        ("validation_images".to_owned(), validation_images.to_string()),
    ]);
    if let Some(config) = config {
        metadata.insert("config".to_owned(), serde_json::to_string(config)?);
    }
    Ok(metadata)
}

/// The data of a task and their transforms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DataConfig<Source, Train, Test> {
    /// Where the data come from.
    pub source: Source,
    /// Transforms of training images.
    pub train: Train,
    /// Transforms of test images.
    pub test: Test,
    /// Worker threads that read and transform images.
    #[serde(default = "workers")]
    pub workers: usize,
}

fn workers() -> usize {
    2
}

impl<Source, Train, Test> DataConfig<Source, Train, Test> {
    /// Validates the fields that all tasks share.
    pub(crate) fn validate_workers(&self) -> Result<(), SettingError> {
        setting::whole("workers", self.workers, setting::THREADS)
    }
}

/// The metadata of a checkpoint.
pub(crate) struct Header<T: TaskConfig> {
    pub(crate) config: RunConfig<T>,
    /// The classes, if the checkpoint names them.
    pub(crate) classes: Option<ClassList>,
    /// The iteration, if the checkpoint gives one.
    pub(crate) iteration: Option<u64>,
}

impl<T: TaskConfig> Header<T> {
    /// Reads the metadata of a checkpoint. `given` replaces the configuration of the checkpoint.
    ///
    /// # Errors
    /// When the checkpoint is for another task, or has no configuration and none is given.
    pub(crate) fn read(checkpoint: &Checkpoint, given: Option<RunConfig<T>>) -> Result<Self> {
        let path = checkpoint.path().display();
        let metadata = checkpoint.metadata();
        let field = |name: &str| metadata.get(name).filter(|_| checkpoint.is_ours());
        if let Some(task) = field("task").filter(|task| *task != T::TASK) {
            bail!("{path} is a checkpoint for {task}, not for {}", T::TASK);
        }
        let config = match (given, field("config")) {
            (Some(config), _) => config,
            (None, Some(text)) => from_json(text).map_err(|error| anyhow!("{path}: its configuration: {error}"))?,
            (None, None) => bail!("{path} has no configuration of its model; give one with --config"),
        };
        config.validate_prediction().with_context(|| format!("{path}: its configuration"))?;
        Ok(Self { config, classes: stored_classes(checkpoint)?, iteration: field("iteration").and_then(|text| text.parse().ok()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_configuration_is_a_plain_file_name() {
        for name in ["upernet_vmamba_tiny_s1l8_512", "Zellen 2", "v1.0-ä"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", " ", ".", "..", "../../x", "/etc", "a/b", "a\\b", "C:x", ".hidden", "a\nb", "\u{1b}[31m"] {
            let reason = check_name(name).unwrap_err().to_string();
            assert!(reason.starts_with("name must be a plain name") && !reason.contains('\u{1b}'), "{reason}");
        }
    }
}
