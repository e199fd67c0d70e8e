//! The photos that a program predicts, and the names of their results.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use vision_datasets::image_io::{IMAGE_ENDINGS, is_photo};

/// What follows the name of a photo in the pictures that `predict` writes.
pub const OVERLAY: &str = "_overlay.png";
/// What follows the name of a photo in the label maps that `predict` writes.
pub const LABELS: &str = "_labels.png";

/// The photos that files, folders and patterns name, sorted and without duplicates. In folders, hidden files and the results of an earlier
/// prediction are skipped, and so are hidden files that a pattern finds.
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
            photos.extend(matches.filter_map(Result::ok).filter(|path| !is_hidden(path)));
            if photos.len() == before {
                bail!("{input}: no such file, and no file matches it as a pattern");
            }
        }
    }
    photos.sort();
    photos.dedup();
    Ok(photos)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn photos_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot read {}", folder.display());
    let entries = std::fs::read_dir(folder).with_context(context)?;
    let mut photos = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>().with_context(context)?;
    photos.retain(|path| is_photo(path));
    let names: BTreeSet<String> = photos.iter().map(|path| stem(path)).collect();
    photos.retain(|path| !is_result(path, &names));
    if photos.is_empty() {
        bail!("{}: no photo in this folder (extensions: {})", folder.display(), IMAGE_ENDINGS.join(", "));
    }
    Ok(photos)
}

/// Whether a file is the result for one of the photos beside it, by [`result_names`].
fn is_result(path: &Path, photos: &BTreeSet<String>) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let of_photo = |result: &str| {
        let numbered = result.rsplit_once('_').filter(|(_, number)| number.parse::<usize>().is_ok());
        photos.contains(result) || numbered.is_some_and(|(photo, _)| photos.contains(photo))
    };
    [OVERLAY, LABELS].iter().any(|suffix| name.strip_suffix(suffix).is_some_and(of_photo))
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The names of the results: the names of the photos without extension, numbered where photos share one.
pub fn result_names(photos: &[PathBuf]) -> Vec<String> {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let unused = |photo: &PathBuf| {
        let stem = stem(photo);
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
    fn hidden_files_and_own_results_are_no_photos() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "a.jpg",
            "a_overlay.png",
            "a_labels.png",
            "a_objects.json",
            "a_2_labels.png",
            "._a.jpg",
            "b_overlay.png",
            ".c.png",
            "notes.txt",
        ];
        for name in names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = |input: &Path| -> Vec<String> {
            let photos = find_photos(&[input.display().to_string()]).unwrap();
            photos.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        // There is no photo b, so that b_overlay.png may be one.
        assert_eq!(found(folder.path()), ["a.jpg", "b_overlay.png"]);
        assert_eq!(found(&folder.path().join("*.jpg")), ["a.jpg"]);
    }

    #[test]
    fn a_suffix_keeps_the_dots_of_a_name() {
        assert_eq!(with_suffix(Path::new("out/a.b"), "_labels.png"), Path::new("out/a.b_labels.png"));
    }
}
