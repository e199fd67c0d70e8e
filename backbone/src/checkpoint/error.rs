//! What can be wrong with a checkpoint file.

use std::io;
use std::path::{Path, PathBuf};

use super::Weights;
use super::pickle::PickleError;

/// A checkpoint file that cannot be read or written: which one, and why.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint {}: {fault}", path.display())]
pub struct CheckpointError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not a checkpoint at all.
    #[error("not a checkpoint: {0}")]
    NotACheckpoint(String),
    /// The file contradicts itself: truncated or damaged.
    #[error("truncated or corrupt: {0}")]
    Corrupt(String),
    /// The pickle in the file is malformed.
    #[error("truncated or corrupt: {0}")]
    Pickle(#[from] PickleError),
    /// A valid file of a kind this reader does not have.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The file has no such weights.
    #[error("it has no {} weights; {found}", match wanted { Weights::Ema => "EMA (`model_ema`)", Weights::Model => "`model` or `state_dict`", Weights::Auto | Weights::Averaged => "model" })]
    NoSuchWeights {
        /// What was asked for.
        wanted: Weights,
        /// The sets that exist, in words.
        found: String,
    },
    /// The file cannot be written. What was there before is still there.
    #[error("could not be saved: {0} (a previous file of that name is unchanged)")]
    Save(io::Error),
}

impl Fault {
    /// The fault as one of the file at `path`.
    pub(crate) fn of(self, path: &Path) -> CheckpointError {
        CheckpointError { path: path.to_owned(), fault: self }
    }
}
