//! Which image belongs to which label map.
//!
//! An image and its label map have the same path below `images/<split>` and `annotations/<split>`, except for the extension; subfolders are
//! read, as by mmsegmentation's `BaseSegDataset`, which lists the images with `recursive=True` and finds a label map by
//! `img.replace(self.img_suffix, self.seg_map_suffix)`. There, all images of a set have one suffix. Here, they may have any, so two images may
//! claim one label map; that is an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::files::check_inputs;
use crate::folders::{Listing, files_below, has_ending};
use crate::image_io::IMAGE_ENDINGS;
use crate::photos::{Photos, Skipped, photos_among};

/// The files of a split, paired or not. Names are paths below the folder of the split, with `/` on every system.
#[derive(Debug, Default)]
pub(crate) struct SplitFiles {
    /// Image and label map of every sample, sorted by the image's path.
    pub(crate) pairs: Vec<Pair>,
    /// Images below the folder of the split that are no photos.
    pub(crate) skipped: Skipped,
    /// Numbers of image and label files.
    pub(crate) images: usize,
    pub(crate) labels: usize,
    pub(crate) images_without_label: Vec<String>,
    pub(crate) labels_without_image: Vec<String>,
    /// Files that differ only in their extension, so that it is open which of them belong together.
    pub(crate) ambiguous: Vec<Vec<String>>,
    /// Images among the label maps that are no PNG.
    pub(crate) other_formats: Vec<String>,
    /// Files that are neither images nor label maps.
    pub(crate) other_files: Vec<String>,
}

/// An image and its label map.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// The path of the image below the folder of the split, without extension and with `/` on every system.
    pub(crate) name: String,
    pub(crate) image: PathBuf,
    pub(crate) labels: PathBuf,
}

/// Lists the files below `images` and `annotations`; a folder that does not exist has none.
///
/// # Errors
/// When a folder cannot be read, or an image or label map is an output of this process.
pub(crate) fn split_files(images: &Path, annotations: &Path) -> Result<SplitFiles, DataError> {
    let mut split = SplitFiles::default();
    let mut image_files: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    let Listing { files, hidden } = list(images)?;
    split.other_files.extend(files.iter().filter(|path| !has_ending(path, &IMAGE_ENDINGS)).map(|path| below(path, images)));
    let Photos { files, skipped } = photos_among(files.into_iter().chain(hidden));
    (split.images, split.skipped) = (files.len(), skipped);
    for path in files {
        image_files.entry(key(&path, images)).or_default().push(path);
    }
    let mut label_files: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in list(annotations)?.files {
        if has_ending(&path, &["png"]) {
            split.labels += 1;
            label_files.entry(key(&path, annotations)).or_default().push(path);
        } else if has_ending(&path, &IMAGE_ENDINGS) {
            split.other_formats.push(below(&path, annotations));
        } else {
            split.other_files.push(below(&path, annotations));
        }
    }
    for (key, images_of_key) in image_files {
        let labels_of_key = label_files.remove(&key).unwrap_or_default();
        let names = |paths: &[PathBuf], root: &Path| -> Vec<String> { paths.iter().map(|path| below(path, root)).collect() };
        match (images_of_key.as_slice(), labels_of_key.as_slice()) {
            (all, []) => split.images_without_label.extend(names(all, images)),
            ([image], [labels]) => split.pairs.push(Pair { name: slashes(&key), image: image.clone(), labels: labels.clone() }),
            ([_], several) => split.ambiguous.push(names(several, annotations)),
            (several, _) => split.ambiguous.push(names(several, images)),
        }
    }
    split.labels_without_image = label_files.values().flatten().map(|path| below(path, annotations)).collect();
    split.pairs.sort_by(|a, b| a.image.cmp(&b.image));
    check_inputs(split.pairs.iter().flat_map(|pair| [pair.image.as_path(), &pair.labels]))?;
    Ok(split)
}

fn list(folder: &Path) -> Result<Listing, DataError> {
    if folder.is_dir() { files_below(folder) } else { Ok(Listing::default()) }
}

/// The path below `root` without extension.
fn key(path: &Path, root: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).with_extension("")
}

/// The path below `root` for a person.
fn below(path: &Path, root: &Path) -> String {
    slashes(path.strip_prefix(root).unwrap_or(path))
}

fn slashes(path: &Path) -> String {
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}
