//! Why a report cannot be written or read.

use std::io;
use std::path::{Path, PathBuf};

/// Why a report cannot be written or read. Every variant about a file names it; the message holds the reason.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or a folder cannot be written.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        reason: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        reason: io::Error,
    },
    /// A file of an earlier run cannot be deleted.
    #[error("cannot delete {}: {reason}", path.display())]
    Delete {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        reason: io::Error,
    },
    /// The name of a picture ends with another format.
    #[error("{}: pictures are written as PNG, so the name must end with .png", path.display())]
    PictureName {
        /// The file.
        path: PathBuf,
    },
    /// A picture cannot be encoded.
    #[error("cannot encode the picture {}: {reason}", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// The error of the encoder.
        reason: image::ImageError,
    },
    /// A line of a log is not a JSON object. The last line is exempt, because a crash may have truncated it.
    #[error("{}: line {line} is not a JSON object; delete the line, or resume the run, which leaves damaged lines out", path.display())]
    DamagedLine {
        /// The log.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The log of a new run has lines of another run.
    #[error("{} is the log of another run; delete it or name another file", path.display())]
    LogExists {
        /// The log.
        path: PathBuf,
    },
    /// The folder of a new run holds a run.
    #[error("{} already holds a run; resume it if it has a checkpoint, overwrite it, or name another folder", path.display())]
    HoldsRun {
        /// The folder.
        path: PathBuf,
    },
    /// The folder to resume from holds no run.
    #[error("nothing to resume: {} does not exist", checkpoint.display())]
    NothingToResume {
        /// The missing checkpoint.
        checkpoint: PathBuf,
    },
    /// The folder to resume from holds a run without a checkpoint.
    #[error("nothing to resume: the run in {} ended before its first checkpoint; overwrite it", path.display())]
    EndedTooEarly {
        /// The folder.
        path: PathBuf,
    },
    /// An earlier run that is to be overwritten has an input of the new run.
    #[error("{} is an input of the new run and belongs to the run that would be overwritten; copy it to another folder", path.display())]
    HoldsInput {
        /// The file of the earlier run.
        path: PathBuf,
    },
    /// Another program works in the folder.
    #[error("{} is in use by another run; wait for its end, or name another folder", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A plot has no finite point; an empty plot would look like a result.
    #[error("nothing to plot for \"{title}\": {series} series, none with a finite point")]
    EmptyPlot {
        /// The title of the plot.
        title: String,
        /// The number of its series.
        series: usize,
    },
    /// The plotting library failed.
    #[error("cannot draw \"{title}\": {reason}")]
    Drawing {
        /// The title of the plot.
        title: String,
        /// The error of the plotting library.
        reason: String,
    },
    /// The number of values differs from the product of the sides of their shape.
    #[error("{values} values do not fill the shape {shape:?}")]
    Shape {
        /// The number of values.
        values: usize,
        /// The expected shape; `[height, width]` for images.
        shape: Vec<usize>,
    },
    /// No panel of a heat map figure has a finite value.
    #[error("no heat map of the figure has a finite value")]
    EmptyFigure,
    /// A heat map figure has a different number of labels than rows or columns.
    #[error("{labels} labels for {count} {axis}")]
    Labels {
        /// The number of labels.
        labels: usize,
        /// The number of rows or columns.
        count: usize,
        /// `"rows"` or `"columns"`.
        axis: &'static str,
    },
}

impl ReportError {
    /// For `map_err`: writing `path` failed.
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| Self::Write { path, reason }
    }

    /// For `map_err`: reading `path` failed.
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |reason| Self::Read { path, reason }
    }
}
