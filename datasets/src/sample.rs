//! The types that travel between data sets, transforms, heads and pictures.

use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::coco::{CocoError, GroundTruth};
use crate::mask::{InstanceMask, Rle};

/// The label of pixels that take no part in training and evaluation.
pub const IGNORE_LABEL: u8 = 255;

/// Something is wrong with the data. Every variant names the file. Messages are whole, so that no error has a source that would say its part
/// again.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file system refused.
    #[error("{}: {reason}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// A picture could not be decoded or written.
    #[error("{}: {message}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The reason.
        message: String,
    },
    /// Image and label map differ in size.
    #[error("{} is {}x{} pixels but its label map {} is {}x{} (width x height)", image.display(), image_size[1], image_size[0], labels.display(), label_size[1], label_size[0])]
    SizeMismatch {
        /// The image.
        image: PathBuf,
        /// `[height, width]` of the image.
        image_size: [usize; 2],
        /// The label map.
        labels: PathBuf,
        /// `[height, width]` of the label map.
        label_size: [usize; 2],
    },
    /// A label is no class.
    #[error("{}: label {label} at column {column}, row {row} is outside the {classes} classes (0 to {}, and 255 = ignored){hint}", path.display(), classes - 1)]
    LabelOutOfRange {
        /// The label map.
        path: PathBuf,
        /// The value, after `reduce_zero_label` if that is on.
        label: u8,
        /// Column of the first such pixel.
        column: usize,
        /// Its row.
        row: usize,
        /// Number of classes.
        classes: usize,
        /// What may be the cause.
        hint: &'static str,
    },
    /// Annotations are wrong.
    #[error(transparent)]
    Coco(#[from] CocoError),
    /// A folder or class list is not as expected.
    #[error("{}: {message}", path.display())]
    Layout {
        /// File or folder.
        path: PathBuf,
        /// What is wrong and what is expected.
        message: String,
    },
}

impl DataError {
    /// A file system error on `path`.
    pub fn io(path: &Path, reason: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), reason }
    }

    /// A picture `path` that could not be decoded or written.
    pub fn image(path: &Path, source: image::ImageError) -> Self {
        match source {
            image::ImageError::IoError(source) => Self::io(path, source),
            other => Self::Image { path: path.to_owned(), message: other.to_string() },
        }
    }

    /// A folder or list that is not as expected.
    pub fn layout(path: &Path, message: impl Into<String>) -> Self {
        Self::Layout { path: path.to_owned(), message: message.into() }
    }
}

/// A class index for every pixel, [`IGNORE_LABEL`] for none; row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelMap {
    height: usize,
    width: usize,
    labels: Vec<u8>,
}

impl LabelMap {
    /// From values in row-major order.
    ///
    /// # Panics
    /// When there are not `height * width` of them.
    pub fn new(height: usize, width: usize, labels: Vec<u8>) -> Self {
        assert_eq!(labels.len(), height * width, "LabelMap: {height} x {width} pixels");
        Self { height, width, labels }
    }

    /// `[height, width]`.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// The labels in row-major order.
    pub fn as_slice(&self) -> &[u8] {
        &self.labels
    }

    /// The labels in row-major order.
    pub fn into_vec(self) -> Vec<u8> {
        self.labels
    }

    /// ADE20K's convention: 0 means "other objects" and is ignored, class k is stored as k + 1; 255 stays ignored, and so does 254,
    /// which mmsegmentation's arithmetic makes of it.
    #[must_use]
    pub fn reduce_zero_label(mut self) -> Self {
        for label in &mut self.labels {
            *label = match *label {
                0 | IGNORE_LABEL => IGNORE_LABEL,
                other => other - 1,
            };
        }
        self
    }
}

/// Which pixels belong to an instance; row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitMask {
    height: usize,
    width: usize,
    bits: Vec<bool>,
}

impl BitMask {
    /// From values in row-major order.
    ///
    /// # Panics
    /// When there are not `height * width` of them.
    pub fn new(height: usize, width: usize, bits: Vec<bool>) -> Self {
        assert_eq!(bits.len(), height * width, "BitMask: {height} x {width} pixels");
        Self { height, width, bits }
    }

