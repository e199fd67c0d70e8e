//! Where training starts from.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use vision_datasets::json;
use vmamba::checkpoint::{Checkpoint, ClassRows};
use vmamba_types::{ClassList, ClassOrder};

use crate::run_config::TaskConfig;

/// Where training starts from: the text `random`, or a checkpoint file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(from = "String", into = "String")]
pub enum Init {
    /// Random weights.
    Random,
    /// A checkpoint file.
    Checkpoint(PathBuf),
}

impl From<String> for Init {
    fn from(text: String) -> Self {
        if text == "random" { Self::Random } else { Self::Checkpoint(text.into()) }
    }
}

impl From<Init> for String {
    fn from(init: Init) -> Self {
        match init {
            Init::Random => "random".to_owned(),
            Init::Checkpoint(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// The classes that a checkpoint of this project names; `None` for the file of another program.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn stored_classes(checkpoint: &Checkpoint) -> Result<Option<ClassList>> {
    let Some(text) = checkpoint.metadata().get("classes").filter(|_| checkpoint.is_ours()) else { return Ok(None) };
    let parsed = json::parse(text).map_err(|error| anyhow!("{}: its classes: {error}", checkpoint.path().display()));
    parsed.map(Some)
}

/// Compares the classes of the checkpoint that training starts from with the classes of the data. The class layers of another task are never
/// loaded.
///
/// # Errors
/// When the classes of the checkpoint cannot be read.
pub(crate) fn class_rows<T: TaskConfig>(checkpoint: &Checkpoint, data: &ClassList) -> Result<ClassRows> {
    let own_task = checkpoint.metadata().get("task").is_some_and(|task| task == T::TASK);
    let Some(stored) = stored_classes(checkpoint)?.filter(|_| own_task) else { return Ok(ClassRows::Unknown) };
    Ok(match ClassOrder::of(&stored, data) {
        Ok(ClassOrder::Same) => ClassRows::Same,
        Ok(ClassOrder::Other(of)) => ClassRows::Mapped(of),
        Err(reason) => ClassRows::Other { classes: stored.len(), reason },
    })
}
