//! The class list of a folder of images and label maps.

use std::fmt;
use std::path::{Path, PathBuf};

use vmamba_types::ClassList;

use super::read_class_list;
use crate::ade20k;
use crate::error::DataError;

/// Names of class list files, in lower case and without extension, besides those that begin with `objectinfo`.
const STEMS: [&str; 8] = ["classes", "_classes", "class_list", "class_names", "class_dict", "labels", "labelmap", "label_map"];
/// The name that stands for the 150 classes of ADE20K.
const ADE20K: &str = "ade20k";

/// Whether the name of a class list stands for the 150 classes of ADE20K.
pub fn is_ade20k(name: &Path) -> bool {
    name.as_os_str() == ADE20K
}

/// The error of training and of `check_data` for a folder without a class list.
pub const NO_CLASS_LIST: &str = "the folder has no class list";
/// The remedy for [`NO_CLASS_LIST`].
pub const NAME_CLASS_LIST: &str = "name its file, or `ade20k` for the 150 classes of ADE20K (data.source.classes, check_data: --classes)";

/// Where a class list comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// The built-in classes of ADE20K.
    Ade20k,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Ade20k => f.write_str("the 150 classes of ADE20K"),
        }
    }
}

/// A class list and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The classes.
    pub classes: ClassList,
    /// Where they come from.
    pub place: Place,
    /// A list of the folder's own with other names, which is not used because another list was named.
    pub unused: Option<PathBuf>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "class list: {}", self.place)?;
        match &self.unused {
            None => Ok(()),
            Some(path) => write!(f, "; the names in {} differ and are not used", path.display()),
        }
    }
}

/// The classes of the data in the folder `root`: those of the file `named`, relative to `root`, where `ade20k` stands for the 150 classes of
/// ADE20K; without it, those of the folder's own list (`objectInfo*`, `classes.txt` and similar names), or the classes of ADE20K when the
/// folder is ADE20K's. `None` when nothing is named and the folder has no list.
///
/// # Errors
/// When the list cannot be read or does not fit `reduce_zero_label`, or the folder has several lists that differ.
pub fn find_class_list(root: &Path, named: Option<&Path>, reduce_zero_label: bool) -> Result<Option<Found>, DataError> {
    let read = |path: PathBuf| -> Result<Found, DataError> {
        let classes = read_class_list(&path)?.for_labels(&path, reduce_zero_label)?;
        Ok(Found { classes, place: Place::File(path), unused: None })
    };
    let ade20k = || Found { classes: ade20k::classes(), place: Place::Ade20k, unused: None };
    match named {
        Some(name) => {
            let built_in = is_ade20k(name) && !root.join(name).is_file();
            let found = if built_in { ade20k() } else { read(root.join(name))? };
            // A list outside of the folder may belong to other data. A list of the folder that cannot be read counts as different.
            let outside = built_in || name.is_absolute() && !name.starts_with(root);
            let differs = |path: &PathBuf| read_class_list(path).map_or(true, |own| own.classes.names != found.classes.names);
            let unused = if outside { own_lists(root)?.into_iter().find(differs) } else { None };
            Ok(Some(Found { unused, ..found }))
        }
        None => {
            let mut lists = own_lists(root)?.into_iter().map(read);
            let Some(mut first) = lists.next().transpose()? else { return Ok(holds_ade20k(root).then(ade20k)) };
            for other in lists {
                let other = other?;
                if other.classes.names != first.classes.names {
                    let message =
                        format!("{} and {} are different class lists; name one of them as the class list", first.place, other.place);
                    return Err(DataError::layout(root, message));
                }
            }
            // ADE20K's own list has no colours.
            let known = ade20k::classes();
            if first.classes.names == known.names {
                first.classes = known;
            }
            Ok(Some(first))
        }
    }
}

/// The class list files in a folder, sorted; none when the folder does not exist.
fn own_lists(root: &Path) -> Result<Vec<PathBuf>, DataError> {
    if !root.is_dir() {
        return Ok(Vec::new());
    }
    let io = |reason| DataError::io(root, reason);
    let lower = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().to_lowercase()).unwrap_or_default();
    let is_list = |path: &PathBuf| {
        let (stem, extension) = (lower(path.file_stem()), lower(path.extension()));
        let known = stem.starts_with("objectinfo") || STEMS.contains(&stem.as_str());
        known && ["txt", "csv", "tsv"].contains(&extension.as_str()) && path.is_file()
    };
    let paths = std::fs::read_dir(root).map_err(io)?.map(|entry| Ok(entry.map_err(io)?.path())).collect::<Result<Vec<_>, _>>()?;
    let mut lists: Vec<PathBuf> = paths.into_iter().filter(is_list).collect();
    lists.sort();
    Ok(lists)
}

/// Whether a folder holds ADE20K's images: by the name of its archive, or by the names of its images.
fn holds_ade20k(root: &Path) -> bool {
    let official = |(split, start): (&str, &str)| {
        let Ok(entries) = std::fs::read_dir(root.join("images").join(split)) else { return false };
        let first = entries.flatten().map(|entry| entry.file_name()).find(|name| !name.to_string_lossy().starts_with('.'));
        first.is_some_and(|name| name.to_string_lossy().starts_with(start))
    };
    root.file_name().is_some_and(|name| name == "ADEChallengeData2016")
        || [("training", "ADE_train_"), ("validation", "ADE_val_")].into_iter().any(official)
}
