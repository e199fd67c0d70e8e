//! Why a run cannot start or go on.

use std::path::PathBuf;

use vmamba::checkpoint::{CheckpointError, LoadError};
use vmamba_types::SettingError;

use crate::device::DeviceError;
use crate::guard::Incident;

/// The error of a recipe or an observer, whose type this crate does not know.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a run cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting is out of range.
    #[error("train.{0}")]
    Setting(SettingError),
    /// A setting has no effect on this model, or leaves nothing to train.
    #[error("train.{field}{message}")]
    Config {
        /// The setting, as in a configuration file below `train`.
        field: &'static str,
        /// The mistake, beginning with its separator: ` or train.epochs must be set` or `: no parameter's name contains "stem"`.
        message: String,
    },
    /// The data or the validation failed. The steps so far have been saved, if any observer saves checkpoints.
    #[error(transparent)]
    Recipe(BoxError),
    /// The iterator of the training batches ended.
    #[error("the training data ended after iteration {iteration}; the batches of a recipe must not end")]
    DataEnded {
        /// Steps done.
        iteration: u64,
    },
    /// An observer failed, for instance because the disk is full. The steps so far have been saved, if any observer saves checkpoints.
    #[error(transparent)]
    Observer(BoxError),
    /// A checkpoint could not be saved.
    #[error(transparent)]
    Save(BoxError),
    /// A run failed, and the steps since its newest checkpoint could not be saved either.
    #[error("{reason}; the steps since the newest checkpoint are lost: {save}")]
    Lost {
        /// Why the run failed.
        reason: Box<TrainError>,
        /// Why the checkpoint could not be saved.
        save: Box<TrainError>,
    },
    /// A device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The checkpoint to resume from cannot be read.
    #[error("cannot resume: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint to resume from belongs to another model.
    #[error("cannot resume from {}: {source}", path.display())]
    OtherModel {
        /// The checkpoint.
        path: PathBuf,
        /// The keys that do not fit.
        source: LoadError,
    },
    /// The checkpoint to resume from lacks something.
    #[error("cannot resume from {}: {message}", path.display())]
    Resume {
        /// The checkpoint.
        path: PathBuf,
        /// The missing or damaged part.
        message: String,
    },
    /// The averaged weights do not fit the model.
    #[error("the averaged weights do not fit the model: {0}")]
    Average(LoadError),
    /// A loss or a gradient is not finite, and the configuration says to stop.
    #[error("{}", .0.summary())]
    NonFinite(Box<Incident>),
    /// No validation has been the best one yet.
    #[error("there is no best model: {reason}")]
    NoBestModel {
        /// Why.
        reason: &'static str,
    },
}

// The message of the setting is part of the error's own, so that it is no source.
impl From<SettingError> for TrainError {
    fn from(error: SettingError) -> Self {
        Self::Setting(error)
    }
}

impl TrainError {
    /// A wrong setting; `message` begins with its separator.
    pub(crate) fn config(field: &'static str, message: impl Into<String>) -> Self {
        Self::Config { field, message: message.into() }
    }
}
