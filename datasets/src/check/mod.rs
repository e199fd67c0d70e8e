//! Looks at a data set before training does, and says in words what would go wrong: label maps here, objects in `objects.rs`.
//!
//! ```text
//! folder ─ scan.rs: every file read once, in parallel ─> facts a split ─ judge.rs: rules over the facts ─> findings
//! ```
//!
//! The rules are the questions people ask most when a segmentor learns nothing: masks of 0 and 255, labels that start at one, a
//! `reduce_zero_label` that is on or off against the data, files that do not fit each other, classes that never occur, validation
//! images that are also training images.

mod judge;
mod objects;
mod scan;
#[cfg(test)]
mod tests;

pub use objects::{CategoryCount, ObjectCheckOptions, ObjectReport, check_coco};

use crate::sample::SegmentationDataset;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What the data set is meant to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Class names in the order of their indices; empty when unknown.
    pub class_names: Vec<String>,
    /// Number of classes of the model, where it is known from elsewhere than the list of names.
    pub num_classes: Option<usize>,
    /// Whether training will turn label 0 into 255 (ignored) and move all others down by one.
    pub reduce_zero_label: bool,
    /// Splits to look at; empty for all that are there.
    pub splits: Vec<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Training runs, but its result may not mean what one thinks.
    Warning,
    /// Training would stop or learn something wrong.
    Error,
}

/// What was found; the name is the key in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The names say it; the message of a finding explains it.
pub enum FindingKind {
    NoSplits,
    MissingSplit,
    EmptySplit,
    NamesDoNotMatch,
    ImageWithoutLabel,
    LabelWithoutImage,
    AmbiguousName,
    LossyLabel,
    OtherFiles,
    UnreadableImage,
    UnreadableLabel,
    SizeMismatch,
    ColourLabel,
    SixteenBitLabel,
    PaletteLabel,
    BinaryMask,
    LabelsStartAtOne,
    ValueOutOfRange,
    ReduceZeroDropsClass,
    ZeroNeverUsed,
    OnlyIgnoredPixels,
    MostlyIgnored,
    ClassNeverPresent,
    ClassMissingInTraining,
    RareClass,
    Imbalance,
    DuplicateInSplit,
    DuplicateAcrossSplits,
    ConflictingLabels,
    TinyImage,
    NoClassList,
    NumClassesMismatch,
    DuplicateClassName,
    MissingField,
    DuplicateId,
    UnknownImage,
    UnknownCategory,
    CategoryIdGaps,
    BadBox,
    CornerBoxes,
    DegenerateBox,
    BoxOutsideImage,
    BoxMaskMismatch,
    BadPolygon,
    PolygonOutside,
    BadRle,
    NoMask,
    MissingImageFile,
    NoObjects,
    EmptyImages,
    Crowds,
    AnchorsMissObjects,
}

/// One fact about the data set that its owner should know.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, for programs.
    pub kind: FindingKind,
    /// The split it was found in, where it belongs to one.
    pub split: Option<String>,
    /// How many files, classes or values are concerned.
    pub count: usize,
    /// What it is, in one sentence.
    pub message: String,
    /// What to do about it, in one sentence.
    pub remedy: String,
    /// The first few files, classes or values concerned.
    pub examples: Vec<String>,
}

/// How often a class occurs in a split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassCount {
    /// Index as training sees it.
    pub index: usize,
    /// Name, or `class <index>` where no list was given.
    pub name: String,
    /// Pixels of this class.
    pub pixels: u64,
    /// Images with at least one such pixel.
    pub images: usize,
}

/// The numbers of a split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitReport {
    /// Name of the folder.
    pub name: String,
    /// Image files.
    pub images: usize,
    /// Label files.
    pub labels: usize,
    /// Images with a label map, both readable.
    pub usable: usize,
    /// Smallest and largest width of the images, in pixels; zero when there is none.
    pub width: [u32; 2],
    /// Smallest and largest height of the images, in pixels.
    pub height: [u32; 2],
    /// Labelled pixels that training ignores.
    pub ignored_pixels: u64,
    /// All pixels of readable label maps.
    pub pixels: u64,
    /// The values in the label files as they are, with their pixel counts.
    pub raw_values: Vec<(u8, u64)>,
    /// Classes as training sees them, in the order of the list.
    pub classes: Vec<ClassCount>,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckReport {
    /// The folder, where the data came from one.
    pub root: Option<PathBuf>,
    /// Number of classes that the labels were held against.
    pub num_classes: usize,
    /// Whether label 0 was treated as "ignored".
    pub reduce_zero_label: bool,
    /// One entry a split.
    pub splits: Vec<SplitReport>,
    /// The worst first.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Number of findings of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|f| f.severity == severity).count()
    }

    /// Whether training may start: no error, and under `strict` no warning either.
    pub fn passes(&self, strict: bool) -> bool {
        let limit = if strict { Severity::Warning } else { Severity::Error };
        self.findings.iter().all(|f| f.severity < limit)
    }
}

/// Why a check could not be made at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A folder or file cannot be read.
    #[error("cannot read {path}: {reason}")]
    List {
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// A file is no COCO annotations.
    #[error("{path} {message}")]
    NotCoco {
        /// The file.
        path: PathBuf,
        /// What it is not.
        message: String,
    },
    /// A label has one byte, and 255 means "ignored".
    #[error("{0} classes do not fit into 8-bit labels: at most {max} are possible", max = if *.1 { 254 } else { 255 })]
    TooManyClasses(usize, bool),
}

/// Checks a folder of the ADE20K layout: `images/<split>/*.jpg` (or png, bmp, tif, webp) and `annotations/<split>/*.png`.
///
/// Every file is read and decoded once; files are shared among the threads of rayon's pool, and the report does not depend on how many
/// there are.
///
/// # Errors
/// Only when the folder itself cannot be listed, or more classes are asked for than labels can name. Everything wrong inside the folder
/// is a finding.
pub fn check_folder(root: &Path, options: &CheckOptions) -> Result<CheckReport, CheckError> {
    check_class_count(options)?;
    let scan = scan::scan_folder(root, &options.splits)?;
    Ok(judge::judge(Some(root), scan, options))
}

/// Checks samples that do not come from a folder, such as the built-in scenes: each is a split with its name. Labels are taken as
/// training sees them, so `reduce_zero_label` has no meaning here and is not applied.
///
/// # Errors
/// When more classes are asked for than labels can name.
pub fn check_datasets(datasets: &[(&str, &dyn SegmentationDataset)], options: &CheckOptions) -> Result<CheckReport, CheckError> {
    let options = CheckOptions { reduce_zero_label: false, ..options.clone() };
    check_class_count(&options)?;
    let splits = datasets.iter().map(|(name, dataset)| scan::scan_dataset(name, *dataset)).collect();
    Ok(judge::judge(None, scan::FolderScan { splits, missing: Vec::new(), stray_images: 0 }, &options))
}

fn check_class_count(options: &CheckOptions) -> Result<(), CheckError> {
    let count = options.num_classes.unwrap_or(options.class_names.len()).max(options.class_names.len());
    let most = if options.reduce_zero_label { 254 } else { 255 };
    if count > most { Err(CheckError::TooManyClasses(count, options.reduce_zero_label)) } else { Ok(()) }
}
