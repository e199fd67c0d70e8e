//! The configuration of a detection run.

use std::path::PathBuf;

use anyhow::{Result, bail};
use mask_rcnn::{HeadsConfig, MaskRcnnConfig};
use serde::{Deserialize, Serialize};
use vision_datasets::scenes::SceneConfig;
use vision_datasets::transforms::{DetectionTestPipeline, DetectionTrainPipeline};
use vmamba::zoo::BackboneConfig;

use crate::engine::config::{Init, TrainConfig};

/// A detection and instance segmentation run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionConfig {
    /// Name of the configuration; the published row of this name is printed beside one's own result.
    pub name: String,
    /// Where training starts from: `"random"`, or a checkpoint (a classifier for the backbone, or a whole detector). Without a default.
    pub init: Init,
    /// The model.
    pub model: DetectionModelConfig,
    /// The data.
    pub data: DetectionDataConfig,
    /// Training.
    pub train: TrainConfig,
}

/// Mask R-CNN; the number of classes comes from the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectionModelConfig {
    /// The backbone: `preset = "vmamba_tiny_s1l8"` and any option that differs from it.
    pub backbone: BackboneConfig,
    /// Everything behind it.
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
    /// Where it comes from.
    pub source: DetectionSource,
    /// What training images go through.
    pub train: DetectionTrainPipeline,
    /// What test images go through.
    pub test: DetectionTestPipeline,
    /// Worker threads.
    #[serde(default = "workers")]
    pub workers: usize,
}

fn workers() -> usize {
    2
}

/// Where the data come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
pub enum DetectionSource {
    /// The built-in scenes with their things as objects.
    Scenes {
        /// Side of the square scenes in pixels.
        size: usize,
        /// Scenes to train on.
        train: usize,
        /// Scenes to evaluate on, which follow the others.
        val: usize,
        /// Which world.
        #[serde(default)]
        seed: u64,
    },
    /// Images with COCO annotations.
    Coco {
        /// The folder that everything is relative to.
        root: PathBuf,
        /// Annotations to train on.
        train_annotations: PathBuf,
        /// Folder of the images to train on.
        train_images: PathBuf,
        /// Annotations to evaluate on.
        val_annotations: PathBuf,
        /// Folder of the images to evaluate on.
        val_images: PathBuf,
    },
}

impl DetectionSource {
    /// The scenes of a split.
    pub fn scenes(&self, validation: bool) -> Option<SceneConfig> {
        let Self::Scenes { size, train, val, seed } = *self else { return None };
        let (first, count) = if validation { (train as u64, val) } else { (0, train) };
        Some(SceneConfig { seed, count, first, height: size, width: size, ..SceneConfig::default() })
    }
}

impl DetectionConfig {
    /// Checks what the types alone do not say.
    ///
    /// # Errors
    /// Names the field.
    pub fn validate(&self) -> Result<()> {
        self.train.validate()?;
        if self.data.workers == 0 {
            bail!("data.workers must be at least 1");
        }
        self.data.train.validate().map_err(|reason| anyhow::anyhow!("data.train.{reason}"))?;
        if self.data.test.scale.is_some_and(|scale| scale.contains(&0)) {
            bail!("data.test.scale must be two positive limits");
        }
        self.model.for_classes(1).validate().map_err(|error| anyhow::anyhow!("model.{error}"))?;
        Ok(())
    }
}
