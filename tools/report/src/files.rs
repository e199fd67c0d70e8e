//! Results of programs: every file is complete or absent, never half written, and on the disk.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat};

use crate::error::ReportError;

/// Encodes a picture in the format of the path's extension and writes the file atomically.
///
/// # Errors
/// When the extension names no picture format, or the file cannot be written.
pub fn write_picture(path: &Path, picture: &DynamicImage) -> Result<(), ReportError> {
    write_whole(path, &encode(path, picture)?)
}

/// Checks, before a picture is drawn, that it can be encoded in the format of the path's extension.
///
/// # Errors
/// When the extension names no picture format.
pub fn check_picture(path: &Path) -> Result<(), ReportError> {
    encode(path, &DynamicImage::new_rgb8(1, 1)).map(drop)
}

fn encode(path: &Path, picture: &DynamicImage) -> Result<Vec<u8>, ReportError> {
    let mut bytes = Cursor::new(Vec::new());
    let encoded = ImageFormat::from_path(path).and_then(|format| picture.write_to(&mut bytes, format));
    encoded.map_err(|reason| ReportError::Picture { path: path.to_owned(), reason })?;
    Ok(bytes.into_inner())
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
    fn a_picture_needs_an_extension_that_names_a_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.txt");
        let error = write_picture(&path, &DynamicImage::new_rgb8(2, 2)).unwrap_err();
        assert!(matches!(error, ReportError::Picture { .. }) && error.to_string().contains("photo.txt"), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn a_json_document_is_indented_and_ends_with_a_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_json(&path, &serde_json::json!({"a": [1]})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\n  \"a\": [\n    1\n  ]\n}\n");
    }
}
