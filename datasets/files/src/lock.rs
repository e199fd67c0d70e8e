//! Locks of folders, so that two programs do not write into one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::input::Refusal;
use crate::output::{check_kind, remove_stale, temporary_file};

/// Holds a folder for one program until it is dropped or the process ends, however it ends.
#[derive(Debug)]
#[must_use = "the folder is locked until this value is dropped"]
pub struct FolderLock {
    file: File,
    path: PathBuf,
}

impl FolderLock {
    /// Name of the file that is locked. It is removed with the lock; a killed program leaves it, unlocked.
    pub const FILE: &str = ".lock";

    /// Locks a folder, and removes the temporary files that killed programs have left in it.
    ///
    /// On a file system without locks the folder is not locked, because a run there is better than none.
    ///
    /// # Errors
    /// [`Refusal::Locked`] where another program has the folder, and those of the operating system; also when no file can be created in it.
    pub fn acquire(folder: &Path) -> io::Result<Self> {
        let path = folder.join(Self::FILE);
        check_kind(&path)?;
        let lock = loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            match file.try_lock() {
                Ok(()) => (),
                Err(TryLockError::WouldBlock) => return Err(Refusal::Locked.into()),
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => (),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let lock = Self { file, path: path.clone() };
            // Between opening and locking, the holder before may have removed the file: a lock on it would keep nobody out.
            if lock.is_in_place() {
                break lock;
            }
        };
        remove_stale(folder);
        // The lock file may have been there: a folder that cannot be written to is an error now, not after the first hour.
        drop(temporary_file(folder)?);
        Ok(lock)
    }

    /// Whether another program has locked a folder. Nothing is created in it.
    pub fn is_held(folder: &Path) -> bool {
        let path = folder.join(Self::FILE);
        let file = check_kind(&path).ok().and_then(|()| File::open(&path).ok());
        file.is_some_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Whether the path still leads to the locked file.
    #[cfg(unix)]
    fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let of_path = std::fs::symlink_metadata(&self.path).map(|data| (data.dev(), data.ino()));
        let of_file = self.file.metadata().map(|data| (data.dev(), data.ino()));
        matches!((of_path, of_file), (Ok(a), Ok(b)) if a == b)
    }

    /// Elsewhere the file is not removed.
    #[cfg(not(unix))]
    fn is_in_place(&self) -> bool {
        self.file.metadata().is_ok()
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Still locked: no other program holds it.
        if cfg!(unix) && self.is_in_place() {
            drop(std::fs::remove_file(&self.path));
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
        assert!(FolderLock::is_held(folder.path()));
        let error = FolderLock::acquire(folder.path()).unwrap_err();
        assert_eq!(error.get_ref().and_then(|inner| inner.downcast_ref()), Some(&Refusal::Locked));
        drop(lock);
        assert!(!FolderLock::is_held(folder.path()));
        if cfg!(unix) {
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays");
        }
        // A killed program leaves the file.
        std::fs::write(folder.path().join(FolderLock::FILE), "").unwrap();
        drop(FolderLock::acquire(folder.path()).unwrap());
    }

    #[test]
    #[cfg(unix)]
    fn a_lock_on_a_file_that_is_gone_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(folder.path()).unwrap();
        std::fs::remove_file(folder.path().join(FolderLock::FILE)).unwrap();
        assert!(!lock.is_in_place());
        let next = FolderLock::acquire(folder.path()).unwrap();
        drop(lock);
        assert!(next.is_in_place(), "the lock of another one is not removed");
    }
}
