//! The configuration of a detector.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use vision_datasets::coco::{CocoDataset, CocoOptions};
use vision_datasets::image_io::ExifOrientation;
use vision_datasets::sample::DetectionDataset;
use vision_datasets::scenes::SceneObjects;
use vision_datasets::transforms::{DetectionTestPipeline, DetectionTrainPipeline};
use vmamba_types::{ClassList, SettingError};

use super::model::DetectionModelConfig;
use crate::run_config::{DataConfig, RunConfig, Section, TaskConfig};
use crate::scenes::SceneSource;
use crate::split::Split;

/// The name of the task in configurations and checkpoints.
pub const TASK: &str = "detection";

/// Detection and instance segmentation, as a task of configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum DetectionTask {}

impl TaskConfig for DetectionTask {
    const TASK: &'static str = TASK;
    type Model = DetectionModelConfig;
    type Data = DetectionDataConfig;
    type Test = DetectionTestConfig;
}

/// The configuration of a detector.
pub type DetectionConfig = RunConfig<DetectionTask>;

/// Images with annotated objects, and their transforms.
pub type DetectionDataConfig = DataConfig<DetectionSource, DetectionTrainPipeline, DetectionTestPipeline>;

impl Section for DetectionDataConfig {
    fn validate(&self) -> Result<(), SettingError> {
        self.validate_workers()?;
        if let DetectionSource::Scenes(scenes) = &self.source {
            scenes.validate().map_err(|error| error.within("source"))?;
        }
        self.train.validate().map_err(|error| error.within("train"))?;
        self.test.validate().map_err(|error| error.within("test"))
    }
}

/// Evaluation of a detector; it has no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DetectionTestConfig {}

impl Section for DetectionTestConfig {
    fn validate(&self) -> Result<(), SettingError> {
        Ok(())
    }
}

/// Where images and annotations come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
pub enum DetectionSource {
    /// The built-in scenes with their things as objects.
    Scenes(SceneSource),
    /// Images with COCO annotations.
    Coco(CocoSource),
    /// A dataset of the program that trained; no configuration can open it.
    Own,
}

/// Images with COCO annotations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CocoSource {
    /// The folder that the other paths are relative to.
    pub root: PathBuf,
    /// Annotations to train on.
    pub train_annotations: PathBuf,
    /// Folder of the images to train on.
    pub train_images: PathBuf,
    /// Annotations to validate on.
    pub val_annotations: PathBuf,
    /// Folder of the images to validate on.
    pub val_images: PathBuf,
    /// Whether to leave the root category that Roboflow puts before the classes out of the classes: id 0, supercategory `none`, no annotations.
    #[serde(default)]
    pub drop_root_category: bool,
    /// Whether to read photos as they are stored, without the EXIF orientation that mmdetection applies, because the annotations were made so.
    #[serde(default)]
    pub ignore_exif: bool,
}

impl DetectionSource {
    /// Opens a split. `classes` orders the classes, for a trained model.
    ///
    /// # Errors
    /// When annotations or images are missing or wrong.
    pub fn open(&self, split: Split, classes: Option<&ClassList>) -> Result<Arc<dyn DetectionDataset>> {
        match self {
            Self::Scenes(scenes) => Ok(Arc::new(SceneObjects::new(scenes.split(split))?)),
            Self::Coco(source) => source.open_with(split, source.options(split, classes)),
            Self::Own => bail!("data.source: the model was trained on a dataset of another program; name the data with a configuration"),
        }
    }

    /// Opens the validation data for a test of a trained model, which need no annotations.
    ///
    /// # Errors
    /// As [`DetectionSource::open`].
    pub fn open_test(&self, classes: Option<&ClassList>) -> Result<Arc<dyn DetectionDataset>> {
        match self {
            Self::Coco(source) => source.open_with(Split::Val, CocoOptions { unlabelled: true, ..source.options(Split::Val, classes) }),
            other => other.open(Split::Val, classes),
        }
    }

    /// What is done with the EXIF orientation of photos.
    pub fn exif(&self) -> ExifOrientation {
        ExifOrientation::ignored_if(matches!(self, Self::Coco(source) if source.ignore_exif))
    }

    /// Where the data are, for a person.
    pub fn place(&self) -> String {
        match self {
            Self::Scenes(_) => "built-in scenes".to_owned(),
            Self::Coco(source) => source.root.display().to_string(),
            Self::Own => "own dataset".to_owned(),
        }
    }
}

impl CocoSource {
    fn options(&self, split: Split, classes: Option<&ClassList>) -> CocoOptions {
        let options = match split {
            Split::Train => CocoOptions::train(),
            Split::Val => CocoOptions::evaluation(),
        };
        CocoOptions {
            classes: classes.cloned(),
            drop_root_category: self.drop_root_category,
            exif: ExifOrientation::ignored_if(self.ignore_exif),
            ..options
        }
    }

    fn open_with(&self, split: Split, options: CocoOptions) -> Result<Arc<dyn DetectionDataset>> {
        let (annotations, images) = match split {
            Split::Train => (&self.train_annotations, &self.train_images),
            Split::Val => (&self.val_annotations, &self.val_images),
        };
        Ok(Arc::new(CocoDataset::open(&self.root.join(annotations), &self.root.join(images), &options)?))
    }
}
