//! The errors of readers and writers. Every message names the file, and inside it the entry and the field.

use std::path::{Path, PathBuf};

use vmamba_types::MaskError;

use crate::memory::bytes;

/// Why data cannot be read, written or used.
///
/// Messages are complete, so no variant has a `source` that would repeat a part of them.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused to read or write.
    #[error("{}: {reason}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The system's error.
        reason: std::io::Error,
    },
    /// An image file cannot be decoded or encoded.
    #[error("{}: {message}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// An image claims more pixels than are read.
    #[error("{}: the image claims {}x{} pixels (width x height), but at most {limit} pixels are read; --max-pixels raises the limit", path.display(), size[1], size[0])]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The claimed `[height, width]`.
        size: [usize; 2],
        /// The limit, see [`max_pixels`](crate::image_io::max_pixels).
        limit: u64,
    },
    /// An image within the limit of pixels needs more memory than is free.
    #[error("{}: the image of {}x{} pixels (width x height) needs at least {} of memory, but {} are free", path.display(), size[1], size[0], bytes(*needed), bytes(*free))]
    OutOfMemory {
        /// The file.
        path: PathBuf,
        /// Its `[height, width]`.
        size: [usize; 2],
        /// Bytes that its pixels take.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A folder or a class list is not laid out as expected.
    #[error("{}: {message}", path.display())]
    Layout {
        /// File or folder.
        path: PathBuf,
        /// What is wrong and what is expected.
        message: String,
    },
    /// A file is not the JSON that is expected.
    #[error("{}: {}{message}", path.display(), if place.is_empty() { String::new() } else { format!("{place}: ") })]
    Json {
        /// The file.
        path: PathBuf,
        /// The field, such as `annotations[3].bbox`; empty when the problem concerns the whole file.
        place: String,
        /// What is wrong, with line and column where they are known.
        message: String,
    },
    /// An annotation or result file is invalid.
    #[error("{}: {}{problem}", path.display(), if place.is_empty() { String::new() } else { format!("{place}: ") })]
    Annotation {
        /// The file.
        path: PathBuf,
        /// The entry, such as `annotation 17`; empty when the problem concerns the whole file.
        place: String,
        /// What is wrong.
        problem: AnnotationProblem,
    },
    /// An image and its label map differ in size.
    #[error("{} is {}x{} pixels, but its label map {} is {}x{} (width x height){}", image.display(), image_size[1], image_size[0], labels.display(), label_size[1], label_size[0], remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default())]
    SizeMismatch {
        /// The image.
        image: PathBuf,
        /// `[height, width]` of the image.
        image_size: [usize; 2],
        /// The label map.
        labels: PathBuf,
        /// `[height, width]` of the label map.
        label_size: [usize; 2],
        /// What to do, where the label map fits the photo with its EXIF orientation read the other way.
        remedy: Option<&'static str>,
    },
    /// A label is outside the classes.
    #[error("{}: label {label} at column {column}, row {row} is outside the {classes} classes; labels are 0 to {}, and 255 for ignored pixels{hint}", path.display(), classes.saturating_sub(1))]
    LabelOutOfRange {
        /// The label map.
        path: PathBuf,
        /// The label, after `reduce_zero_label` if that is on.
        label: u8,
        /// Column of the first such pixel.
        column: usize,
        /// Row of the first such pixel.
        row: usize,
        /// Number of classes.
        classes: usize,
        /// A likely cause, or nothing.
        hint: &'static str,
    },
    /// A sample contradicts itself or the class list, see [`DetectionSample::validate`](crate::sample::DetectionSample::validate).
    #[error("sample `{name}`: {message}")]
    Sample {
        /// Name of the sample.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// The index of a sample is beyond the end of the data set.
    #[error("sample {index} does not exist: the data set has {len} samples, counted from 0")]
    NoSuchSample {
        /// The index.
        index: usize,
        /// Number of samples.
        len: usize,
    },
    /// A data set without samples was given to a loader.
    #[error("the data set has no sample")]
    Empty,
}

impl DataError {
    /// A file system error on `path`.
    pub fn io(path: &Path, reason: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), reason }
    }

    /// An image file `path` that cannot be decoded or encoded.
    pub fn image(path: &Path, reason: image::ImageError) -> Self {
        match reason {
            image::ImageError::IoError(reason) => Self::io(path, reason),
            other => Self::Image { path: path.to_owned(), message: other.to_string() },
        }
    }

    /// A folder or class list `path` that is not laid out as expected.
    pub fn layout(path: &Path, message: impl Into<String>) -> Self {
        Self::Layout { path: path.to_owned(), message: message.into() }
    }

    /// A problem in an annotation or result file.
    pub(crate) fn annotation(path: &Path, place: impl Into<String>, problem: AnnotationProblem) -> Self {
        Self::Annotation { path: path.to_owned(), place: place.into(), problem }
    }

    /// A sample that contradicts itself or the class list.
    pub fn sample(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Sample { name: name.into(), message: message.into() }
    }
}

