//! Atomic writes: a file is complete or absent, never half written.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::NamedTempFile;

use crate::input::{FileKind, Refusal};
use crate::ledger::is_input;

/// How the names of temporary files begin.
const TEMPORARY: &str = ".saving-";

/// Whether a file must survive a power failure as soon as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// File and rename are synced to the disk.
    Synced,
    /// Nothing is synced: the file survives the end of the program, but perhaps not a power failure. For thousands of files that can be
    /// written again.
    Cached,
}

/// Writes a file atomically and syncs it to the disk, see [`write_with`].
///
/// # Errors
/// As [`write_with`].
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, Durability::Synced, |file| file.write_all(bytes))
}

/// Writes a file atomically: `content` fills a temporary file in the same folder, which is then renamed to `path`. After an error or a kill
/// at any moment, `path` is the old file or the whole new one.
///
/// A symbolic link is followed, and stays. Temporary files that killed programs have left in the folder are removed.
///
/// `content` must not hide errors: an encoder that buffers must be flushed, or must encode into memory first.
///
/// # Errors
/// Those of the operating system and of `content`, [`Refusal::NotAFile`] where `path` is a folder, pipe, socket or device, without waiting for a
/// reader, and [`Refusal::IsInput`] where a program has read the file that it would replace. The old file is unchanged and no temporary file is
/// left.
pub fn write_with(path: &Path, durability: Durability, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    check_kind(path)?;
    if is_input(path) {
        return Err(Refusal::IsInput.into());
    }
    let real = target(path)?;
    let folder = folder_of(&real);
    clean_once(folder);
    let file = temporary_file(folder)?;
    // The inner file: errors of `NamedTempFile` name the temporary file, which means nothing to a user.
    let mut buffered = BufWriter::new(file.as_file());
    content(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    if durability == Durability::Synced {
        file.as_file().sync_all()?;
    }
    file.persist(&real).map_err(|error| error.error)?;
    if durability == Durability::Synced { sync_folder(folder) } else { Ok(()) }
}

/// Refuses a path that exists and is no regular file: a rename would destroy a pipe or a device, and a pipe waits for its reader.
pub(crate) fn check_kind(path: &Path) -> Result<(), Refusal> {
    match std::fs::metadata(path) {
        Ok(data) if !data.is_file() => Err(Refusal::NotAFile(FileKind::of(data.file_type()))),
        _ => Ok(()),
    }
}

/// The file that a rename replaces: that to which a link leads, not the link.
pub(crate) fn target(path: &Path) -> io::Result<PathBuf> {
    if path.is_symlink() { std::fs::canonicalize(path) } else { Ok(path.to_owned()) }
}

/// The folder of a file.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A temporary file that this process has locked, so that [`remove_stale`] of another one leaves it alone.
pub(crate) fn temporary_file(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are private by default; the result has the mode of any new file.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    loop {
        let file = builder.tempfile_in(folder).map_err(|error| {
            // Name the folder: the random name of the temporary file would not help.
            io::Error::new(error.kind(), format!("cannot create a file in {}: {}", folder.display(), root_cause(&error)))
        })?;
        match file.as_file().lock() {
            // Another process may have removed it before it was locked.
            Ok(()) if !file.path().exists() => (),
            // Without locks in the file system, no process removes files of others.
            Ok(()) | Err(_) => return Ok(file),
        }
    }
}

/// The error of the operating system, without the path of the temporary file that `tempfile` adds at its end.
fn root_cause(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" at path ").next().unwrap_or_default().to_owned()
}

/// Makes a rename durable, on systems where folders can be opened.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Calls [`remove_stale`] for the first write of this process into a folder: a search before each of thousands of files would be slow.
fn clean_once(folder: &Path) {
    static CLEANED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if CLEANED.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned()) {
        remove_stale(folder);
    }
}

/// Removes the temporary files in a folder whose writers have died. Files that are being written stay. What cannot be removed stays as well:
/// it harms nothing but the space on the disk.
pub fn remove_stale(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok) {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            continue;
        }
        // The lock of a process ends with the process.
        let Ok(file) = OpenOptions::new().write(true).open(entry.path()) else { continue };
        if file.try_lock().is_ok() {
            drop(std::fs::remove_file(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_whole_and_a_failed_write_keeps_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for text in ["first and long", "second"] {
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        let failing = |file: &mut dyn Write| {
            file.write_all(b"half")?;
            Err(io::Error::other("the disk is full"))
        };
        for durability in [Durability::Synced, Durability::Cached] {
            assert_eq!(write_with(&path, durability, failing).unwrap_err().to_string(), "the disk is full");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(names(folder.path()), ["a.json"]);
        let error = write(&folder.path().join("none/a.json"), b"").unwrap_err();
        assert!(error.to_string().contains("none") && !error.to_string().contains(TEMPORARY), "{error}");
    }

    #[test]
    fn temporary_files_of_dead_writers_are_removed_and_those_of_living_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let dead = folder.path().join(".saving-dead");
        std::fs::write(&dead, "half a checkpoint").unwrap();
        let alive = temporary_file(folder.path()).unwrap();
        std::fs::write(folder.path().join("saving-notes"), "of the user").unwrap();
        write(&folder.path().join("a"), b"x").unwrap();
        assert!(!dead.exists() && alive.path().exists());
        drop(alive);
        let mut left = names(folder.path());
        left.sort();
        assert_eq!(left, ["a", "saving-notes"]);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_stays_a_link_and_its_target_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pipes_devices_and_folders_are_not_written_to_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        // A link, so that a failure of this test does not cost the machine its device.
        let null = folder.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        for (path, kind) in [(pipe.as_path(), "a named pipe"), (&null, "a device"), (folder.path(), "a folder")] {
            assert_eq!(write(path, b"x").unwrap_err().to_string(), format!("it is {kind}, not a file"));
        }
        assert!(null.is_symlink() && !std::fs::metadata(&pipe).unwrap().is_file());
    }
}
