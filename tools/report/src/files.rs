//! Results of programs: every file is complete or absent, never half written, and on the disk.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat};
use vision_datasets::photos::marked_as_written;

use crate::error::ReportError;

/// Encodes a picture as PNG and writes the file atomically.
///
/// # Errors
/// When the path does not end with `.png`, or the file cannot be written.
pub fn write_picture(path: &Path, picture: &DynamicImage) -> Result<(), ReportError> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).map_err(|reason| ReportError::Picture { path: path.to_owned(), reason })?;
    write_png(path, bytes.into_inner())
}

/// Writes the bytes of a PNG atomically, with the mark by which data sets tell it from a photo.
///
/// # Errors
/// When the path does not end with `.png`, or the file cannot be written.
pub fn write_png(path: &Path, png: Vec<u8>) -> Result<(), ReportError> {
    check_picture(path)?;
    write_whole(path, &marked_as_written(png))
}

/// Refuses the name of a picture that does not end with `.png`, before it is drawn.
///
/// # Errors
/// [`ReportError::PictureName`].
pub fn check_picture(path: &Path) -> Result<(), ReportError> {
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("png") => Ok(()),
        _ => Err(ReportError::PictureName { path: path.to_owned() }),
    }
}

/// Writes a file atomically, see [`vmamba_files::write`].
///
/// # Errors
/// When the file cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    vmamba_files::write(path, bytes).map_err(ReportError::write(path))
}

/// Writes a JSON document atomically: indented, with a line break at its end.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(path: &Path, document: &serde_json::Value) -> Result<(), ReportError> {
    write_whole(path, format!("{document:#}\n").as_bytes())
}

/// Creates a folder and its parents where they are missing.
///
/// # Errors
/// When a folder cannot be created.
pub fn create_folder(path: &Path) -> Result<(), ReportError> {
    std::fs::create_dir_all(path).map_err(ReportError::write(path))
}

#[cfg(test)]
mod tests {
    use vision_datasets::photos::photos_below;

    use super::*;

    #[test]
    fn a_file_is_replaced_atomically_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        for text in ["first and long", "second"] {
            write_whole(&path, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let missing = folder.path().join("none/a.txt");
        let error = write_whole(&missing, b"").unwrap_err();
        assert!(matches!(&error, ReportError::Write { path, .. } if *path == missing), "{error}");
        assert!(error.to_string().contains("none"), "{error}");
    }

    #[test]
    fn pictures_are_png_files_with_the_mark_of_results() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.txt");
        let error = write_picture(&path, &DynamicImage::new_rgb8(2, 2)).unwrap_err();
        assert!(matches!(error, ReportError::PictureName { .. }) && error.to_string().contains("photo.txt"), "{error}");
        assert!(!path.exists());
        write_picture(&folder.path().join("photo.png"), &DynamicImage::new_rgb8(2, 2)).unwrap();
        assert_eq!(photos_below(folder.path()).unwrap().skipped.written, 1);
    }

    #[test]
    fn a_json_document_is_indented_and_ends_with_a_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_json(&path, &serde_json::json!({"a": [1]})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\n  \"a\": [\n    1\n  ]\n}\n");
    }
}
