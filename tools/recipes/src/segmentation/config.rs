//! The configuration of a segmentor.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use upernet::inference::InferenceMode;
use upernet::{FcnHeadConfig, UperHeadConfig, UperNetConfig, UperNetConfigError};
use vision_datasets::ade20k::{FolderDataset, FolderOptions, is_split_name};
use vision_datasets::class_list::{Found, NAME_CLASS_LIST, NO_CLASS_LIST, find_class_list, is_ade20k};
use vision_datasets::image_io::ExifOrientation;
use vision_datasets::sample::SegmentationDataset;
use vision_datasets::scenes::{SceneDataset, scene_classes};
use vision_datasets::transforms::{TestPipeline, TrainPipeline};
use vmamba::zoo::BackboneConfig;
use vmamba_types::ClassList;
use vmamba_types::setting::{self, SettingError};

use crate::run_config::{DataConfig, RunConfig, Section, TaskConfig, of_backbone, rgb_only};
use crate::scenes::SceneSource;
use crate::split::Split;

/// The name of the task in configurations and checkpoints.
pub const TASK: &str = "segmentation";

/// Semantic segmentation, as a task of configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum SegmentationTask {}

impl TaskConfig for SegmentationTask {
    const TASK: &'static str = TASK;
    type Model = SegmentationModelConfig;
    type Data = SegmentationDataConfig;
    type Test = TestConfig;
}

/// The configuration of a segmentor.
pub type SegmentationConfig = RunConfig<SegmentationTask>;

/// UperNet. The data give the number of classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SegmentationModelConfig {
    /// The backbone: `preset = "vmamba_tiny_s1l8"` and any option that differs from the preset.
    pub backbone: BackboneConfig,
    /// The decode head.
    #[serde(default)]
    pub head: UperHeadConfig,
    /// The auxiliary head; absent to train without it.
    #[serde(default)]
    pub auxiliary: Option<FcnHeadConfig>,
}

impl SegmentationModelConfig {
    /// The configuration of the whole model for a number of classes.
    pub fn for_classes(&self, num_classes: usize) -> UperNetConfig {
        UperNetConfig { backbone: self.backbone.clone(), num_classes, head: self.head.clone(), auxiliary: self.auxiliary.clone() }
    }
}

impl From<UperNetConfig> for SegmentationModelConfig {
    fn from(config: UperNetConfig) -> Self {
        Self { backbone: config.backbone, head: config.head, auxiliary: config.auxiliary }
    }
}

impl Section for SegmentationModelConfig {
    fn validate(&self) -> Result<(), SettingError> {
        rgb_only(&self.backbone)?;
        self.for_classes(1).validate().map_err(|error| match error {
            UperNetConfigError::Backbone(error) => of_backbone(error),
            UperNetConfigError::Heads(error) => error,
        })
    }
}

/// Images with label maps, and their transforms.
pub type SegmentationDataConfig = DataConfig<SegmentationSource, TrainPipeline, TestPipeline>;

impl Section for SegmentationDataConfig {
    fn validate(&self) -> Result<(), SettingError> {
        self.validate_workers()?;
        match &self.source {
            SegmentationSource::Scenes(scenes) => scenes.validate().map_err(|error| error.within("source"))?,
            SegmentationSource::Folder(folder) => folder.validate().map_err(|error| error.within("source"))?,
            SegmentationSource::Own => (),
        }
        self.train.validate().map_err(|error| error.within("train"))?;
        self.test.validate().map_err(|error| error.within("test"))
    }
}

/// Where images and label maps come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
pub enum SegmentationSource {
    /// The built-in scenes.
    Scenes(SceneSource),
    /// A folder of the ADE20K layout.
    Folder(FolderSource),
    /// A dataset of the program that trained; no configuration can open it.
    Own,
}

/// A folder of the ADE20K layout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FolderSource {
    /// The folder with `images/` and `annotations/`.
    pub root: PathBuf,
    /// Class list file, relative to `root`, or `ade20k` for ADE20K's 150 classes. If absent, the list in `root` (`objectInfo*`, `classes.txt`
    /// and similar names), or else ADE20K's classes when the folder is ADE20K's.
    #[serde(default)]
    pub classes: Option<PathBuf>,
    /// Ignores label 0 and lowers the others by one.
    #[serde(default)]
    pub reduce_zero_label: bool,
    /// Whether to read photos as they are stored, without the EXIF orientation that mmsegmentation applies, because the label maps were made
    /// so.
    #[serde(default)]
    pub ignore_exif: bool,
    /// Name of the training split.
    #[serde(default = "training")]
    pub train_split: String,
    /// Name of the validation split.
    #[serde(default = "validation")]
    pub val_split: String,
}

