//! Folders of the ADE20K layout.
//!
//! ```text
//! root/images/<split>/name.jpg            any image format
//! root/annotations/<split>/name.png       grey or palette PNG, one class index a pixel
//! ```
//!
//! ADE20K itself uses label 0 for "other objects"; [`FolderOptions::ade20k`] ignores it.

mod classes;
mod iou_metric;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use classes::classes;
pub use iou_metric::{IouMetric, IouReport};

use crate::error::DataError;
use crate::image_io::{self, IMAGE_ENDINGS};
use crate::sample::{SegmentationDataset, SegmentationSample};
use vmamba_types::ClassList;

/// How the label files of a folder become classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderOptions {
    /// The classes.
    pub classes: ClassList,
    /// Whether label 0 is ignored and all others are lowered by one.
    pub reduce_zero_label: bool,
}

impl FolderOptions {
    /// Labels in the files are class indices, from 0 on.
    pub fn new(classes: ClassList) -> Self {
        Self { classes, reduce_zero_label: false }
    }

    /// ADE20K's 150 classes, which its files count from 1.
    pub fn ade20k() -> Self {
        Self { classes: classes(), reduce_zero_label: true }
    }
}

/// A split of a folder of the ADE20K layout.
#[derive(Clone, Debug)]
pub struct FolderDataset {
    /// Image and label map of every sample, sorted by path.
    pairs: Vec<(PathBuf, PathBuf)>,
    options: FolderOptions,
}

impl FolderDataset {
    /// Opens the folders `root/images/<split>` and `root/annotations/<split>`.
    ///
    /// # Errors
    /// When a folder is missing or empty, or an image has no label map.
    pub fn open(root: &Path, split: &str, options: &FolderOptions) -> Result<Self, DataError> {
        let (images, annotations) = (root.join("images").join(split), root.join("annotations").join(split));
        for folder in [&images, &annotations] {
            if !folder.is_dir() {
                let message = format!("no such folder; {} needs the folders images/{split} and annotations/{split}", root.display());
                return Err(DataError::layout(folder, message));
            }
        }
        let labels: BTreeMap<String, PathBuf> = files(&annotations, &["png"])?.into_iter().map(|path| (stem(&path), path)).collect();
        let mut pairs = Vec::new();
        for image in files(&images, &IMAGE_ENDINGS)? {
            let Some(label) = labels.get(&stem(&image)) else {
                let expected = annotations.join(stem(&image)).with_extension("png");
                return Err(DataError::layout(&image, format!("the image has no label map {}", expected.display())));
            };
            pairs.push((image, label.clone()));
        }
        if pairs.is_empty() {
            return Err(DataError::layout(&images, format!("there is no image in this folder (looked for {})", IMAGE_ENDINGS.join(", "))));
        }
        Ok(Self { pairs, options: options.clone() })
    }

    /// The files of sample `index`: image and label map.
    pub fn paths(&self, index: usize) -> Option<(&Path, &Path)> {
        self.pairs.get(index).map(|(image, labels)| (image.as_path(), labels.as_path()))
    }
}

impl SegmentationDataset for FolderDataset {
    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn get(&self, index: usize) -> Result<SegmentationSample, DataError> {
        let Some((image_path, label_path)) = self.pairs.get(index) else {
            return Err(DataError::NoSuchSample { index, len: self.pairs.len() });
        };
        let image = image_io::read_rgb(image_path)?;
        let mut labels = image_io::read_labels(label_path)?;
        let original_size = [image.height() as usize, image.width() as usize];
        if labels.size() != original_size {
            return Err(DataError::SizeMismatch {
                image: image_path.clone(),
                image_size: original_size,
                labels: label_path.clone(),
                label_size: labels.size(),
            });
        }
        let FolderOptions { classes, reduce_zero_label } = &self.options;
        if *reduce_zero_label {
            labels = labels.reduce_zero_label();
        }
        let classes = classes.len();
        if let Some(([row, column], label)) = labels.first_outside(classes) {
            let hint = match (reduce_zero_label, usize::from(label) == classes) {
                (false, true) => "; if the files count classes from 1, set reduce_zero_label = true",
                _ => "",
            };
            return Err(DataError::LabelOutOfRange { path: label_path.clone(), label, column, row, classes, hint });
        }
        Ok(SegmentationSample::new(image, labels, stem(image_path)))
    }

    fn classes(&self) -> &ClassList {
        &self.options.classes
    }
}

/// The files of a folder with one of these endings, sorted, without hidden files.
fn files(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, DataError> {
    let io = |source| DataError::io(folder, source);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let known = path.extension().and_then(|e| e.to_str()).is_some_and(|e| endings.iter().any(|ending| e.eq_ignore_ascii_case(ending)));
        if known && !stem(&path).starts_with('.') && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, RgbImage};

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for kind in ["images", "annotations"] {
                std::fs::create_dir_all(folder.path().join(kind).join("training")).unwrap();
            }
            Self(folder)
        }

        fn image(&self, name: &str, width: u32, height: u32) {
            RgbImage::new(width, height).save(self.0.path().join("images/training").join(name)).unwrap();
        }

        fn labels(&self, name: &str, width: u32, height: u32, label: u8) {
            GrayImage::from_pixel(width, height, image::Luma([label])).save(self.0.path().join("annotations/training").join(name)).unwrap();
        }

        fn open(&self, reduce: bool) -> Result<FolderDataset, DataError> {
            FolderDataset::open(self.0.path(), "training", &FolderOptions { classes: ClassList::numbered(3), reduce_zero_label: reduce })
        }

        fn error(&self) -> String {
            match self.open(false) {
                Ok(data) => data.get(0).unwrap_err().to_string(),
                Err(error) => error.to_string(),
            }
        }
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_its_file_names() {
        let folder = Folder::new();
        for name in ["b", "a"] {
            folder.image(&format!("{name}.jpg"), 4, 3);
            folder.labels(&format!("{name}.png"), 4, 3, 2);
        }
        let data = folder.open(true).unwrap();
        let sample = data.get(0).unwrap();
        assert!(matches!(data.get(2), Err(DataError::NoSuchSample { index: 2, len: 2 })));
        assert_eq!((data.len(), sample.name.as_str(), sample.original_size), (2, "a", [3, 4]));
        assert!(sample.labels.as_slice().iter().all(|label| *label == 1));
    }

    #[test]
    fn an_error_names_the_files() {
        let folder = Folder::new();
        assert!(folder.error().contains("there is no image in this folder"), "{}", folder.error());
        folder.image("a.jpg", 4, 3);
        assert!(folder.error().contains("a.jpg") && folder.error().contains("a.png"), "{}", folder.error());
        folder.labels("a.png", 4, 4, 0);
        assert!(folder.error().contains("4x3") && folder.error().contains("4x4"), "{}", folder.error());
        folder.labels("a.png", 4, 3, 3);
        assert!(
            folder.error().contains("label 3 at column 0, row 0") && folder.error().contains("reduce_zero_label"),
            "{}",
            folder.error()
        );
        let missing =
            FolderDataset::open(folder.0.path(), "validation", &FolderOptions::new(ClassList::numbered(3))).unwrap_err().to_string();
        assert!(missing.contains("images/validation"), "{missing}");
    }

    #[test]
    fn ade20k_has_150_named_classes_with_different_colours() {
        let classes = classes();
        assert_eq!((classes.len(), classes.names[0].as_str(), classes.palette[0]), (150, "wall", [120, 120, 120]));
        let colours: std::collections::BTreeSet<_> = classes.palette.iter().collect();
        assert!(colours.len() >= 149, "{}", colours.len());
    }
}
