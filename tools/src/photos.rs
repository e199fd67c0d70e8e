//! The photos that a program predicts, and the names of their results.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use vision_datasets::image_io::IMAGE_ENDINGS;
use vision_datasets::photos::{Photos, Skipped, photos_among, photos_below};
use vmamba_report::files::create_folder;

/// What follows the name of a photo in the pictures that `predict` writes.
pub const OVERLAY: &str = "_overlay.png";
/// What follows the name of a photo in the label maps that `predict` writes.
pub const LABELS: &str = "_labels.png";
/// The suffix of the lists of objects that `predict` writes.
pub const OBJECTS: &str = "_objects.json";

/// A photo to predict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Photo {
    /// Its file.
    pub path: PathBuf,
    /// The name of its results: its path below the folder that was named, without extension; the stem of a file that was named itself.
    pub name: String,
}

/// The photos that files, folders and patterns name, sorted and without duplicates, and images that are no photos. Folders are read with their
/// subfolders, as in training. A file that is named itself is taken in any case.
///
/// # Errors
/// When an input names no photo, or a folder cannot be read.
pub fn find_photos(inputs: &[String]) -> Result<(Vec<Photo>, Skipped)> {
    let (mut photos, mut all) = (Vec::new(), Skipped::default());
    let endings = IMAGE_ENDINGS.join(", ");
    for input in inputs {
        let path = Path::new(input);
        if path.is_dir() {
            let Photos { files, skipped } = photos_below(path)?;
            all += skipped;
            if files.is_empty() {
                bail!("{}: no photo in or below this folder (extensions: {endings}){}", path.display(), reason(skipped));
            }
            let name = |file: &Path| file.strip_prefix(path).unwrap_or(file).with_extension("").to_string_lossy().into_owned();
            photos.extend(files.into_iter().map(|path| Photo { name: name(&path), path }));
        } else if path.exists() {
            photos.push(Photo { name: stem(path), path: path.to_owned() });
        } else {
            let matches = glob::glob(input).with_context(|| format!("`{input}` is neither a file nor a pattern"))?;
            let Photos { files, skipped } = photos_among(matches.filter_map(Result::ok).filter(|path| !path.is_dir()));
            all += skipped;
            if files.is_empty() {
                bail!("{input}: no such file, and no photo matches it as a pattern (extensions: {endings}){}", reason(skipped));
            }
            photos.extend(files.into_iter().map(|path| Photo { name: stem(&path), path }));
        }
    }
    photos.sort();
    photos.dedup_by(|one, other| one.path == other.path);
    Ok((photos, all))
}

fn reason(skipped: Skipped) -> String {
    skipped.note("").unwrap_or_default()
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
        assert_eq!(["x", "x", "x", "x_2", "y", "X"].map(|name| names.next(name)), ["x", "x_2", "x_3", "x_2_2", "y", "X_4"]);
    }

    #[test]
    fn a_name_of_an_image_does_not_lead_out_of_the_folder_of_the_results() {
        let mut names = ResultNames::default();
        assert_eq!(["../../x", "a/x", "a/../x", "/x", "x"].map(|name| names.next(name)), ["x", "a/x", "a/x_2", "x_2", "x_3"]);
    }

    #[test]
    fn photos_of_folders_and_patterns_are_found_with_the_names_of_their_results() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir_all(path("b/c")).unwrap();
        for name in ["a.v1.jpg", "b/a.png", "b/c/a.JPG", "._a.jpg", "notes.txt"] {
            std::fs::write(path(name), "").unwrap();
        }
        let picture = image::RgbImage::new(2, 2);
        vmamba_report::pictures::save(Path::new(&path("a_overlay.png")), &picture).unwrap();
        let found = |input: &str| -> (Vec<String>, Skipped) {
            let (photos, skipped) = find_photos(&[path(input)]).unwrap();
            (photos.into_iter().map(|photo| photo.name).collect(), skipped)
        };
        assert_eq!(found(""), (["a.v1", "b/a", "b/c/a"].map(str::to_owned).to_vec(), Skipped { hidden: 1, written: 1 }));
        assert_eq!(found("*"), (vec!["a.v1".to_owned()], Skipped { hidden: 1, written: 1 }));
        // A file that the user names is read in any case.
        assert_eq!(found("a_overlay.png").0, ["a_overlay"]);
        assert_eq!(find_photos(&[path("b"), path("b/a.png"), path("b/*/*")]).unwrap().0.len(), 2);
        for (input, part) in [("*.txt", "no photo matches"), ("none.jpg", "no such file"), ("*_overlay.png", "1 written by this toolkit")] {
            let error = find_photos(&[path(input)]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_suffix_keeps_the_dots_of_a_name() {
        assert_eq!(with_suffix(Path::new("out/a.b"), "_labels.png"), Path::new("out/a.b_labels.png"));
    }
}
