//! Logs that grow by records: every record is appended whole, or the log stays as it was.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::output::check_kind;

/// A file that grows by records. Its writes are not buffered, so that a reader sees every record and a kill loses none.
#[derive(Debug)]
pub struct AppendLog {
    path: PathBuf,
    file: File,
}

impl AppendLog {
    /// Opens a log, which is created where it is missing.
    ///
    /// # Errors
    /// When the file cannot be opened for writing, or is a folder, pipe, socket or device.
    pub fn open(path: &Path) -> io::Result<Self> {
        check_kind(path)?;
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Creates a log that does not exist yet.
    ///
    /// # Errors
    /// When the file exists or cannot be created.
    pub fn create_new(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create_new(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a record. After an error, for instance on a full disk, what was written of it is removed again.
    ///
    /// # Errors
    /// When the record cannot be written whole.
    pub fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        // The first error is the one to report.
        self.file.write_all(record).inspect_err(|_| drop(self.file.set_len(before)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_appended_to_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        AppendLog::create_new(&path).unwrap().append(b"a\n").unwrap();
        assert_eq!(AppendLog::create_new(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let mut log = AppendLog::open(&path).unwrap();
        log.append(b"b\n").unwrap();
        log.append(b"c\n").unwrap();
        assert_eq!((log.path(), std::fs::read_to_string(&path).unwrap().as_str()), (path.as_path(), "a\nb\nc\n"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_record_that_does_not_fit_on_the_disk_is_an_error() {
        let path = Path::new("/dev/full");
        let mut log = AppendLog { path: path.to_owned(), file: OpenOptions::new().append(true).open(path).unwrap() };
        assert_eq!(log.append(b"a").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(AppendLog::open(path).unwrap_err().to_string(), "it is a device, not a file");
    }
}
