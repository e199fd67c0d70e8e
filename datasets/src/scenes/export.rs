//! Writes scenes as folders of the ADE20K layout, to look at, check and train on them like any other data.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use image::GrayImage;
use rayon::prelude::*;

use super::dataset::{Scene, SceneDataset, scene_name};
use crate::error::DataError;
use crate::files::{write_png, write_whole};
use crate::sample::SegmentationDataset;

/// The files that [`write_ade20k_layout`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportSummary {
    /// Number of scenes.
    pub scenes: usize,
    /// The class list, in the objectInfo format of ADE20K.
    pub class_file: PathBuf,
}

/// Writes `root/images/<split>/scene_*.png`, `root/annotations/<split>/scene_*.png` and `root/objectInfo.csv`.
///
/// Label files follow ADE20K: 0 means "unlabelled" (no pixel of a scene is) and class `k` is stored as `k + 1`, so they are read with
/// `reduce_zero_label`. Existing files are overwritten, each atomically.
///
/// # Errors
/// When a folder or file cannot be written; the error names it.
pub fn write_ade20k_layout(dataset: &SceneDataset, root: &Path, split: &str) -> Result<ExportSummary, DataError> {
    let (images, annotations) = (root.join("images").join(split), root.join("annotations").join(split));
    for folder in [&images, &annotations] {
        std::fs::create_dir_all(folder).map_err(|source| DataError::io(folder, source))?;
    }
    let first = dataset.config().first;
    (0..dataset.len()).into_par_iter().try_for_each(|index| -> Result<(), DataError> {
        let Scene { image, labels, .. } = dataset.scene(index as u64);
        let file = format!("{}.png", scene_name(first.wrapping_add(index as u64)));
        write_png(&images.join(&file), &image)?;
        let (width, height) = image.dimensions();
        let values = labels.as_slice().iter().map(|l| l + 1).collect();
        // One label a pixel, so the buffer always fits.
        let map = GrayImage::from_raw(width, height, values).unwrap_or_default();
        write_png(&annotations.join(&file), &map)
    })?;
    let class_file = root.join("objectInfo.csv");
    let mut text = String::from("Idx,Name,R,G,B\n");
    let classes = dataset.classes();
    for (index, (name, [r, g, b])) in classes.names.iter().zip(&classes.palette).enumerate() {
        let _ = writeln!(text, "{},{name},{r},{g},{b}", index + 1);
    }
    write_whole(&class_file, |file| file.write_all(text.as_bytes()))?;
    Ok(ExportSummary { scenes: dataset.len(), class_file })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ade20k::{FolderDataset, FolderOptions};
    use crate::class_list::read_class_list;
    use crate::scenes::SceneConfig;

    #[test]
    fn written_scenes_are_read_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let scenes = SceneDataset::new(SceneConfig { count: 3, first: 7, height: 40, width: 56, ..SceneConfig::default() }).unwrap();
        let summary = write_ade20k_layout(&scenes, folder.path(), "training").unwrap();
        let classes = read_class_list(&summary.class_file).unwrap().classes;
        assert_eq!(&classes, scenes.classes());
        let files =
            FolderDataset::open(folder.path(), "training", &FolderOptions { reduce_zero_label: true, ..FolderOptions::new(classes) })
                .unwrap();
        assert_eq!((files.len(), summary.scenes), (3, 3));
        for index in 0..3 {
            let (read, made) = (files.get(index).unwrap(), scenes.get(index).unwrap());
            assert_eq!((read.image, read.labels), (made.image, made.labels));
        }
    }

    #[test]
    fn a_folder_that_cannot_be_created_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let scenes = SceneDataset::new(SceneConfig { count: 1, ..SceneConfig::default() }).unwrap();
        let error = write_ade20k_layout(&scenes, file.path(), "training").unwrap_err();
        assert!(error.to_string().contains("images"), "{error}");
    }
}