/// What is wrong with an annotation or result file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AnnotationProblem {
    /// An entry of a list is no object.
    #[error("the entry is {0}; expected an object")]
    Entry(String),
    /// A key occurs twice in an object.
    #[error("the key `{0}` occurs twice")]
    DoubledKey(&'static str),
    /// A field has the wrong type.
    #[error("`{field}` is {found}; expected {expected}")]
    Type {
        /// The field.
        field: &'static str,
        /// What the file holds.
        found: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// The file is JSON, but lacks one of COCO's three lists.
    #[error("the list `{0}` is missing; COCO annotations have the lists `images`, `annotations` and `categories`")]
    NotCoco(&'static str),
    /// A field is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A text is empty.
    #[error("`{0}` is empty")]
    Empty(&'static str),
    /// `image_id` refers to no image.
    #[error("image_id {0} is not among the images")]
    UnknownImage(i64),
    /// `category_id` refers to no category.
    #[error("category_id {0} is not among the categories")]
    UnknownCategory(i64),
    /// An id occurs twice.
    #[error("id {0} occurs twice")]
    DuplicateId(i64),
    /// An id is below 0.
    #[error("id {0} is negative; ids are whole numbers of at least 0")]
    NegativeId(i64),
    /// `bbox` does not have four numbers.
    #[error("`bbox` has {0} numbers instead of x, y, width, height")]
    Box(usize),
    /// A number is NaN or infinite.
    #[error("`{0}` is not a finite number")]
    NotFinite(&'static str),
    /// `segmentation` is invalid.
    #[error("`segmentation`: {0}")]
    Mask(MaskError),
    /// `segmentation` has none of COCO's forms.
    #[error("`segmentation` is {0}; expected polygons [[x0, y0, x1, y1, …], …] or an object with `size` and `counts`")]
    SegmentationForm(String),
    /// Polygons lie beside their image.
    #[error("`segmentation`: the polygons lie outside the image of {}x{} (width x height)", .0[1], .0[0])]
    Outside([usize; 2]),
    /// An image of zero height or width.
    #[error("the image is {}x{} pixels (width x height); both must be at least 1", .0[1], .0[0])]
    Size([usize; 2]),
    /// No object is left to train on or to evaluate; the reasons, if there are any, are in parentheses.
    #[error("no image has an object{0}")]
    NoObjects(String),
    /// No image is left.
    #[error("the list `images` has no image")]
    NoImages,
    /// There is no root category to leave out.
    #[error(
        "no category is Roboflow's root category (id 0, supercategory `none`, no annotations), so data.source.drop_root_category must be false"
    )]
    NoRootCategory,
    /// The categories are not those of the model.
    #[error("{0}")]
    Classes(String),
    /// A result has neither a box nor a mask.
    #[error("neither `bbox` nor `segmentation` is present")]
    NoGeometry,
}

impl From<MaskError> for AnnotationProblem {
    fn from(error: MaskError) -> Self {
        Self::Mask(error)
    }
}
