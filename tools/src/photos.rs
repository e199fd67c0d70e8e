//! The photos that a program predicts, and the names of their results.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Extensions of the photos that a folder is searched for.
const EXTENSIONS: [&str; 7] = ["jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp"];

/// The photos that files, folders and patterns name, sorted and without duplicates.
///
/// # Errors
/// When an input names no photo, or a folder cannot be read.
pub fn find_photos(inputs: &[String]) -> Result<Vec<PathBuf>> {
    let mut photos = Vec::new();
    for input in inputs {
        let path = Path::new(input);
        if path.is_dir() {
            photos.extend(photos_in(path)?);
        } else if path.exists() {
            photos.push(path.to_owned());
        } else {
            let before = photos.len();
            let matches = glob::glob(input).with_context(|| format!("`{input}` is neither a file nor a pattern"))?;
            photos.extend(matches.filter_map(Result::ok));
            if photos.len() == before {
                bail!("{input}: no such file, and no file matches it as a pattern");
            }
        }
    }
    photos.sort();
    photos.dedup();
    Ok(photos)
}

fn photos_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot read {}", folder.display());
    let is_photo = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
    };
    let entries = std::fs::read_dir(folder).with_context(context)?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>().with_context(context)?;
    let photos: Vec<PathBuf> = paths.into_iter().filter(is_photo).collect();
    if photos.is_empty() {
        bail!("{}: no photo in this folder (extensions: {})", folder.display(), EXTENSIONS.join(", "));
    }
    Ok(photos)
}

/// The names of the results: the names of the photos without extension, numbered where photos share one.
pub fn result_names(photos: &[PathBuf]) -> Vec<String> {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let unused = |photo: &PathBuf| {
        let stem = photo.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mut name = stem.clone();
        let mut number = 2;
        while !seen.insert(name.clone()) {
            name = format!("{stem}_{number}");
            number += 1;
        }
        name
    };
    photos.iter().map(unused).collect()
}

/// The path `prefix` with `suffix` behind its last name: `out/a` and `_labels.png` give `out/a_labels.png`.
pub fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_photos_with_one_name_are_numbered() {
        let photos = ["a/x.jpg", "a/x.png", "b/x.jpg", "b/x_2.jpg", "b/y.jpg"].map(PathBuf::from);
        assert_eq!(result_names(&photos), ["x", "x_2", "x_3", "x_2_2", "y"]);
    }

    #[test]
    fn a_suffix_keeps_the_dots_of_a_name() {
        assert_eq!(with_suffix(Path::new("out/a.b"), "_labels.png"), Path::new("out/a.b_labels.png"));
    }
}