    /// `[height, width]`.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// The bits in row-major order.
    pub fn as_slice(&self) -> &[bool] {
        &self.bits
    }
}

/// One object of an image, or a crowd of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// `[x0, y0, x1, y1]` in pixels of the image, the far corner outside the object.
    pub bbox: [f32; 4],
    /// Class index.
    pub category: usize,
    /// Whether it is a crowd that nobody counted: no object to learn, and finding it is no mistake.
    pub crowd: bool,
    /// Its pixels; none where only boxes were annotated.
    pub mask: Option<InstanceMask>,
}

/// An object that a model found.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// `[x0, y0, x1, y1]` in pixels of the image file.
    pub bbox: [f32; 4],
    /// Probability.
    pub score: f32,
    /// Class index.
    pub category: usize,
    /// Its pixels, of the size of the image file.
    pub mask: Option<Rle>,
}

/// An image with its objects.
#[derive(Clone, Debug)]
pub struct DetectionSample {
    /// The picture, 8 bits a channel.
    pub image: RgbImage,
    /// Its objects and crowds.
    pub instances: Vec<Instance>,
    /// What to call it in messages and file names.
    pub name: String,
    /// Its number in the annotations, which results refer to.
    pub image_id: i64,
    /// `[height, width]` before any transform.
    pub original_size: [usize; 2],
}

/// A set of images with objects. Samples are read when asked for, possibly from several threads at once.
#[expect(clippy::len_without_is_empty, reason = "an empty data set cannot be opened")]
pub trait DetectionDataset: Send + Sync {
    /// Number of images.
    fn len(&self) -> usize;

    /// Reads image `index`, below [`DetectionDataset::len`].
    ///
    /// # Errors
    /// When a file is missing, damaged, or does not fit its annotations.
    fn get(&self, index: usize) -> Result<DetectionSample, DataError>;

    /// The classes.
    fn classes(&self) -> &ClassList;

    /// `[height, width]` of image `index` by its annotations, without reading the file.
    fn size(&self, index: usize) -> [usize; 2];

    /// The ground truth of the whole set, for the evaluator.
    ///
    /// # Errors
    /// When it cannot be put together.
    fn truth(&self) -> Result<GroundTruth, DataError>;
}

/// An image with a label for every pixel.
#[derive(Clone, Debug)]
pub struct SegmentationSample {
    /// The picture, 8 bits a channel.
    pub image: RgbImage,
    /// Its labels, of the same size.
    pub labels: LabelMap,
    /// What to call it in messages and file names.
    pub name: String,
    /// `[height, width]` before any transform.
    pub original_size: [usize; 2],
}

/// A set of labelled images. Samples are read when asked for, possibly from several threads at once.
#[expect(clippy::len_without_is_empty, reason = "an empty data set cannot be opened")]
pub trait SegmentationDataset: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Reads sample `index`, below [`SegmentationDataset::len`].
    ///
    /// # Errors
    /// When a file is missing, damaged, or does not fit its partner or the class list.
    fn get(&self, index: usize) -> Result<SegmentationSample, DataError>;

    /// The classes that labels count.
    fn classes(&self) -> &ClassList;
}

/// Names and display colours of the classes, by index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassList {
    /// Names.
    pub names: Vec<String>,
    /// RGB colours, as many as names.
    pub palette: Vec<[u8; 3]>,
}

impl ClassList {
    /// From names with colours.
    pub fn new(classes: impl IntoIterator<Item = (String, [u8; 3])>) -> Self {
        let (names, palette) = classes.into_iter().unzip();
        Self { names, palette }
    }

    /// From names, with colours that are easy to tell apart.
    pub fn named(names: impl IntoIterator<Item = String>) -> Self {
        Self::new(names.into_iter().enumerate().map(|(index, name)| (name, distinct_colour(index))))
    }

