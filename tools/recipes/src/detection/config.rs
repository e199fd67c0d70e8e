//! The configuration of a detector.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use mask_rcnn::{HeadsConfig, MaskRcnnConfig};
use serde::{Deserialize, Serialize};
use vision_datasets::coco::{CocoDataset, CocoOptions};
use vision_datasets::sample::DetectionDataset;
use vision_datasets::scenes::SceneObjects;
use vision_datasets::transforms::{DetectionTestPipeline, DetectionTrainPipeline};
use vmamba::zoo::BackboneConfig;
use vmamba_train::TrainConfig;

use crate::configured::check_task;
use crate::init::Init;
use crate::scenes::SceneSource;
use crate::split::Split;

/// The name of the task in configurations and checkpoints.
pub const TASK: &str = "detection";

/// Detection and instance segmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionConfig {
    /// `"detection"`. It may be left out where a program or type names the task.
    #[serde(default)]
    pub task: Option<String>,
    /// Name of the configuration. Programs print the published row of this name beside their own result.
    pub name: String,
    /// Where training starts from: `"random"`, or a checkpoint (a classifier for the backbone, or a whole detector). It has no default.
    pub init: Init,
    /// The model.
    pub model: DetectionModelConfig,
    /// The data.
    pub data: DetectionDataConfig,
    /// Training.
    pub train: TrainConfig,
}

/// Mask R-CNN. The data give the number of classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionModelConfig {
    /// The backbone: `preset = "vmamba_tiny_s1l8"` and any option that differs from the preset.
    pub backbone: BackboneConfig,
    /// Neck, RPN and RoI heads.
    #[serde(default)]
    pub heads: HeadsConfig,
}

impl DetectionModelConfig {
    /// The configuration of the whole model for a number of classes.
    pub fn for_classes(&self, num_classes: usize) -> MaskRcnnConfig {
        MaskRcnnConfig { backbone: self.backbone.clone(), num_classes, heads: self.heads.clone() }
    }
}

/// The data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionDataConfig {
    /// Where images and annotations come from.
    pub source: DetectionSource,
    /// Transforms of training images.
    pub train: DetectionTrainPipeline,
    /// Transforms of test images.
    pub test: DetectionTestPipeline,
    /// Worker threads that read and transform images.
    #[serde(default = "workers")]
    pub workers: usize,
}

pub(super) fn workers() -> usize {
    2
}

/// Where images and annotations come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
}

/// A split of a data source.
pub struct OpenedData {
    /// The images.
    pub data: Arc<dyn DetectionDataset>,
    /// What was left out of the annotations, a sentence each.
    pub notes: Vec<String>,
}

impl DetectionSource {
    /// Opens a split. `classes` orders the classes by name, for a trained model.
    ///
    /// # Errors
    /// When annotations or images are missing or wrong.
    pub fn open(&self, split: Split, classes: Option<&[String]>) -> Result<OpenedData> {
        match self {
            Self::Scenes(scenes) => Ok(OpenedData { data: Arc::new(SceneObjects::new(scenes.split(split))?), notes: Vec::new() }),
            Self::Coco(source) => source.open(split, classes),
            Self::Own => bail!("data.source: the model was trained on a dataset of another program; name the data with a configuration"),
        }
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
    fn open(&self, split: Split, classes: Option<&[String]>) -> Result<OpenedData> {
        let (annotations, images, options) = match split {
            Split::Train => (&self.train_annotations, &self.train_images, CocoOptions::train()),
            Split::Val => (&self.val_annotations, &self.val_images, CocoOptions::default()),
        };
        let options = CocoOptions { classes: classes.map(<[String]>::to_vec), ..options };
        let data = CocoDataset::open(&self.root.join(annotations), &self.root.join(images), &options)?;
        let (dropped, annotations) = (data.dropped(), annotations.display());
        let mut notes = Vec::new();
        if let Some(first) = dropped.first_annotation {
            let count = dropped.annotations;
            notes.push(format!("{annotations}: {count} annotations without area in their image are left out, first {first}"));
        }
        let (empty, small) = (dropped.empty_images, dropped.small_images);
        if empty + small > 0 {
            notes.push(format!("{annotations}: {empty} images without annotation and {small} tiny ones are left out of training"));
        }
        Ok(OpenedData { data: Arc::new(data), notes })
    }
}

impl DetectionConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<()> {
        check_task(TASK, self.task.as_deref())?;
        self.train.validate()?;
        if self.data.workers == 0 {
            bail!("data.workers must be at least 1");
        }
        self.data.train.validate().map_err(|reason| anyhow!("data.train.{reason}"))?;
        if self.data.test.scale.is_some_and(|scale| scale.contains(&0)) {
            bail!("data.test.scale must be two positive limits");
        }
        self.model.for_classes(1).validate().map_err(|error| anyhow!("model.{error}"))?;
        Ok(())
    }
}
