//! The photos that a program predicts, and the names of their results.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use vision_datasets::image_io::{IMAGE_ENDINGS, is_photo};
use vmamba_report::files::create_folder;

/// What follows the name of a photo in the pictures that `predict` writes.
pub const OVERLAY: &str = "_overlay.png";
/// What follows the name of a photo in the label maps that `predict` writes.
pub const LABELS: &str = "_labels.png";
/// What follows the name of a photo in the lists of objects that `predict` writes.
pub const OBJECTS: &str = "_objects.json";

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

/// Whether a file is the result for one of the photos beside it, by [`ResultNames`].
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

/// Gives the results of every image a name of their own: the name of the image, numbered where images share it.
#[derive(Debug, Default)]
pub struct ResultNames {
    /// In lower case, because some file systems do not tell `a` from `A`.
    seen: BTreeSet<String>,
}

impl ResultNames {
    /// The name for the results of the next image of a data set, which is called `name`. The name of an image in a subfolder is a path.
    pub fn next(&mut self, name: &str) -> String {
        // A data set may call its images as it likes; a result must not leave its folder.
        let inner: Vec<_> = Path::new(name).components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let stem = inner.iter().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
        let mut unused = stem.clone();
        let mut number = 2;
        while !self.seen.insert(unused.to_lowercase()) {
            unused = format!("{stem}_{number}");
            number += 1;
        }
        unused
    }

    /// The name for the results of the next photo: that of its file, without extension.
    pub fn of_file(&mut self, photo: &Path) -> String {
        self.next(&stem(photo))
    }
}

/// The path of a result in `folder`, whose subfolders are created.
///
/// # Errors
/// When a folder cannot be created.
pub fn place(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    path.parent().map(create_folder).transpose()?;
    Ok(path)
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
    fn results_of_images_with_one_name_are_numbered() {
        let mut names = ResultNames::default();
        let photos = ["a/x.jpg", "a/x.png", "b/x.jpg", "b/x_2.jpg", "b/y.jpg", "b/X.jpg"];
        assert_eq!(photos.map(|photo| names.of_file(Path::new(photo))), ["x", "x_2", "x_3", "x_2_2", "y", "X_4"]);
    }

    #[test]
    fn a_name_of_an_image_does_not_lead_out_of_the_folder_of_the_results() {
        let mut names = ResultNames::default();
        assert_eq!(["../../x", "a/x", "a/../x", "/x", "x"].map(|name| names.next(name)), ["x", "a/x", "a/x_2", "x_2", "x_3"]);
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
