//! The scenes as a data set of objects: the five kinds of things, with boxes and masks of their visible parts.

use std::path::Path;

use super::dataset::scene_name;
use super::{FIRST_THING, SceneConfig, SceneConfigError, SceneDataset, scene_classes};
use crate::coco::{AnnotationEntry, CategoryEntry, GroundTruth, ImageEntry};
use crate::mask::Segmentation;
use crate::sample::{ClassList, DataError, DetectionDataset, DetectionSample, Instance};

/// The built-in scenes with their things as objects; ball is class 0.
#[derive(Clone, Debug)]
pub struct SceneObjects {
    scenes: SceneDataset,
    classes: ClassList,
}

impl SceneObjects {
    /// The scenes `config.first ..` of the world `config.seed`.
    ///
    /// # Errors
    /// When a size or a number of things is out of its range.
    pub fn new(config: SceneConfig) -> Result<Self, SceneConfigError> {
        let all = scene_classes();
        let things = all.names.into_iter().zip(all.palette).skip(usize::from(FIRST_THING));
        Ok(Self { scenes: SceneDataset::new(config)?, classes: ClassList::new(things) })
    }

    /// Writes `root/<split>/scene_*.png` and `root/annotations/instances_<split>.json`, as COCO's data lie. Files that exist are overwritten.
    ///
    /// # Errors
    /// When a folder or file cannot be written; the error names it.
    pub fn write_coco_layout(&self, root: &Path, split: &str) -> Result<(), DataError> {
        let (images, annotations) = (root.join(split), root.join("annotations"));
        for folder in [&images, &annotations] {
            std::fs::create_dir_all(folder).map_err(|source| DataError::io(folder, source))?;
        }
        let truth = self.truth()?;
        for (index, entry) in truth.images.iter().enumerate() {
            let path = images.join(&entry.file_name);
            self.scenes.scene(index as u64).image.save(&path).map_err(|source| DataError::image(&path, source))?;
        }
        Ok(truth.write(&annotations.join(format!("instances_{split}.json")))?)
    }

    fn name(&self, index: usize) -> String {
        scene_name(self.scenes.config().first.wrapping_add(index as u64))
    }

    /// The objects of a scene, and what is left of them behind others.
    fn objects(&self, index: usize) -> Vec<Instance> {
        let class = |mut instance: Instance| {
            instance.category -= usize::from(FIRST_THING);
            instance
        };
        self.scenes.scene(index as u64).instances.into_iter().map(class).collect()
    }

    fn id(&self, index: usize) -> i64 {
        index as i64 + 1
    }
}

impl DetectionDataset for SceneObjects {
    fn len(&self) -> usize {
        self.scenes.scene_count()
    }

    fn get(&self, index: usize) -> Result<DetectionSample, DataError> {
        let config = self.scenes.config();
        Ok(DetectionSample {
            image: self.scenes.scene(index as u64).image,
            instances: self.objects(index),
            name: self.name(index),
            image_id: self.id(index),
            original_size: [config.height, config.width],
        })
    }

    fn classes(&self) -> &ClassList {
        &self.classes
    }

    fn size(&self, _index: usize) -> [usize; 2] {
        [self.scenes.config().height, self.scenes.config().width]
    }

    fn truth(&self) -> Result<GroundTruth, DataError> {
        let mut truth = GroundTruth {
            categories: self.classes.names.iter().zip(1..).map(|(name, id)| CategoryEntry { id, name: name.clone() }).collect(),
            ..GroundTruth::default()
        };
        for index in 0..self.scenes.scene_count() {
            let (image_id, size) = (self.id(index), self.size(index));
            truth.images.push(ImageEntry { id: image_id, file_name: format!("{}.png", self.name(index)), size });
            for instance in self.objects(index) {
                let [x0, y0, x1, y1] = instance.bbox.map(f64::from);
                let rle = instance.mask.map(|mask| mask.rle());
                truth.annotations.push(AnnotationEntry {
                    id: truth.annotations.len() as i64 + 1,
                    image_id,
                    category_id: instance.category as i64 + 1,
                    bbox: [x0, y0, x1 - x0, y1 - y0],
                    area: rle.as_ref().map_or(0.0, |rle| rle.area() as f64),
                    crowd: false,
                    segmentation: rle.map(Segmentation::Rle),
                });
            }
        }
        Ok(truth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coco::{CocoDataset, CocoOptions};

    #[test]
    fn written_scenes_are_read_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let config = SceneConfig { count: 4, first: 9, height: 40, width: 56, ..SceneConfig::default() };
        let scenes = SceneObjects::new(config).unwrap();
        scenes.write_coco_layout(folder.path(), "val").unwrap();
        let annotations = folder.path().join("annotations/instances_val.json");
        let read = CocoDataset::open(&annotations, &folder.path().join("val"), &CocoOptions::default()).unwrap();
        assert_eq!((read.len(), &read.classes().names), (4, &scenes.classes().names));
        assert_eq!(read.truth().unwrap(), scenes.truth().unwrap());
        for index in 0..4 {
            let (read, made) = (read.get(index).unwrap(), scenes.get(index).unwrap());
            assert_eq!((read.image, read.name), (made.image, made.name));
            let boxes = |instances: &[Instance]| instances.iter().map(|i| (i.bbox, i.category)).collect::<Vec<_>>();
            // What is narrower than a pixel is left out on reading.
            let visible: Vec<Instance> = made.instances.into_iter().filter(|i| i.bbox[2] - i.bbox[0] >= 1.0).collect();
            assert_eq!(boxes(&read.instances), boxes(&visible));
        }
    }

    #[test]
    fn samples_and_ground_truth_say_the_same() {
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
