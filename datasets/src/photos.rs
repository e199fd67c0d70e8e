//! Decides which files of a folder are photos of a data set, for training, checks, tests and predictions alike.
//!
//! A photo has the extension of an image format. Two kinds of such files are skipped:
//!
//! * hidden files: macOS writes a `._photo.jpg`, which is no image, beside every file that it copies to another file system;
//! * pictures that the programs of this toolkit have written: overlays, label maps, figures. They carry a mark in the file, so that no photo
//!   is taken for one because of its name.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::folders::{Listing, file_name, files_below, has_ending};
use crate::image_io::IMAGE_ENDINGS;

/// The bytes of a PNG before its second chunk: the signature and the chunk `IHDR`.
const HEADER: usize = 33;

/// The mark of a picture that a program of this toolkit has written: a PNG chunk `tEXt` with the keyword `Software`, behind `IHDR`.
const MARK: &[u8; 35] = b"\x00\x00\x00\x17tEXtSoftware\0vmamba-toolkit\xa1\xaa\x55\xa5";

/// Adds the mark of a written picture to the bytes of a PNG, so that [`photos_below`] takes it for no photo.
#[must_use]
pub fn marked_as_written(mut png: Vec<u8>) -> Vec<u8> {
    if png.len() >= HEADER {
        png.splice(HEADER..HEADER, *MARK);
    }
    png
}

/// Whether a file is a picture that a program of this toolkit has written.
fn is_written(path: &Path) -> bool {
    let mut head = [0; HEADER + MARK.len()];
    // A file that cannot be read is named by the reader of photos.
    has_ending(path, &["png"]) && vmamba_files::read_head(path, &mut head).is_ok() && head.ends_with(MARK)
}

/// Whether a file has the name of a photo: the ending of an image, and not hidden.
pub fn has_photo_name(path: &Path) -> bool {
    has_ending(path, &IMAGE_ENDINGS) && !file_name(path).starts_with('.')
}

/// Images that are no photos of a data set, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Hidden files.
    pub hidden: usize,
    /// Pictures that programs of this toolkit have written.
    pub written: usize,
}

impl Skipped {
    /// Whether nothing was skipped.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A sentence with the number of skipped images, or `None` if there are none.
    pub fn note(&self, place: impl fmt::Display) -> Option<String> {
        (!self.is_empty()).then(|| format!("{place}: {self}"))
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.hidden, "hidden"), (self.written, "written by this toolkit")];
        let parts: Vec<String> = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        write!(f, "skipped images that are no photos: {}", parts.join(", "))
    }
}

impl std::ops::AddAssign for Skipped {
    fn add_assign(&mut self, other: Self) {
        self.hidden += other.hidden;
        self.written += other.written;
    }
}

/// The photos among files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Photos {
    /// Their paths, in the order of the files.
    pub files: Vec<PathBuf>,
    /// Images that were skipped.
    pub skipped: Skipped,
}

/// The photos among `files`. Files with other endings are left out.
pub fn photos_among(files: impl IntoIterator<Item = PathBuf>) -> Photos {
    let mut photos = Photos::default();
    for path in files.into_iter().filter(|path| has_ending(path, &IMAGE_ENDINGS)) {
        if !has_photo_name(&path) {
            photos.skipped.hidden += 1;
        } else if is_written(&path) {
            photos.skipped.written += 1;
        } else {
            photos.files.push(path);
        }
    }
    photos
}

/// The photos in and below a folder, sorted, those of a folder before those of its subfolders. Hidden folders are not entered.
///
/// # Errors
/// When a folder cannot be read, or folders are nested more than 8 deep.
pub fn photos_below(folder: &Path) -> Result<Photos, DataError> {
    let Listing { files, hidden } = files_below(folder)?;
    Ok(photos_among(files.into_iter().chain(hidden)))
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::image_io::read_rgb;

    /// A PNG of one colour.
    fn png(level: u8) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        RgbImage::from_pixel(3, 2, image::Rgb([level; 3])).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn hidden_files_and_own_results_are_no_photos() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("deep/.git")).unwrap();
        for name in ["b_overlay.png", "a.jpg", "deep/c.PNG", "._a.jpg", "deep/.d.png", "deep/.git/e.png", "notes.txt"] {
            std::fs::write(root.join(name), png(9)).unwrap();
        }
        for name in ["a_overlay.png", "deep/anything.png"] {
            std::fs::write(root.join(name), marked_as_written(png(9))).unwrap();
        }
        let photos = photos_below(root).unwrap();
        let names: Vec<String> = photos.files.iter().map(|path| path.strip_prefix(root).unwrap().display().to_string()).collect();
        // A name alone makes no result.
        assert_eq!(names, ["a.jpg", "b_overlay.png", "deep/c.PNG"]);
        assert_eq!(photos.skipped, Skipped { hidden: 2, written: 2 });
        assert_eq!(photos.skipped.note("x").as_deref(), Some("x: skipped images that are no photos: 2 hidden, 2 written by this toolkit"));
        assert_eq!(Skipped::default().note("x"), None);
    }

    #[test]
    fn a_marked_picture_is_a_valid_png_with_the_same_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        std::fs::write(&path, marked_as_written(png(77))).unwrap();
        assert_eq!(read_rgb(&path).unwrap(), RgbImage::from_pixel(3, 2, image::Rgb([77; 3])));
        let mut decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).unwrap()));
        // The checksum of the mark is right.
        decoder.set_ignore_text_chunk(false);
        let reader = decoder.read_info().unwrap();
        let text = &reader.info().uncompressed_latin1_text;
        assert_eq!((text[0].keyword.as_str(), text[0].text.as_str()), ("Software", "vmamba-toolkit"));
    }
}
