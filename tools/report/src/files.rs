//! Files that are written whole or not at all.

use std::io::{Cursor, Write};
use std::path::Path;

use anyhow::{Context, Result};
use image::{DynamicImage, ImageFormat};

/// Encodes a picture in the format of the file's extension, and writes the file whole.
///
/// # Errors
/// When the extension is of no picture format, or the file cannot be written; names it.
pub fn write_picture(path: &Path, picture: &DynamicImage) -> Result<()> {
    let encode = || -> Result<Vec<u8>> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::from_path(path)?)?;
        Ok(bytes.into_inner())
    };
    write_whole(path, &encode().with_context(|| format!("cannot write the picture {}", path.display()))?)
}

/// Writes a file through a temporary one beside it, so a stopped program leaves the old file or the new one.
///
/// # Errors
/// When the file cannot be written; names it.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let written = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Temporary files are private by default; this one has the mode of any new file.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        for text in ["first and long", "second"] {
            write_whole(&path, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let nowhere = folder.path().join("none/a.txt");
        assert!(format!("{:#}", write_whole(&nowhere, b"").unwrap_err()).contains("none"));
    }
}
