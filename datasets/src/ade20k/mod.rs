//! Folders of the ADE20K layout.
//!
//! ```text
//! root/images/<split>/…/name.jpg            any image format
//! root/annotations/<split>/…/name.png       grey or palette PNG, one class index a pixel
//! ```
//!
//! An image and its label map have the same path below the split, except for the extension. What is no photo is skipped, see
//! [`photos`](crate::photos).
//!
//! ADE20K itself uses label 0 for "other objects"; [`FolderOptions::ade20k`] ignores it.

mod classes;
mod iou_metric;
pub(crate) mod pairs;

use std::path::{Component, Path, PathBuf};

pub use classes::classes;
pub use iou_metric::{IouMetric, IouReport};
use pairs::{Pair, split_files};

use crate::error::DataError;
use crate::image_io::{self, ExifOrientation, IMAGE_ENDINGS, PhotoHeader};
use crate::photos::Skipped;
use crate::sample::{SegmentationDataset, SegmentationSample};
use vmamba_types::{ClassList, LabelMap};

/// How the label files of a folder become classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderOptions {
    /// The classes.
    pub classes: ClassList,
    /// Whether label 0 is ignored and all others are lowered by one.
    pub reduce_zero_label: bool,
    /// What to do with the EXIF orientation of the photos. mmsegmentation applies it; label maps that were made without it need
    /// [`ExifOrientation::Ignored`].
    pub exif: ExifOrientation,
}

impl FolderOptions {
    /// Labels in the files are class indices, from 0 on.
    pub fn new(classes: ClassList) -> Self {
        Self { classes, reduce_zero_label: false, exif: ExifOrientation::Applied }
    }

    /// ADE20K's 150 classes, which its files count from 1.
    pub fn ade20k() -> Self {
        Self { reduce_zero_label: true, ..Self::new(classes()) }
    }
}

/// A split of a folder of the ADE20K layout.
#[derive(Clone, Debug)]
pub struct FolderDataset {
    /// Image and label map of every sample, sorted by path.
    pairs: Vec<Pair>,
    options: FolderOptions,
    /// The folder of the images, and the images in it that are no photos.
    images: (PathBuf, Skipped),
}

/// Whether a split has this name: a path of plain names below `images` and `annotations`. An empty name would be all splits at once.
pub fn is_split_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    !name.trim().is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

impl FolderDataset {
    /// Opens the folders `root/images/<split>` and `root/annotations/<split>`.
    ///
    /// # Errors
    /// When `split` is no [name of a split](is_split_name), a folder is missing or empty, an image has no label map, or two images would share
    /// one.
    pub fn open(root: &Path, split: &str, options: &FolderOptions) -> Result<Self, DataError> {
        if !is_split_name(split) {
            let message = format!("\"{split}\" is no name of a split; name a folder below images and annotations");
            return Err(DataError::layout(root, message));
        }
        let (images, annotations) = (root.join("images").join(split), root.join("annotations").join(split));
        for folder in [&images, &annotations] {
            if !folder.is_dir() {
                let message = format!("no such folder; {} needs the folders images/{split} and annotations/{split}", root.display());
                return Err(DataError::layout(folder, message));
            }
        }
        let files = split_files(&images, &annotations)?;
        if let Some(names) = files.ambiguous.first() {
            let message = format!("{} have the same name except for the extension, so they would share a label map", names.join(" and "));
            return Err(DataError::layout(&images, message));
        }
        if let Some(name) = files.images_without_label.first() {
            let expected = annotations.join(name).with_extension("png");
            return Err(DataError::layout(&images.join(name), format!("the image has no label map {}", expected.display())));
        }
        if files.pairs.is_empty() {
            let endings = IMAGE_ENDINGS.join(", ");
            return Err(DataError::layout(&images, format!("there is no image in or below this folder (looked for {endings})")));
        }
        Ok(Self { pairs: files.pairs, options: options.clone(), images: (images, files.skipped) })
    }

    fn pair(&self, index: usize) -> Result<&Pair, DataError> {
        self.pairs.get(index).ok_or(DataError::NoSuchSample { index, len: self.pairs.len() })
    }

    /// The files of sample `index`: image and label map.
    pub fn paths(&self, index: usize) -> Option<(&Path, &Path)> {
        self.pairs.get(index).map(|pair| (pair.image.as_path(), pair.labels.as_path()))
    }
}

impl SegmentationDataset for FolderDataset {
    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn get(&self, index: usize) -> Result<SegmentationSample, DataError> {
        let Pair { name, image: image_path, labels: label_path } = self.pair(index)?;
        let exif = self.options.exif;
        let image = image_io::read_photo(image_path, exif)?;
        let labels = self.labels(index)?;
        let original_size = [image.height() as usize, image.width() as usize];
        if labels.size() != original_size {
            let other = PhotoHeader::read(image_path).is_ok_and(|header| header.fits_other_reading(exif, labels.size()));
            return Err(DataError::SizeMismatch {
                image: image_path.clone(),
                image_size: original_size,
                labels: label_path.clone(),
                label_size: labels.size(),
                remedy: other.then(|| exif.remedy()),
            });
        }
        Ok(SegmentationSample::new(image, labels, name))
    }

    fn size(&self, index: usize) -> Result<[usize; 2], DataError> {
        Ok(image_io::PhotoHeader::read(&self.pair(index)?.image)?.upright_size())
    }