fn training() -> String {
    "training".to_owned()
}

fn validation() -> String {
    "validation".to_owned()
}

impl SegmentationSource {
    /// Opens a split.
    ///
    /// # Errors
    /// When a folder or class list is missing or wrong.
    pub fn open(&self, split: Split) -> Result<Arc<dyn SegmentationDataset>> {
        match self {
            Self::Scenes(scenes) => Ok(Arc::new(SceneDataset::new(scenes.split(split))?)),
            Self::Folder(source) => {
                let name = match split {
                    Split::Train => &source.train_split,
                    Split::Val => &source.val_split,
                };
                let classes = source.find_classes()?.classes;
                let options = FolderOptions { classes, reduce_zero_label: source.reduce_zero_label, exif: self.exif() };
                Ok(Arc::new(FolderDataset::open(&source.root, name, &options)?))
            }
            Self::Own => bail!("data.source: the model was trained on a dataset of another program; name the data with a configuration"),
        }
    }

    /// The classes, without opening the data.
    ///
    /// # Errors
    /// When the class list is missing or wrong.
    pub fn read_classes(&self) -> Result<ClassList> {
        match self {
            Self::Scenes(_) => Ok(scene_classes()),
            Self::Folder(source) => Ok(source.find_classes()?.classes),
            Self::Own => bail!("data.source: the model was trained on a dataset of another program, whose classes only it knows"),
        }
    }

    /// Whether the label files count the classes from 1 and use 0 for ignored pixels.
    pub fn reduce_zero_label(&self) -> bool {
        matches!(self, Self::Folder(source) if source.reduce_zero_label)
    }

    /// What is done with the EXIF orientation of photos.
    pub fn exif(&self) -> ExifOrientation {
        ExifOrientation::ignored_if(matches!(self, Self::Folder(source) if source.ignore_exif))
    }

    /// Where the data are, and for a folder where the classes come from, for a person.
    pub fn place(&self) -> String {
        match self {
            Self::Scenes(_) => "built-in scenes".to_owned(),
            Self::Folder(source) => {
                let root = source.root.display();
                source.find_classes().map_or_else(|_| root.to_string(), |found| format!("{root} ({found})"))
            }
            Self::Own => "own dataset".to_owned(),
        }
    }
}

impl FolderSource {
    /// Validates the names of the splits.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        for (field, name) in [("train_split", &self.train_split), ("val_split", &self.val_split)] {
            setting::require(is_split_name(name), field, "the name of a folder below images and annotations", name)?;
        }
        Ok(())
    }

    /// The classes and where they come from.
    fn find_classes(&self) -> Result<Found> {
        find_class_list(&self.root, self.classes.as_deref(), self.reduce_zero_label)?
            .with_context(|| format!("{}: {NO_CLASS_LIST}; {NAME_CLASS_LIST}", self.root.display()))
    }

    /// Replaces the folder. The class list of the new folder counts if it lacks the file that the configuration names.
    pub fn move_to(&mut self, root: &Path) {
        root.clone_into(&mut self.root);
        self.classes = self.classes.take().filter(|list| is_ade20k(list) || root.join(list).is_file());
    }
}

/// Evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TestConfig {
    /// Whole images or sliding windows.
    pub mode: InferenceMode,
    /// Factors of the original size for test-time augmentation, each with and without flip.
    pub tta_ratios: TtaRatios,
}

/// Scale factors of test-time augmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct TtaRatios(pub Vec<f64>);

impl Default for TtaRatios {
    fn default() -> Self {
        Self(vec![0.5, 0.75, 1.0, 1.25, 1.5, 1.75])
    }
}

/// Smallest factor of test-time augmentation.
const MIN_TTA_RATIO: f64 = 0.05;

/// Largest factor of test-time augmentation.
const MAX_TTA_RATIO: f64 = 16.0;

impl Section for TestConfig {
    fn validate(&self) -> Result<(), SettingError> {
        if let InferenceMode::Slide(windows) = self.mode {
            setting::size("mode.slide.crop", windows.crop(), setting::INPUT_SIDE)?;
        }
        setting::positives("tta_ratios", &self.tta_ratios.0, MAX_TTA_RATIO)?;
        let allowed = format!("factors from {MIN_TTA_RATIO}, below which an image has no detail left");
        setting::require(self.tta_ratios.0.iter().all(|ratio| *ratio >= MIN_TTA_RATIO), "tta_ratios", allowed, &self.tta_ratios.0)
    }
}
