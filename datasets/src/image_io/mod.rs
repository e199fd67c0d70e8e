//! Image and label map files: the one place that decodes images of users.
//!
//! Photos are decoded to 8-bit RGB as OpenCV's `imread` does for mmsegmentation and mmdetection, with their EXIF orientation applied: JPEGs
//! bit by bit as libjpeg-turbo, 16-bit levels by OpenCV's rule of each format, without the transparency. Label maps are never converted:
//! the numbers in the file are the labels, so a palette PNG gives its indices.
//!
//! The size that a file claims is compared with [`max_pixels`] before anything of that size is allocated, and a decoder that panics is an
//! error of its file.

mod jpeg;
mod labels;
mod limits;
mod raster;

use std::path::Path;

use image::RgbImage;
use image::metadata::Orientation;

use crate::error::DataError;

pub use labels::read_labels;
pub use limits::{max_pixels, set_max_pixels};

/// Extensions of image files.
pub const IMAGE_ENDINGS: [&str; 7] = ["jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp"];

/// What to do with the orientation that a camera has stored in a photo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExifOrientation {
    /// Turn the photo upright, as `cv2.imread` and mmcv do.
    #[default]
    Applied,
    /// Keep the pixels as they are stored, as Pillow and `cv2.IMREAD_IGNORE_ORIENTATION` do.
    Ignored,
}

impl ExifOrientation {
    /// [`ExifOrientation::Ignored`] for true.
    pub fn ignored_if(ignore: bool) -> Self {
        if ignore { Self::Ignored } else { Self::Applied }
    }

    /// What to do about annotations that fit the other reading.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Applied => {
                "the annotations fit the photo without its EXIF orientation: set data.source.ignore_exif = true (check_data: --ignore-exif)"
            }
            Self::Ignored => {
                "the annotations fit the photo with its EXIF orientation: set data.source.ignore_exif = false (check_data: no --ignore-exif)"
            }
        }
    }
}

/// Reads a photo as 8-bit RGB and applies its EXIF orientation. Transparency is dropped, grey becomes three equal channels.
///
/// # Errors
/// When the file cannot be read, is not a supported image, is damaged, or claims more than [`max_pixels`]. A truncated JPEG is an error,
/// although decoders fill the missing part with grey, and so are float channels, which have no known range.
pub fn read_rgb(path: &Path) -> Result<RgbImage, DataError> {
    read_photo(path, ExifOrientation::Applied)
}

/// As [`read_rgb`], with a choice for the EXIF orientation.
///
/// # Errors
/// As [`read_rgb`].
pub fn read_photo(path: &Path, exif: ExifOrientation) -> Result<RgbImage, DataError> {
    let bytes = read(path)?;
    let Stored { image, orientation } = guarded(path, || if is_jpeg(&bytes) { jpeg::decode(&bytes) } else { raster::decode(&bytes) })?;
    if exif == ExifOrientation::Ignored || orientation == Orientation::NoTransforms {
        return Ok(image);
    }
    let mut image = image::DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// The size of a photo as it is stored, and the orientation that its EXIF data name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhotoHeader {
    /// `[height, width]` of the stored pixels.
    pub size: [usize; 2],
    /// How to turn them upright.
    pub orientation: Orientation,
}

impl PhotoHeader {
    /// Reads the header of a photo.
    ///
    /// # Errors
    /// As [`read_rgb`], without damage in the pixels.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let bytes = read(path)?;
        guarded(path, || if is_jpeg(&bytes) { jpeg::header(&bytes) } else { raster::header(&bytes) })
    }

    /// Whether annotations for images of `annotated`, `[height, width]`, do not fit the photo as it is read with `exif`, but would fit if it
    /// were read the other way.
    pub fn fits_other_reading(&self, exif: ExifOrientation, annotated: [usize; 2]) -> bool {
        let (read, other) = match exif {
            ExifOrientation::Applied => (self.upright_size(), self.size),
            ExifOrientation::Ignored => (self.size, self.upright_size()),
        };
        read != annotated && other == annotated
    }

    /// Whether the photo is turned or mirrored, but has the same size afterwards, so that a size does not say for which of the two photos
    /// annotations were made.
    pub fn is_turned_unseen(&self) -> bool {
        self.orientation != Orientation::NoTransforms && self.size == self.upright_size()
    }

    /// `[height, width]` of the upright photo.
    pub fn upright_size(&self) -> [usize; 2] {
        let [height, width] = self.size;
        match self.orientation {
            Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => [width, height],
            Orientation::NoTransforms | Orientation::Rotate180 | Orientation::FlipHorizontal | Orientation::FlipVertical => self.size,
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    let bytes = vmamba_files::read(path).map_err(|source| DataError::io(path, source))?;
    if bytes.is_empty() {
        return Err(DataError::Image { path: path.to_owned(), message: "the file is empty".to_owned() });
    }
    Ok(bytes)
}

fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8])
}

/// A decoded photo before its orientation is applied.
struct Stored {
    image: RgbImage,
    orientation: Orientation,
}

/// Why bytes are not a usable image.
enum Problem {
    /// The image claims this `[height, width]`, which is too large.
    TooLarge([usize; 2]),
    /// The image of this `[height, width]` needs more bytes than are free.
    OutOfMemory { size: [usize; 2], needed: u64, free: u64 },
    /// A sentence.
    Message(String),
}

impl Problem {
    fn message(text: impl ToString) -> Self {
        Self::Message(text.to_string())
    }

    fn at(self, path: &Path) -> DataError {
        match self {
            Self::TooLarge(size) => DataError::TooLarge { path: path.to_owned(), size, limit: max_pixels() },
            Self::OutOfMemory { size, needed, free } => DataError::OutOfMemory { path: path.to_owned(), size, needed, free },
            Self::Message(message) => DataError::Image { path: path.to_owned(), message },
        }
    }
}

/// Runs a decoder, with its problems and its panics as errors that name the file.
fn guarded<T>(path: &Path, decode: impl FnOnce() -> Result<T, Problem>) -> Result<T, DataError> {
    let decoded = vmamba_panics::catch_on_this_thread(decode)
        .unwrap_or_else(|panic| Err(Problem::Message(format!("the image is damaged: its decoder gave up ({panic})"))));
    decoded.map_err(|problem| problem.at(path))
}

#[cfg(test)]
pub(crate) mod tests;
