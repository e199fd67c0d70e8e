//! Opening files that a user names: regular files only.
//!
//! A FIFO without a writer would block for ever, a device such as `/dev/zero` never ends, and a folder fails at the first read with a message
//! that does not name the mistake.

use std::fmt;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use crate::ledger::record_open;
use crate::text::decode;

/// What a path leads to, if not to a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A folder.
    Folder,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character or block device.
    Device,
    /// Anything else that the system knows.
    Other,
}

impl FileKind {
    /// The kind of a file that is not regular.
    pub(crate) fn of(kind: FileType) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::FileTypeExt;
            if kind.is_fifo() {
                return Self::Fifo;
            }
            if kind.is_socket() {
                return Self::Socket;
            }
            if kind.is_char_device() || kind.is_block_device() {
                return Self::Device;
            }
        }
        if kind.is_dir() { Self::Folder } else { Self::Other }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Folder => "a folder",
            Self::Fifo => "a named pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Other => "a special file",
        })
    }
}

/// Why this crate refuses a path, beside the errors of the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The path does not lead to a regular file.
    #[error("it is {0}, not a file")]
    NotAFile(FileKind),
    /// The text is neither UTF-8 nor UTF-16 with a byte order mark.
    #[error("it is not text in UTF-8: byte {0} is invalid")]
    NotText(usize),
    /// The text begins with the byte order mark of UTF-16, but is not UTF-16.
    #[error("it begins as UTF-16 text, but is none")]
    NotUtf16,
    /// Another process works in the folder.
    #[error("the folder is in use by another run; wait for its end, or name another folder")]
    Locked,
    /// This process writes the file, which the option names, later.
    #[error("{0} would overwrite this input: both are the same file; name another output")]
    IsOutput(&'static str),
    /// This process writes into the folder of the file, which the option names, later.
    #[error("{0} would write its results into the folder of this input; name another folder")]
    InOutputFolder(&'static str),
    /// This process writes the file already, for the option.
    #[error("it is also the file of {0}; name another file")]
    OutputTwice(&'static str),
    /// This process has read the file.
    #[error("it is an input of this command, so it is not overwritten; name another output")]
    IsInput,
    /// A file is mounted at the path, as containers do.
    #[error("a file is mounted there, and a mount cannot be replaced; mount its folder, or name another file")]
    Mounted,
    /// This process prints into the file.
    #[error("it is standard output or standard error, where this program prints; name another file")]
    Stream,
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::NotAFile(FileKind::Folder) => io::ErrorKind::IsADirectory,
            Refusal::NotAFile(_)
            | Refusal::IsOutput(_)
            | Refusal::InOutputFolder(_)
            | Refusal::OutputTwice(_)
            | Refusal::IsInput
            | Refusal::Mounted
            | Refusal::Stream => io::ErrorKind::InvalidInput,
            Refusal::NotText(_) | Refusal::NotUtf16 => io::ErrorKind::InvalidData,
            Refusal::Locked => io::ErrorKind::WouldBlock,
        };
        Self::new(kind, refusal)
    }
}

/// Opens a regular file for reading. Symbolic links are followed.
///
/// # Errors
/// Those of the operating system, [`Refusal::NotAFile`] for folders, pipes, sockets and devices, without waiting for them, and
/// [`Refusal::IsOutput`] for a file that this process has [reserved](crate::reserve).
pub fn open(path: &Path) -> io::Result<File> {
    let (file, data) = open_regular(path)?;
    record_open(path, &data)?;
    Ok(file)
}

/// Fills `head` with the first bytes of a regular file, to tell what the file is. Such a file is not an input of the process, so a later write
/// may replace it, and it may be [reserved](crate::reserve) already.
///
/// # Errors
/// Those of the operating system, also for a file that is shorter than `head`, and [`Refusal::NotAFile`].
pub fn read_head(path: &Path, head: &mut [u8]) -> io::Result<()> {
    open_regular(path)?.0.read_exact(head)
}

fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let refuse = |kind: FileType| if kind.is_file() { Ok(()) } else { Err(Refusal::NotAFile(FileKind::of(kind))) };
    // Opening a device may have effects, for instance rewind a tape.
    refuse(std::fs::metadata(path)?.file_type())?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A FIFO that has taken the file's place since then must not block. For regular files, the flag has no effect.
        options.custom_flags(libc::O_NONBLOCK);
    }
    let file = options.open(path)?;
    let data = file.metadata()?;
    refuse(data.file_type())?;
    Ok((file, data))
}

/// Reads a whole regular file.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    let size = file.metadata().map_or(0, |data| usize::try_from(data.len()).unwrap_or(0));
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a whole text file: UTF-8 with or without a byte order mark, or UTF-16 with one. The mark is no part of the text.
///
/// # Errors
/// As [`open`], and [`Refusal::NotText`] or [`Refusal::NotUtf16`].
pub fn read_text(path: &Path) -> io::Result<String> {
    Ok(decode(read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(error: &io::Error) -> Option<Refusal> {
        error.get_ref()?.downcast_ref().copied()
    }

    #[test]
    fn a_regular_file_is_read_and_a_link_to_it_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(read(&path).unwrap(), b"text");
        #[cfg(unix)]
        {
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(&path, &link).unwrap();
            assert_eq!(read_text(&link).unwrap(), "text");
        }
        assert_eq!(read(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_folder_is_refused_as_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let error = open(folder.path()).unwrap_err();
        assert_eq!(refusal(&error), Some(Refusal::NotAFile(FileKind::Folder)));
        assert_eq!(error.to_string(), "it is a folder, not a file");
    }

    #[test]
    #[cfg(unix)]
    fn a_pipe_a_socket_and_a_device_are_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, kind) in
            [(pipe.as_path(), FileKind::Fifo), (socket.as_path(), FileKind::Socket), (Path::new("/dev/zero"), FileKind::Device)]
        {
            assert_eq!(refusal(&read(path).unwrap_err()), Some(Refusal::NotAFile(kind)), "{}", path.display());
        }
    }
}
