//! Segmentors from checkpoints, ready to predict.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::module::Module;
use burn::prelude::*;
use upernet::UperNet;
use upernet::inference::InferenceMode;
use vmamba::checkpoint::{Checkpoint, LoadReport, Weights};
use vmamba::zoo::Backbone;
use vmamba_types::ClassList;

use super::config::SegmentationConfig;
use super::evaluate::PredictionSettings;
use crate::memory::{EstimateOfImage, MemoryEstimate};
use crate::run_config::Header;

/// A segmentor from a checkpoint, ready to predict.
pub struct LoadedSegmentor {
    /// The file.
    pub checkpoint: PathBuf,
    /// The model, without gradients.
    pub model: UperNet<Backbone>,
    /// How it was trained.
    pub config: SegmentationConfig,
    /// Its classes.
    pub classes: ClassList,
    /// The iteration of the checkpoint, if it gives one.
    pub iteration: Option<u64>,
    /// Which set and which keys were loaded.
    pub report: LoadReport,
}

/// Loads a segmentor. A checkpoint of this project holds its configuration and classes. For an official one, `config` describes the model and
/// its data give the classes.
///
/// # Errors
/// When the file is no segmentation checkpoint, does not fit, or needs a configuration.
pub fn load_segmentor(path: &Path, config: Option<SegmentationConfig>, weights: Weights, device: &Device) -> Result<LoadedSegmentor> {
    let checkpoint = Checkpoint::read(path)?;
    let Header { config, classes, iteration } = Header::read(&checkpoint, config)?;
    let classes: ClassList = match classes {
        Some(classes) => classes,
        None => config.data.source.read_classes()?,
    };
    let (model, report) = config.model.for_classes(classes.len()).load_checkpoint(&checkpoint, weights, device)?;
    Ok(LoadedSegmentor { checkpoint: path.to_owned(), model: model.valid(), config, classes, iteration, report })
}

impl LoadedSegmentor {
    /// The memory for the prediction of an image of the limits of test images, or without them of the size of training images. Test-time
    /// augmentation is not counted.
    pub fn memory(&self) -> MemoryEstimate {
        let config = &self.config;
        let image = match config.test.mode {
            InferenceMode::Slide(windows) => windows.crop(),
            InferenceMode::Whole => config.data.test.resize.map_or(config.data.train.crop.size, |[a, b]| [a.min(b), a.max(b)]),
        };
        self.memory_of_images(false, false)(image)
    }

    /// The memory for the prediction of an image of `[height, width]`; `augment` turns test-time augmentation on, `drawn` counts a picture of the
    /// result.
    pub fn memory_of_images(&self, augment: bool, drawn: bool) -> EstimateOfImage<'_> {
        let model = self.config.model.for_classes(self.classes.len());
        Box::new(move |image| {
            let settings = PredictionSettings { model: &model, pipeline: &self.config.data.test, test: &self.config.test, augment, drawn };
            settings.memory(image)
        })
    }
}
