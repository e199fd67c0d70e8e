//! Folders of files: what is in them and below them.

use std::path::{Path, PathBuf};

use crate::error::DataError;

/// Deepest nesting of folders; a symbolic link may lead back to its parent.
const DEPTH: usize = 8;

/// Files in and below a folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) files: Vec<PathBuf>,
    /// Hidden files; hidden folders are not entered.
    pub(crate) hidden: Vec<PathBuf>,
}

/// The files in and below a folder, sorted, those of a folder before those of its subfolders.
///
/// # Errors
/// When a folder cannot be read, or folders are nested more than 8 deep.
pub(crate) fn files_below(folder: &Path) -> Result<Listing, DataError> {
    let mut listing = Listing::default();
    collect(folder, DEPTH, &mut listing)?;
    Ok(listing)
}

fn collect(folder: &Path, depth: usize, listing: &mut Listing) -> Result<(), DataError> {
    if depth == 0 {
        let message = format!("folders are nested more than {DEPTH} deep; does a symbolic link lead back to a parent?");
        return Err(DataError::layout(folder, message));
    }
    let (folders, own) = entries(folder)?;
    listing.files.extend(own.files);
    listing.hidden.extend(own.hidden);
    folders.iter().try_for_each(|folder| collect(folder, depth - 1, listing))
}

/// The folders in a folder, without hidden ones, and its files, each sorted.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Listing), DataError> {
    let io = |source| DataError::io(folder, source);
    let (mut folders, mut listing) = (Vec::new(), Listing::default());
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        match (file_name(&path).starts_with('.'), path.is_dir()) {
            (true, true) => (),
            (true, false) => listing.hidden.push(path),
            (false, true) => folders.push(path),
            (false, false) => listing.files.push(path),
        }
    }
    folders.sort();
    listing.files.sort();
    listing.hidden.sort();
    Ok((folders, listing))
}

/// The name of a file or folder.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether a file name has one of these endings, in upper or lower case.
pub(crate) fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().and_then(|own| own.to_str()).is_some_and(|own| endings.iter().any(|known| own.eq_ignore_ascii_case(known)))
}
