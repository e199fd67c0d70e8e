//! Checks of a data set before training: label maps here, objects in `objects/`.
//!
//! ```text
//! folder ─ scan.rs: every file read once, in parallel ─> facts of each split ─ judge.rs: rules over the facts ─> findings
//! ```
//!
//! The rules cover the usual reasons why a segmentor learns nothing: masks of 0 and 255, labels that start at 1, a `reduce_zero_label` that
//! does not fit the data, images and label maps that do not fit each other, classes that never occur, validation images that are also
//! training images.

mod judge;
mod label_fault;
mod objects;
mod scan;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use label_fault::{LabelFault, Purpose, label_fault};
pub use objects::{CategoryCount, ObjectCheckOptions, ObjectReport, check_coco, check_objects};
use serde::Serialize;

use crate::error::DataError;
use crate::image_io::ExifOrientation;
use crate::sample::SegmentationDataset;

/// How many examples a finding names.
const EXAMPLES: usize = 5;
/// Smallest side of an image in pixels: below the coarsest stride of 32, no feature is left.
const TINY: usize = 32;

/// What the labels are checked against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Class names by class index. A folder needs them; if the list is empty, the names of the dataset are used.
    pub class_names: Vec<String>,
    /// Number of classes of the model. If absent, the number of names; without names, the largest label gives it.
    pub num_classes: Option<usize>,
    /// Whether training ignores label 0 and lowers all others by one.
    pub reduce_zero_label: bool,
    /// What training does with the EXIF orientation of photos.
    pub exif: ExifOrientation,
    /// Splits to check; empty for all.
    pub splits: Vec<String>,
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For information.
    Info,
    /// Training runs, but its result may mislead.
    Warning,
    /// Training would stop, or learn the wrong thing.
    Error,
}

/// The kind of a finding; in JSON, in snake case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the message of a finding explains its kind")]
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
    SkippedImages,
    UnreadableImage,
    UnreadableLabel,
    InvalidSample,
    SizeMismatch,
    ColourLabel,
    SixteenBitLabel,
    PaletteLabel,
    BinaryMask,
    OneClass,
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
    InvalidField,
    UnknownSegmentation,
    RootCategory,
    TurnedPhoto,
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

/// A fact about the data set that its owner should know.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Its severity.
    pub severity: Severity,
    /// Its kind, for programs.
    pub kind: FindingKind,
    /// The split it belongs to; `None` for the whole data set.
    pub split: Option<String>,
    /// Number of files, classes or values concerned.
    pub count: usize,
    /// What was found, in one sentence.
    pub message: String,
    /// What to do about it, in one sentence.
    pub remedy: String,
    /// The first files, classes or values concerned.
    pub examples: Vec<String>,
}

/// How often a class occurs in a split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassCount {
    /// Class index.
    pub index: usize,
    /// Name, or `class <index>` without a class list.
    pub name: String,
    /// Pixels of the class.
    pub pixels: u64,
    /// Images with at least one pixel of it.
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
    /// Pairs of a readable image and a readable label map.
    pub usable: usize,
    /// Smallest and largest width of the images, in pixels; 0 without images.
    pub width: [u32; 2],
    /// Smallest and largest height of the images, in pixels; 0 without images.
    pub height: [u32; 2],
    /// Pixels that training ignores.
    pub ignored_pixels: u64,
    /// All pixels of readable label maps.
    pub pixels: u64,
    /// The values in the label files with their pixel counts, before `reduce_zero_label`.
    pub raw_values: Vec<(u8, u64)>,
    /// The classes by class index, after `reduce_zero_label`.
    pub classes: Vec<ClassCount>,
}

/// The numbers and the findings of a segmentation data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckReport {
    /// The folder; `None` for samples of a data set.
    pub root: Option<PathBuf>,
    /// Number of classes that the labels were checked against.
    pub num_classes: usize,
    /// Whether label 0 was ignored.
    pub reduce_zero_label: bool,
    /// The splits.
    pub splits: Vec<SplitReport>,
    /// The findings, errors first.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Number of findings of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        count(&self.findings, severity)
    }

    /// Whether training may start: there is no error, and under `strict` no warning either.
    pub fn passes(&self, strict: bool) -> bool {
        passes(&self.findings, strict)
    }
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

fn passes(findings: &[Finding], strict: bool) -> bool {
    let limit = if strict { Severity::Warning } else { Severity::Error };
    findings.iter().all(|finding| finding.severity < limit)
}

/// Why a check cannot be made at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A folder cannot be listed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// The system's error.
        reason: std::io::Error,
    },
    /// A label has one byte, of which 255 is reserved for ignored pixels.
    #[error("{count} classes do not fit into labels of 8 bits, which hold at most {most}")]
    TooManyClasses {
        /// Number of classes.
        count: usize,
        /// Largest possible number: 255, or 254 with `reduce_zero_label`.
        most: usize,
    },
}

/// Checks a folder of the ADE20K layout: `images/<split>/*.jpg` (or png, bmp, tif, webp) and `annotations/<split>/*.png`.
///
/// Every file is read once, on all threads of rayon's pool; the report does not depend on their number.
///
/// # Errors
/// When the folder cannot be listed, or there are more classes than labels can hold. Every problem inside the folder is a finding.
pub fn check_folder(root: &Path, options: &CheckOptions) -> Result<CheckReport, CheckError> {
    check_class_count(options)?;
    let scan = scan::scan_folder(root, options)?;
    Ok(judge::judge(Some(root), scan, options))
}

/// Checks data sets of any kind, such as the built-in scenes or one of your own. Each is a split with a name. Their labels are class
/// indices already, so `reduce_zero_label` is not applied.
///
/// # Errors
/// When there are more classes than labels can hold.
pub fn check_datasets(datasets: &[(&str, &dyn SegmentationDataset)], options: &CheckOptions) -> Result<CheckReport, CheckError> {
    let mut options = CheckOptions { reduce_zero_label: false, ..options.clone() };
    if let (true, Some((_, first))) = (options.class_names.is_empty(), datasets.first()) {
        options.class_names.clone_from(&first.classes().names);
    }
    check_class_count(&options)?;
    let splits = datasets.iter().map(|(name, dataset)| scan::scan_dataset(name, *dataset)).collect();
    Ok(judge::judge(None, scan::FolderScan { splits, missing: Vec::new(), stray_images: 0 }, &options))
}

fn check_class_count(options: &CheckOptions) -> Result<(), CheckError> {
    let count = options.num_classes.unwrap_or(options.class_names.len()).max(options.class_names.len());
    let most = if options.reduce_zero_label { 254 } else { 255 };
    if count > most { Err(CheckError::TooManyClasses { count, most }) } else { Ok(()) }
}
