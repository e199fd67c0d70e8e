//! What this process reads and writes, so that no output replaces an input.
//!
//! A program reserves its outputs before any work: from then on, [`open`](crate::open) refuses to read them. A program that also calls
//! [`protect_inputs`] records the files that it reads, and no write replaces them. Some output names are known only when the result is.
//! Files are compared by device and inode, so that links and other spellings of a path are found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::input::{FileKind, Refusal};
use crate::lock::FolderLock;
use crate::output::{folder_of, target, temporary_file};

static LEDGER: Mutex<Ledger> = Mutex::new(Ledger::new());

fn ledger() -> MutexGuard<'static, Ledger> {
    LEDGER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file under all of its names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    /// Device and inode, on Unix.
    inode: Option<[u64; 2]>,
    /// The canonical path, elsewhere.
    path: Option<PathBuf>,
}

impl Identity {
    #[cfg(unix)]
    fn new(_path: &Path, data: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { inode: Some([data.dev(), data.ino()]), path: None }
    }

    #[cfg(not(unix))]
    fn new(path: &Path, _data: &Metadata) -> Self {
        Self { inode: None, path: Some(std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())) }
    }
}

/// What a process has reserved and read.
struct Ledger {
    /// Whether to remember what is read.
    protects: bool,
    /// Files that were read, with the time of their last change: the inode of a deleted file is used again for a new one.
    read: BTreeMap<Identity, Option<SystemTime>>,
    /// Reserved files that exist, with the option that names them.
    reserved: BTreeMap<Identity, &'static str>,
    /// The paths of all reserved files: a canonical folder and a name.
    paths: BTreeMap<PathBuf, &'static str>,
    /// Folders in which every file may be written.
    folders: BTreeMap<PathBuf, &'static str>,
    /// Files that may be replaced although they were read.
    own: BTreeSet<PathBuf>,
    /// Folders in which a file could be created.
    writable: BTreeSet<PathBuf>,
}

