//! Files of data sets. An exported file is complete or absent. No file that is read is an output.

use std::io::{self, Cursor, Write};
use std::path::Path;

use image::{ImageBuffer, ImageFormat, PixelWithColorType};
use vmamba_files::Durability;

use crate::error::DataError;

/// Writes a file atomically, see [`vmamba_files::write_with`].
///
/// Nothing is synced to the disk, which would slow down the export of thousands of images: after a power failure, write the files again.
pub(crate) fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), DataError> {
    vmamba_files::write_with(path, Durability::Cached, write).map_err(|reason| DataError::io(path, reason))
}

/// Checks, before any of these files is read, that none is an output of this process, see [`vmamba_files::check_inputs`].
pub(crate) fn check_inputs<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<(), DataError> {
    vmamba_files::check_inputs(paths).map_err(|(path, refusal)| DataError::io(&path, refusal.into()))
}

/// Encodes an image as PNG and writes it atomically.
pub(crate) fn write_png<P: PixelWithColorType<Subpixel = u8>>(path: &Path, image: &ImageBuffer<P, Vec<u8>>) -> Result<(), DataError> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).map_err(|reason| DataError::image(path, reason))?;
    write_whole(path, |file| file.write_all(bytes.get_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for text in ["first and long", "second"] {
            write_whole(&path, |file| file.write_all(text.as_bytes())).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let failing = |file: &mut dyn Write| {
            file.write_all(b"half")?;
            Err(io::Error::other("the disk is full"))
        };
        let error = write_whole(&path, failing).unwrap_err().to_string();
        assert!(error.contains("a.json") && error.contains("the disk is full"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let missing = folder.path().join("none/a.json");
        assert!(write_whole(&missing, |_| Ok(())).unwrap_err().to_string().contains("none/a.json"));
    }
}