    /// `count` classes called "class 0" and so on.
    pub fn numbered(count: usize) -> Self {
        Self::named((0..count).map(|index| format!("class {index}")))
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no class.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Reads a class list: a table with a head line that has a column `Name` and possibly `R`, `G`, `B` (comma or tab separated, as
    /// ADE20K's objectInfo files), or simply one name a line. Of several synonyms the first counts.
    ///
    /// # Errors
    /// When the file cannot be read, has no class, a line without a name, or a colour that is no number from 0 to 255.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let text = std::fs::read_to_string(path).map_err(|source| DataError::io(path, source))?;
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let fail = |line: usize, message: String| DataError::layout(path, format!("line {}: {message}", line + 1));
        let Some((first_number, first)) = lines.next() else { return Err(DataError::layout(path, "the class list is empty")) };
        let separator = if first.contains('\t') { '\t' } else { ',' };
        let head: Vec<String> = first.split(separator).map(|field| field.trim().to_lowercase()).collect();
        let column = |name: &str| head.iter().position(|field| field == name);
        let Some(name_column) = column("name") else {
            let names = std::iter::once((first_number, first)).chain(lines).map(|(_, line)| synonym(line).to_owned());
            return Self::named(names).checked(path);
        };
        let colours = [column("r"), column("g"), column("b")];
        let mut classes = Vec::new();
        for (number, line) in lines {
            // The name may contain the separator ("building, edifice"), so it takes what is left when it is the last column.
            let fields: Vec<&str> = line.splitn(head.len(), separator).map(str::trim).collect();
            let name = fields.get(name_column).map(|name| synonym(name)).filter(|name| !name.is_empty());
            let Some(name) = name else { return Err(fail(number, "no name".into())) };
            let colour = match colours {
                [Some(r), Some(g), Some(b)] => {
                    let mut colour = [0; 3];
                    for (value, index) in colour.iter_mut().zip([r, g, b]) {
                        let field = fields.get(index).copied().unwrap_or_default();
                        *value = field.parse().map_err(|_| fail(number, format!("`{field}` is no colour value from 0 to 255")))?;
                    }
                    colour
                }
                _ => distinct_colour(classes.len()),
            };
            classes.push((name.to_owned(), colour));
        }
        Self::new(classes).checked(path)
    }

    /// The list, if label maps can tell its classes apart.
    fn checked(self, path: &Path) -> Result<Self, DataError> {
        match self.len() {
            0 => Err(DataError::layout(path, "the class list has a head line but no class")),
            count if count > usize::from(IGNORE_LABEL) => {
                Err(DataError::layout(path, format!("{count} classes; label maps of 8 bits hold 255 and the ignored label")))
            }
            _ => Ok(self),
        }
    }
}

/// The first of several synonyms.
fn synonym(names: &str) -> &str {
    names.split([',', ';']).next().unwrap_or(names).trim().trim_matches('"')
}

/// A colour for a class: bits of the index spread over the high bits of the channels, as PASCAL VOC's colour map does, begun at 1 so that
/// the first class is not black.
fn distinct_colour(index: usize) -> [u8; 3] {
    let mut colour = [0_u8; 3];
    let mut rest = index + 1;
    for shift in (0..8).rev() {
        for channel in &mut colour {
            *channel |= ((rest & 1) as u8) << shift;
            rest >>= 1;
        }
    }
    colour
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ClassList, DataError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        ClassList::read(file.path())
    }

    #[test]
    fn class_lists_of_all_layouts_are_read() {
        let camvid = read("Idx,Name,R,G,B\n1,sky,128,128,128\n2,building,128,0,0\n").unwrap();
        assert_eq!((camvid.names, camvid.palette), (vec!["sky".into(), "building".into()], vec![[128; 3], [128, 0, 0]]));
        let ade = read("Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t5\t6\twall\n2\t0.1\t5\t6\tbuilding, edifice\n").unwrap();
        assert_eq!(ade.names, ["wall", "building"]);
        let coco = read("Idx,CocoId,IsThing,Name\n1,1,1,person\n").unwrap();
        assert_eq!(coco.names, ["person"]);
        assert_eq!(read("cat\ndog\n\n").unwrap().names, ["cat", "dog"]);
    }

    #[test]
    fn broken_class_lists_name_the_line() {
        for (text, part) in
            [("", "empty"), ("Idx,Name\n", "no class"), ("Idx,Name,R,G,B\n1,sky,300,0,0\n", "line 2"), ("Name,R\n,1\n", "line 2")]
        {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn colours_differ() {
        let palette = ClassList::numbered(150).palette;
        let different: std::collections::BTreeSet<_> = palette.iter().collect();
        assert_eq!(different.len(), 150);
    }
}
