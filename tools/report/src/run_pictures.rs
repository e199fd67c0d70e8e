//! The pictures of a run, and which of them it has written.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use image::RgbImage;
use vmamba_files::AppendLog;

use crate::error::ReportError;
use crate::files::create_folder;
use crate::pictures;

/// List of the pictures that the run has written, one JSON string a line. Overwriting the run deletes these and no others.
const LIST: &str = ".drawn";

/// The folder of the pictures of predictions of a run.
pub struct RunPictures {
    folder: PathBuf,
    listed: BTreeSet<String>,
    list: AppendLog,
}

impl RunPictures {
    /// Opens the folder, which is created where it is missing.
    ///
    /// # Errors
    /// When it cannot be created or written to.
    pub fn open(folder: &Path) -> Result<Self, ReportError> {
        create_folder(folder)?;
        let path = folder.join(LIST);
        let listed = if path.exists() { listed(&path)? } else { BTreeSet::new() };
        let list = AppendLog::open(&path).map_err(ReportError::write(&path))?;
        Ok(Self { folder: folder.to_owned(), listed, list })
    }

    /// Writes a picture. `name` is its path below the folder, with `/` between subfolders.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&mut self, name: &str, picture: &RgbImage) -> Result<(), ReportError> {
        // Listed first: a killed run leaves no picture that is not listed.
        if self.listed.insert(name.to_owned()) {
            let line = format!("{}\n", serde_json::Value::from(name));
            self.list.append(line.as_bytes()).map_err(ReportError::write(self.list.path()))?;
        }
        let path = self.folder.join(name);
        path.parent().map_or(Ok(()), create_folder)?;
        pictures::save(&path, picture)
    }

    /// The pictures in `folder` that a run has written, and their list. Symbolic links are not followed and not listed.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub(crate) fn written(folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
        let list = folder.join(LIST);
        if folder.is_symlink() || list.is_symlink() || !list.exists() {
            return Ok(Vec::new());
        }
        let within = |name: &String| {
            let mut path = folder.to_owned();
            for part in Path::new(name).components() {
                let Component::Normal(part) = part else { return None };
                path.push(part);
                if path.is_symlink() {
                    return None;
                }
            }
            path.is_file().then_some(path)
        };
        let mut files: Vec<PathBuf> = listed(&list)?.iter().filter_map(within).collect();
        files.push(list);
        Ok(files)
    }
}

/// The names in a list. A line that a kill has cut is left out.
fn listed(path: &Path) -> Result<BTreeSet<String>, ReportError> {
    vmamba_files::may_replace(path);
    let bytes = vmamba_files::read(path).map_err(ReportError::read(path))?;
    Ok(bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pictures_of_a_run_are_known_to_later_runs() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("pictures");
        assert!(RunPictures::written(&folder).unwrap().is_empty());
        for _ in 0..2 {
            let mut pictures = RunPictures::open(&folder).unwrap();
            for name in ["a.png", "inner/line\nbreak.png"] {
                pictures.save(name, &RgbImage::new(2, 2)).unwrap();
            }
        }
        std::fs::write(folder.join("own.png"), "of the user").unwrap();
        let expected = ["a.png", "inner/line\nbreak.png", LIST].map(|name| folder.join(name));
        assert_eq!(RunPictures::written(&folder).unwrap(), expected);
    }

    #[test]
    #[cfg(unix)]
    fn nothing_outside_of_the_folder_and_nothing_behind_a_link_is_a_picture_of_the_run() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let (folder, album) = (root.path().join("pictures"), root.path().join("album"));
        std::fs::create_dir(&album).unwrap();
        let mut pictures = RunPictures::open(&folder).unwrap();
        for name in ["a.png", "inner/b.png", "c.png"] {
            pictures.save(name, &RgbImage::new(2, 2)).unwrap();
        }
        // The user has moved the pictures to another place and left links.
        std::fs::rename(folder.join("a.png"), album.join("a.png")).unwrap();
        std::fs::rename(folder.join("inner"), album.join("inner")).unwrap();
        symlink(album.join("a.png"), folder.join("a.png")).unwrap();
        symlink(album.join("inner"), folder.join("inner")).unwrap();
        pictures.list.append(b"\"../album/a.png\"\n\"/etc/passwd\"\n").unwrap();
        assert_eq!(RunPictures::written(&folder).unwrap(), ["c.png", LIST].map(|name| folder.join(name)));
        let link = root.path().join("link");
        symlink(&folder, &link).unwrap();
        assert!(RunPictures::written(&link).unwrap().is_empty());
    }
}
