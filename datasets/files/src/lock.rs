//! Locks of folders, so that two programs do not write into one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use crate::input::Refusal;

/// Holds a folder for one program until it is dropped or the process ends, however it ends.
#[derive(Debug)]
#[must_use = "the folder is locked until this value is dropped"]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Name of the file that is locked. It stays in the folder: to delete it while another program waits would leave that one without a lock.
    pub const FILE: &str = ".lock";

    /// Locks a folder.
    ///
    /// On a file system without locks the folder is not locked, because a run there is better than none.
    ///
    /// # Errors
    /// [`Refusal::Locked`] where another program has the folder, and those of the operating system.
    pub fn acquire(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(Self::FILE))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Refusal::Locked.into()),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(Self { _file: file }),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_until_the_lock_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        let error = FolderLock::acquire(folder.path()).unwrap_err();
        assert_eq!(error.get_ref().and_then(|inner| inner.downcast_ref()), Some(&Refusal::Locked));
        drop(lock);
        drop(FolderLock::acquire(folder.path()).unwrap());
    }
}
