//! Errors of checkpoint files.

use std::io;
use std::path::{Path, PathBuf};

use super::pickle::PickleError;

/// Why a checkpoint file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("checkpoint {}: {fault}", path.display())]
pub struct CheckpointError {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub fault: Fault,
}

/// The reason of a [`CheckpointError`].
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is not a checkpoint.
    #[error("not a checkpoint: {0}")]
    NotACheckpoint(String),
    /// The file is truncated or damaged.
    #[error("truncated or corrupt: {0}")]
    Corrupt(String),
    /// The pickle in the file is malformed.
    #[error("truncated or corrupt: {0}")]
    Pickle(#[from] PickleError),
    /// A valid file of a kind that this reader does not support.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The file has no such set of weights.
    #[error("it has no {wanted} weights; {found}{}", if found.contains('`') { "; name a set with --weights-key, for `init` with init_weights" } else { "" })]
    NoSuchWeights {
        /// The set that was asked for, in words.
        wanted: String,
        /// The sets that exist, in words.
        found: String,
    },
    /// The file cannot be written. A previous file of this name is unchanged.
    #[error("could not be saved: {reason}{}", if *previous { " (the previous file is unchanged)" } else { "" })]
    Save {
        /// The error of the operating system.
        reason: io::Error,
        /// Whether there is a previous file of this name.
        previous: bool,
    },
}

impl Fault {
    /// Adds the path of the file.
    pub(crate) fn of(self, path: &Path) -> CheckpointError {
        CheckpointError { path: path.to_owned(), fault: self }
    }
}