/// A path with a canonical folder; the path itself where the folder does not exist.
fn settled(path: &Path) -> PathBuf {
    match (std::fs::canonicalize(folder_of(path)), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

impl Ledger {
    const fn new() -> Self {
        Self {
            protects: false,
            read: BTreeMap::new(),
            reserved: BTreeMap::new(),
            paths: BTreeMap::new(),
            folders: BTreeMap::new(),
            own: BTreeSet::new(),
            writable: BTreeSet::new(),
        }
    }

    fn reserve(&mut self, role: &'static str, path: &Path) -> io::Result<()> {
        if path == Path::new("-") {
            return Err(Refusal::Stream.into());
        }
        let data = match std::fs::metadata(path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            data => Some(data?),
        };
        if let Some(data) = &data {
            if !data.is_file() {
                return Err(Refusal::NotAFile(FileKind::of(data.file_type())).into());
            }
            if prints_to(path, data) {
                return Err(Refusal::Stream.into());
            }
        }
        let real = target(path)?;
        if real.file_name().is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it names no file"));
        }
        self.check_folder(folder_of(&real))?;
        if data.is_some() && is_mounted(&real) {
            return Err(Refusal::Mounted.into());
        }
        let identity = data.as_ref().map(|data| Identity::new(path, data));
        let other = identity.as_ref().and_then(|identity| self.reserved.get(identity)).or_else(|| self.paths.get(&settled(&real)));
        if let Some(other) = other {
            return Err(Refusal::OutputTwice(other).into());
        }
        if self.is_input(&real) {
            return Err(Refusal::IsInput.into());
        }
        if let Some(identity) = identity {
            self.reserved.insert(identity, role);
        }
        self.paths.insert(settled(&real), role);
        Ok(())
    }

    fn reserve_folder(&mut self, path: &Path) -> io::Result<()> {
        match std::fs::metadata(path) {
            Ok(data) if data.is_dir() => self.check_folder(path),
            Ok(data) => {
                let kind = if data.is_file() { "a file".to_owned() } else { FileKind::of(data.file_type()).to_string() };
                Err(io::Error::new(io::ErrorKind::NotADirectory, format!("it is {kind}, not a folder")))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
                let parents = path.ancestors().skip(1).map(|parent| if parent == Path::new("") { Path::new(".") } else { parent });
                let nearest = parents.into_iter().find(|parent| parent.exists()).unwrap_or(Path::new("."));
                self.check_writable(nearest)
            }
            Err(error) => Err(error),
        }
    }

    /// Checks that a file of this process may be written into a folder.
    fn check_folder(&mut self, folder: &Path) -> io::Result<()> {
        if !folder.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("the folder {} is not there", folder.display())));
        }
        if FolderLock::is_held(folder) {
            return Err(Refusal::Locked.into());
        }
        self.check_writable(folder)
    }

    fn check_writable(&mut self, folder: &Path) -> io::Result<()> {
        if !self.writable.contains(folder) {
            drop(temporary_file(folder)?);
            self.writable.insert(folder.to_owned());
        }
        Ok(())
    }

    /// Records that a file is read.
    fn open(&mut self, path: &Path, data: &Metadata) -> Result<(), Refusal> {
        if self.reserved.is_empty() && !self.protects {
            return Ok(());
        }
        let identity = Identity::new(path, data);
        if let Some(role) = self.reserved.get(&identity) {
            return Err(Refusal::IsOutput(role));
        }
        if self.protects {
            self.read.insert(identity, data.modified().ok());
        }
        Ok(())
    }

    fn is_input(&self, path: &Path) -> bool {
        if self.read.is_empty() {
            return false;
        }
        let Ok(data) = std::fs::metadata(path) else { return false };
        let was_read = self.read.get(&Identity::new(path, &data)).is_some_and(|changed| *changed == data.modified().ok());
        was_read && !self.own.contains(&settled(path))
    }

    fn check_inputs<'a>(&self, paths: impl IntoIterator<Item = &'a Path>) -> Result<(), (PathBuf, Refusal)> {
        if self.reserved.is_empty() && self.folders.is_empty() {
            return Ok(());
        }
        let mut parents: BTreeMap<PathBuf, Option<&'static str>> = BTreeMap::new();
        for path in paths {
            let refused = |role: &&'static str| Err((path.to_owned(), Refusal::IsOutput(role)));
            if !self.reserved.is_empty()
                && let Ok(data) = std::fs::metadata(path)
                && let Some(role) = self.reserved.get(&Identity::new(path, &data))
            {
                return refused(role);
            }
            let of_folder = |folder: &Path| {
                let folder = std::fs::canonicalize(folder).ok()?;
                self.folders.iter().find(|(own, _)| folder.starts_with(own)).map(|(_, role)| *role)
            };
            let folder = folder_of(path);
            if let Some(role) = parents.entry(folder.to_owned()).or_insert_with(|| of_folder(folder)) {
                return Err((path.to_owned(), Refusal::InOutputFolder(role)));
            }
        }
        Ok(())
    }
}

/// Whether this process prints into the file. Elsewhere than on Unix, the file of a stream is not known.
fn prints_to(path: &Path, data: &Metadata) -> bool {
    let own = ["/dev/stdout", "/dev/stderr"].into_iter().filter_map(|stream| std::fs::metadata(stream).ok());
    cfg!(unix) && own.filter(Metadata::is_file).any(|own| Identity::new(path, &own) == Identity::new(path, data))
}

/// Whether a file is mounted at the path: Linux refuses to rename another one over it.
fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    std::fs::canonicalize(path).is_ok_and(|path| mount_points(&mounts).any(|point| Path::new(&point) == path))
}

/// The mount points in the text of `/proc/self/mountinfo`, which writes some characters as octal numbers.
fn mount_points(mounts: &str) -> impl Iterator<Item = String> {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(move |point| escapes.iter().fold(point.to_owned(), |point, (code, character)| point.replace(code, character)))
}

