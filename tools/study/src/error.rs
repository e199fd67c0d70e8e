//! Why a study fails.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use vision_datasets::DataError;
use vmamba::ConfigError;
use vmamba::analysis::{AttentionError, MapError, TraceError};
use vmamba::checkpoint::{CheckpointError, LoadError};
use vmamba::zoo::PretrainedError;
use vmamba_report::ReportError;
use vmamba_train::DeviceError;

use crate::published::PublishedError;
use crate::routes::RouteError;

/// Why a study fails. The message is one line without the causes; [`Error::source`] leads to them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StudyError {
    /// The request cannot be met: an unknown name, a size out of range, options that contradict each other.
    #[error("{0}")]
    Invalid(String),
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        reason: io::Error,
    },
    /// A folder cannot be created.
    #[error("cannot create the folder {}: {reason}", path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// The error of the operating system.
        reason: io::Error,
    },
    /// A table, plot, figure or another file of results cannot be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A file has the wrong content.
    #[error("{place}: {reason}")]
    Content {
        /// The file and, where it is known, the line or field.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The options of a model are invalid, or it does not take this image size.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint belongs to another model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A classifier cannot be loaded.
    #[error(transparent)]
    Pretrained(#[from] PretrainedError),
    /// A device is missing or does not support a precision.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// An image or a data set cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A layer does not exist or has no scan through the whole image.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Activation maps cannot be computed.
    #[error(transparent)]
    Maps(#[from] MapError),
    /// An attention map cannot be computed.
    #[error(transparent)]
    Attention(#[from] AttentionError),
    /// The built-in published data are damaged.
    #[error(transparent)]
    Published(#[from] PublishedError),
    /// A grid or query patch of the scan routes does not exist.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A network failed while it ran.
    #[error("{0}")]
    Run(String),
    /// The Python worker of the peers failed.
    #[error("{0}")]
    Peers(String),
    /// Where another error occurred: an option, a file, a model.
    #[error("{place}")]
    At {
        /// The place.
        place: String,
        /// The error.
        source: Box<StudyError>,
    },
    /// An error of a recipe.
    #[error(transparent)]
    Other(Box<dyn Error + Send + Sync>),
}

/// The result of a study.
pub type Result<T, E = StudyError> = std::result::Result<T, E>;

impl StudyError {
    /// The message with all causes, on one line: `--checkpoint a.pth: cannot read a.pth: no such file`.
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            line.push_str(&format!(": {error}"));
            source = error.source();
        }
        line
    }

    /// For `map_err`: reading `path` failed.
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| Self::Read { path, reason }
    }

    /// For `map_err`: `place`, a file or a line of it, is not the expected JSON.
    pub(crate) fn json(place: impl std::fmt::Display) -> impl FnOnce(serde_json::Error) -> Self {
        let place = place.to_string();
        move |error| Self::Content { place, reason: format!("invalid JSON: {error}") }
    }

    /// For `map_err`: `place`, a file or a field of it, has the wrong content.
    pub(crate) fn content<E: std::fmt::Display>(place: impl std::fmt::Display) -> impl FnOnce(E) -> Self {
        let place = place.to_string();
        move |reason| Self::Content { place, reason: reason.to_string() }
    }
}

impl From<anyhow::Error> for StudyError {
    fn from(error: anyhow::Error) -> Self {
        // In contrast to `into`, this keeps the type for `downcast_ref`.
        Self::Other(error.reallocate_into_boxed_dyn_error_without_backtrace())
    }
}

/// Adds the place to an error.
pub(crate) trait Place<T> {
    /// The result with `place` in front of the error.
    fn at(self, place: impl Into<String>) -> Result<T>;

    /// As [`Place::at`]; `place` runs only on an error.
    fn at_with<P: Into<String>>(self, place: impl FnOnce() -> P) -> Result<T>;
}

impl<T, E: Into<StudyError>> Place<T> for Result<T, E> {
    fn at(self, place: impl Into<String>) -> Result<T> {
        self.at_with(|| place)
    }

    fn at_with<P: Into<String>>(self, place: impl FnOnce() -> P) -> Result<T> {
        self.map_err(|error| StudyError::At { place: place().into(), source: Box::new(error.into()) })
    }
}

/// Creates [`StudyError::Invalid`] from a format string.
macro_rules! invalid {
    ($($argument:tt)*) => { $crate::error::StudyError::Invalid(format!($($argument)*)) };
}
pub(crate) use invalid;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_place_and_every_cause_once() {
        let missing = || StudyError::read(Path::new("a.pth"))(io::Error::new(io::ErrorKind::NotFound, "no such file"));
        let error = Err::<(), _>(missing()).at("--checkpoint").unwrap_err();
        assert_eq!(error.line(), "--checkpoint: cannot read a.pth: no such file");
        let foreign = StudyError::from(anyhow::anyhow!("inner").context("outer"));
        assert_eq!(foreign.line(), "outer: inner");
        let StudyError::Other(typed) = StudyError::from(anyhow::Error::new(std::fmt::Error)) else { panic!("another variant") };
        assert!(typed.is::<std::fmt::Error>());
    }
}
