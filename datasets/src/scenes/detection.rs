//! The scenes as a detection data set: boxes and masks of the visible parts of the five kinds of things.

use std::path::Path;

use vmamba_types::ClassList;

use super::dataset::scene_name;
use super::{FIRST_THING, Scene, SceneConfig, SceneConfigError, SceneDataset, scene_classes};
use crate::error::DataError;
use crate::files::write_png;
use crate::ground_truth::{GroundTruth, ImageEntry};
use crate::sample::{DetectionDataset, DetectionSample};

/// The built-in scenes as a detection data set. The classes are the five kinds of things, from ball (class 0) to gem (class 4).
#[derive(Clone, Debug)]
pub struct SceneObjects {
    scenes: SceneDataset,
    classes: ClassList,
}

impl SceneObjects {
    /// The scenes of a configuration.
    ///
    /// # Errors
    /// When a size or a number of things is outside its range.
    pub fn new(config: SceneConfig) -> Result<Self, SceneConfigError> {
        let all = scene_classes();
        let things = all.names.into_iter().zip(all.palette).skip(usize::from(FIRST_THING));
        Ok(Self { scenes: SceneDataset::new(config)?, classes: ClassList::new(things) })
    }

    /// Writes `root/<split>/scene_*.png` and `root/annotations/instances_<split>.json`, the layout of COCO's data. Existing files are
    /// overwritten, each atomically; the annotations come last.
    ///
    /// # Errors
    /// When a folder or file cannot be written; the error names it.
    pub fn write_coco_layout(&self, root: &Path, split: &str) -> Result<(), DataError> {
        let (images, annotations) = (root.join(split), root.join("annotations"));
        for folder in [&images, &annotations] {
            std::fs::create_dir_all(folder).map_err(|reason| DataError::io(folder, reason))?;
        }
        let mut truth = GroundTruth::new(&self.classes);
        for index in 0..self.len() {
            let sample = self.get(index)?;
            let file_name = format!("{}.png", sample.name);
            write_png(&images.join(&file_name), &sample.image)?;
            truth.push(ImageEntry { id: sample.image_id, file_name, size: sample.original_size }, &sample.instances);
        }
        truth.write(&annotations.join(format!("instances_{split}.json")))
    }
}

impl DetectionDataset for SceneObjects {
    fn len(&self) -> usize {
        self.scenes.config().count
    }

    fn get(&self, index: usize) -> Result<DetectionSample, DataError> {
        let number = self.scenes.number(index)?;
        let Scene { image, mut instances, .. } = self.scenes.scene(index as u64);
        for instance in &mut instances {
            instance.category -= usize::from(FIRST_THING);
        }
        Ok(DetectionSample::new(image, instances, scene_name(number), index as i64 + 1))
    }

    fn classes(&self) -> &ClassList {
        &self.classes
    }

    fn size(&self, _index: usize) -> Result<[usize; 2], DataError> {
        Ok([self.scenes.config().height, self.scenes.config().width])
    }
}

#[cfg(test)]
mod tests {
    use vmamba_types::Instance;

    use super::*;
    use crate::coco::{CocoDataset, CocoOptions};
    use crate::ground_truth::AnnotationEntry;

    #[test]
    fn written_scenes_are_read_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let config = SceneConfig { count: 4, first: 9, height: 40, width: 56, ..SceneConfig::default() };
        let scenes = SceneObjects::new(config).unwrap();
        scenes.write_coco_layout(folder.path(), "val").unwrap();
        let annotations = folder.path().join("annotations/instances_val.json");
        let read = CocoDataset::open(&annotations, &folder.path().join("val"), &CocoOptions::default()).unwrap();
        assert_eq!((read.len(), &read.classes().names), (4, &scenes.classes().names));
        let mut truth = scenes.truth().unwrap();
        truth.images.iter_mut().for_each(|image| image.file_name += ".png");
        assert_eq!(read.truth().unwrap(), truth);
        for index in 0..4 {
            let (read, made) = (read.get(index).unwrap(), scenes.get(index).unwrap());
            assert_eq!((read.image, read.name), (made.image, made.name));
            let boxes = |instances: &[Instance]| instances.iter().map(|i| (i.bbox, i.category)).collect::<Vec<_>>();
            // Reading leaves out objects narrower than a pixel.
            let visible: Vec<Instance> = made.instances.into_iter().filter(|i| i.bbox[2] - i.bbox[0] >= 1.0).collect();
            assert_eq!(boxes(&read.instances), boxes(&visible));
        }
    }

    #[test]
    fn samples_and_ground_truth_agree() {
        let scenes = SceneObjects::new(SceneConfig { count: 6, height: 64, width: 96, ..SceneConfig::default() }).unwrap();
        assert_eq!(scenes.classes().names, ["ball", "crate", "star", "ring", "gem"]);
        let truth = scenes.truth().unwrap();
        assert_eq!(truth.images.len(), 6);
        let mut seen = 0;
        for index in 0..6 {
            let sample = scenes.get(index).unwrap();
            let own: Vec<&AnnotationEntry> = truth.annotations.iter().filter(|a| a.image_id == sample.image_id).collect();
            assert_eq!(own.len(), sample.instances.len());
            for (annotation, instance) in own.iter().zip(&sample.instances) {
                assert_eq!(annotation.category_id as usize, instance.category + 1);
                assert_eq!(annotation.bbox[0] + annotation.bbox[2], f64::from(instance.bbox[2]));
                assert!(annotation.area > 0.0);
                seen += 1;
            }
        }
        assert_eq!(seen, truth.annotations.len());
    }
}