    fn labels(&self, index: usize) -> Result<LabelMap, DataError> {
        let path = &self.pair(index)?.labels;
        let mut labels = image_io::read_labels(path)?;
        let FolderOptions { classes, reduce_zero_label, .. } = &self.options;
        if *reduce_zero_label {
            labels = labels.reduce_zero_label();
        }
        let classes = classes.len();
        match labels.first_outside(classes) {
            None => Ok(labels),
            Some(([row, column], label)) => {
                let hint = match (reduce_zero_label, usize::from(label) == classes) {
                    (false, true) => "; if the files count classes from 1, set reduce_zero_label = true",
                    _ => "",
                };
                Err(DataError::LabelOutOfRange { path: path.clone(), label, column, row, classes, hint })
            }
        }
    }

    fn classes(&self) -> &ClassList {
        &self.options.classes
    }

    fn notes(&self) -> Vec<String> {
        let (folder, skipped) = &self.images;
        skipped.note(folder.display()).into_iter().collect()
    }
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

        /// The path of a file, whose folder is created.
        fn path(&self, name: &str) -> std::path::PathBuf {
            let path = self.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        }

        fn image(&self, name: &str, width: u32, height: u32) {
            RgbImage::new(width, height).save(self.path(&format!("images/training/{name}"))).unwrap();
        }

        fn labels(&self, name: &str, width: u32, height: u32, label: u8) {
            let map = GrayImage::from_pixel(width, height, image::Luma([label]));
            map.save(self.path(&format!("annotations/training/{name}"))).unwrap();
        }

        fn open(&self, reduce: bool) -> Result<FolderDataset, DataError> {
            self.open_with(ExifOrientation::Applied, reduce)
        }

        fn open_with(&self, exif: ExifOrientation, reduce_zero_label: bool) -> Result<FolderDataset, DataError> {
            FolderDataset::open(self.0.path(), "training", &FolderOptions { classes: ClassList::numbered(3), reduce_zero_label, exif })
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
    fn subfolders_of_a_split_are_read() {
        let folder = Folder::new();
        // One name in two subfolders is two samples.
        for (name, label) in [("b/street", 1), ("a/street", 0), ("top", 2), ("a/deep/er/street", 1), (".hidden/street", 0)] {
            folder.image(&format!("{name}.jpg"), 4, 3);
            folder.labels(&format!("{name}.png"), 4, 3, label);
        }
        let data = folder.open(false).unwrap();
        let samples: Vec<_> = (0..data.len()).map(|index| data.get(index).unwrap()).map(|s| (s.name, s.labels.as_slice()[0])).collect();
        let expected = [("a/deep/er/street", 1), ("a/street", 0), ("b/street", 1), ("top", 2)];
        assert_eq!(samples, expected.map(|(name, label)| (name.to_owned(), label)));
        folder.image("c/street.jpg", 4, 3);
        assert!(
            folder.error().contains("c/street.jpg") && folder.error().contains("annotations/training/c/street.png"),
            "{}",
            folder.error()
        );
    }

    #[test]
    fn label_maps_that_were_made_without_the_exif_orientation_are_named_and_read_with_the_switch() {
        let folder = Folder::new();
        // Stored with 64x40 pixels and turned by a quarter.
        crate::image_io::tests::write_turned(&folder.path("images/training/a.jpg"), 64, 40, 6);
        folder.labels("a.png", 64, 40, 1);
        let error = folder.error();
        assert!(error.contains("a.jpg is 40x64") && error.contains("data.source.ignore_exif = true"), "{error}");
        let ignored = folder.open_with(ExifOrientation::Ignored, false).unwrap();
        assert_eq!(ignored.get(0).unwrap().original_size, [40, 64]);
        folder.labels("a.png", 40, 64, 1);
        assert_eq!(folder.open(false).unwrap().get(0).unwrap().original_size, [64, 40]);
        let error = ignored.get(0).unwrap_err().to_string();
        assert!(error.contains("data.source.ignore_exif = false"), "{error}");
        // Sizes that fit neither way are no matter of the orientation.
        folder.labels("a.png", 9, 9, 1);
        assert!(!folder.error().contains("ignore_exif"), "{}", folder.error());
    }

    #[test]
    fn results_of_a_prediction_among_the_images_are_no_samples() {
        let folder = Folder::new();
        folder.image("a.jpg", 4, 3);
        folder.labels("a.png", 4, 3, 0);
        assert_eq!(folder.open(false).unwrap().notes(), [""; 0]);
        let overlay = folder.path("images/training/predictions/a_overlay.png");
        RgbImage::new(4, 3).save(&overlay).unwrap();
        assert!(folder.error().contains("a_overlay.png"), "a photo without a label map");
        std::fs::write(&overlay, crate::photos::marked_as_written(std::fs::read(&overlay).unwrap())).unwrap();
        let data = folder.open(false).unwrap();
        assert_eq!(data.len(), 1);
        assert!(data.notes()[0].ends_with("images/training: skipped images that are no photos: 1 written by this toolkit"));
    }

    #[test]
    fn two_images_with_one_stem_are_refused() {
        let folder = Folder::new();
        folder.image("v00.jpg", 4, 3);
        folder.labels("v00.png", 4, 3, 0);
        assert_eq!(folder.open(false).unwrap().len(), 1);
        folder.image("v00.jpeg", 4, 3);
        let error = folder.error();
        assert!(error.contains("v00.jpeg and v00.jpg") && error.contains("share a label map"), "{error}");
        std::fs::remove_file(folder.path("images/training/v00.jpeg")).unwrap();
        folder.labels("v00.PNG", 4, 3, 0);
        assert!(folder.error().contains("v00.PNG and v00.png"), "{}", folder.error());
    }

    #[test]
    fn an_error_names_the_files() {
        let folder = Folder::new();
        assert!(folder.error().contains("there is no image in or below this folder"), "{}", folder.error());
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