/// Remembers from now on which files this process reads, so that no write of this process replaces them: [`Refusal::IsInput`]. A program calls
/// this at its start. A library does not: its user may load a file, change it and save it again.
pub fn protect_inputs() {
    ledger().protects = true;
}

/// Lets this process replace the file `path` although it reads it, such as the state of a run that goes on.
pub fn may_replace(path: &Path) {
    ledger().own.insert(settled(path));
}

/// Whether this process has read the file, under any name, after [`protect_inputs`], and [may not replace](may_replace) it.
pub fn is_input(path: &Path) -> bool {
    ledger().is_input(path)
}

/// Reserves the file `path`, which the option `role` names, for a later write. It need not exist. From now on, [`open`](crate::open) refuses to
/// read it.
///
/// # Errors
/// When the file could not be written later: its folder is missing or not writable, it is a folder, pipe, socket or device, or the file that
/// this process prints into, another program has locked the folder, the file is reserved already, or this process has read it.
pub fn reserve(role: &'static str, path: &Path) -> io::Result<()> {
    ledger().reserve(role, path)
}

/// Checks that files could be written into the folder `path`, which need not exist. It is not created.
///
/// # Errors
/// When it is a file, it or the nearest folder above it that exists is not writable, or another program has locked it.
pub fn reserve_folder(path: &Path) -> io::Result<()> {
    ledger().reserve_folder(path)
}

/// Reserves a whole folder, which the option `role` names, for results whose names are not known yet: [`check_inputs`] refuses the files in and
/// below it.
pub fn reserve_all_in(role: &'static str, path: &Path) {
    if let Ok(folder) = std::fs::canonicalize(path) {
        ledger().folders.insert(folder, role);
    }
}

/// Checks files that will be read later, such as the images of a data set, so that a conflict is found before any work.
///
/// # Errors
/// The first file that is reserved for a write.
pub fn check_inputs<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<(), (PathBuf, Refusal)> {
    ledger().check_inputs(paths)
}

