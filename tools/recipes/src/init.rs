//! Where training starts from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
