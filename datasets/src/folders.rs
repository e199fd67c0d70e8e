//! Folders of files: what is in them and below them.

use std::path::{Path, PathBuf};

use crate::error::DataError;

/// Deepest nesting of folders; a symbolic link may lead back to its parent.
const DEPTH: usize = 8;

/// The files in and below a folder, sorted, those of a folder before those of its subfolders. Hidden files and folders are skipped.
///
/// # Errors
/// When a folder cannot be read, or folders are nested more than 8 deep.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    collect(folder, DEPTH, &mut files)?;
    Ok(files)
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    if depth == 0 {
        let message = format!("folders are nested more than {DEPTH} deep; does a symbolic link lead back to a parent?");
        return Err(DataError::layout(folder, message));
    }
    let (folders, own) = entries(folder)?;
    files.extend(own);
    folders.iter().try_for_each(|folder| collect(folder, depth - 1, files))
}

/// The folders and the files in a folder, each sorted, without hidden ones.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), DataError> {
    let io = |source| DataError::io(folder, source);
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if file_name(&path).starts_with('.') {
            continue;
        }
        if path.is_dir() {
            folders.push(path);
        } else {
            files.push(path);
        }
    }
    folders.sort();
    files.sort();
    Ok((folders, files))
}

/// The name of a file or folder.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether a file name has one of these endings, in upper or lower case.
pub(crate) fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().and_then(|own| own.to_str()).is_some_and(|own| endings.iter().any(|known| own.eq_ignore_ascii_case(known)))
}