/// Records that a file is read.
pub(crate) fn record_open(path: &Path, data: &Metadata) -> Result<(), Refusal> {
    ledger().open(path, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new ledger: the tests of a process would share the global one.
    fn ledger() -> Ledger {
        Ledger { protects: true, ..Ledger::new() }
    }

    fn refusal(result: io::Result<()>) -> Option<Refusal> {
        result.unwrap_err().get_ref()?.downcast_ref().copied()
    }

    fn open(ledger: &mut Ledger, path: &Path) -> Result<(), Refusal> {
        ledger.open(path, &std::fs::metadata(path).unwrap())
    }

    #[test]
    fn a_reserved_file_is_not_read_by_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let name = |name: &str| folder.path().join(name);
        std::fs::create_dir(name("inner")).unwrap();
        std::fs::write(name("a"), "x").unwrap();
        std::fs::write(name("b"), "x").unwrap();
        let mut names = vec![name("a"), name("inner/../a")];
        #[cfg(unix)]
        {
            std::fs::hard_link(name("a"), name("hard")).unwrap();
            std::os::unix::fs::symlink(name("a"), name("soft")).unwrap();
            names.extend([name("hard"), name("soft")]);
        }
        for output in &names {
            let mut ledger = ledger();
            ledger.reserve("--json", output).unwrap();
            for input in &names {
                assert_eq!(open(&mut ledger, input), Err(Refusal::IsOutput("--json")), "{} {}", output.display(), input.display());
                assert!(ledger.check_inputs([input.as_path()]).is_err());
                assert_eq!(refusal(ledger.reserve("--sheet", input)), Some(Refusal::OutputTwice("--json")));
            }
            open(&mut ledger, &name("b")).unwrap();
            ledger.check_inputs([name("b").as_path(), &name("none")]).unwrap();
            ledger.reserve("--sheet", &name("new")).unwrap();
            assert_eq!(refusal(ledger.reserve("--out", &name("inner/../new"))), Some(Refusal::OutputTwice("--sheet")));
        }
    }

    #[test]
    fn a_file_that_was_read_is_not_replaced_unless_it_is_the_programs_own() {
        let folder = tempfile::tempdir().unwrap();
        let (input, other) = (folder.path().join("input"), folder.path().join("other"));
        for path in [&input, &other] {
            std::fs::write(path, "x").unwrap();
        }
        let mut ledger = ledger();
        open(&mut ledger, &input).unwrap();
        assert!(ledger.is_input(&input) && !ledger.is_input(&other) && !ledger.is_input(&folder.path().join("none")));
        assert_eq!(refusal(ledger.reserve("--json", &input)), Some(Refusal::IsInput));
        ledger.own.insert(settled(&folder.path().join("./input")));
        assert!(!ledger.is_input(&input));
        // A library remembers nothing.
        let mut library = Ledger::new();
        open(&mut library, &input).unwrap();
        assert!(!library.is_input(&input));
    }

    #[test]
    fn inputs_in_a_folder_that_is_written_into_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["pictures/inner", "images"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let mut ledger = ledger();
        ledger.folders.insert(std::fs::canonicalize(folder.path().join("pictures")).unwrap(), "--out");
        let (inside, beside) = (folder.path().join("images/../pictures/inner/a.png"), folder.path().join("images/a.png"));
        assert_eq!(ledger.check_inputs([inside.as_path()]).unwrap_err(), (inside, Refusal::InOutputFolder("--out")));
        ledger.check_inputs([beside.as_path()]).unwrap();
    }

    #[test]
    fn what_could_not_be_written_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "x").unwrap();
        let mut ledger = ledger();
        let mut reserve = |path: &Path| ledger.reserve("--json", path).unwrap_err().to_string();
        assert!(reserve(&path("none/a")).contains("none is not there"));
        assert_eq!(reserve(folder.path()), "it is a folder, not a file");
        assert!(reserve(Path::new("-")).contains("standard output") && reserve(Path::new("")).contains("no file"));
        assert!(!reserve(&path(&"long".repeat(100))).is_empty());
        let mut ledger = self::ledger();
        ledger.reserve_folder(&path("new/inner")).unwrap();
        assert!(!path("new").exists(), "nothing is created");
        assert_eq!(ledger.reserve_folder(&path("file")).unwrap_err().to_string(), "it is a file, not a folder");
        assert!(ledger.reserve_folder(&path("file/inner")).is_err());
        let lock = FolderLock::acquire(folder.path()).unwrap();
        assert_eq!(refusal(ledger.reserve_folder(folder.path())), Some(Refusal::Locked));
        assert_eq!(refusal(ledger.reserve("--json", &path("a"))), Some(Refusal::Locked));
        drop(lock);
        ledger.reserve("--json", &path("a")).unwrap();
    }

    #[test]
    fn mount_points_are_read_as_linux_writes_them() {
        let mounts =
            "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n40 35 0:5 /a /my\\040results/a.json rw - ext4 /dev/sda rw\n";
        assert_eq!(mount_points(mounts).collect::<Vec<_>>(), ["/mnt2", "/my results/a.json"]);
        assert!(!is_mounted(Path::new("Cargo.toml")));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pipes_devices_and_folders_of_the_kernel_are_no_outputs() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let mut ledger = ledger();
        for (path, kind) in [(pipe.as_path(), FileKind::Fifo), (Path::new("/dev/null"), FileKind::Device)] {
            assert_eq!(refusal(ledger.reserve("--json", path)), Some(Refusal::NotAFile(kind)));
        }
        assert_eq!(ledger.reserve_folder(&pipe).unwrap_err().to_string(), "it is a named pipe, not a folder");
        let error = ledger.reserve("--json", Path::new("/proc/a.json")).unwrap_err().to_string();
        assert_eq!(error, "cannot create a file in /proc: No such file or directory (os error 2)");
        assert!(ledger.reserve_folder(Path::new("/proc/a/b")).unwrap_err().to_string().contains("/proc"));
    }
}
