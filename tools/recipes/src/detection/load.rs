//! Detectors from checkpoints, ready to predict.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use burn::module::Module;
use burn::prelude::*;
use vision_datasets::sample::DetectionDataset;
use vmamba::checkpoint::{Checkpoint, LoadReport, Weights};
use vmamba_types::ClassList;
use vmamba_types::words::counted;

use super::config::DetectionConfig;
use super::evaluate::prediction_memory;
use super::model::{AnyDetector, official_classes};
use crate::memory::{EstimateOfImage, MemoryEstimate};
use crate::run_config::Header;

/// A detector from a checkpoint, ready to predict.
pub struct LoadedDetector {
    /// The file.
    pub checkpoint: PathBuf,
    /// The model, without gradients.
    pub model: AnyDetector,
    /// How it was trained.
    pub config: DetectionConfig,
    /// Its classes.
    pub classes: ClassList,
    /// Whether the names of the classes are known. An official checkpoint gives only their number.
    pub names_known: bool,
    /// The iteration of the checkpoint, if it gives one.
    pub iteration: Option<u64>,
    /// Which set and which keys were loaded.
    pub report: LoadReport,
}

/// Loads a detector. A checkpoint of this project holds its configuration and classes. For an official one, `config` describes the model and
/// its data give the classes.
///
/// # Errors
/// When the file is no detection checkpoint, does not fit, or needs a configuration.
pub fn load_detector(path: &Path, config: Option<DetectionConfig>, weights: Weights, device: &Device) -> Result<LoadedDetector> {
    let checkpoint = Checkpoint::read(path)?;
    let Header { config, classes, iteration } = Header::read(&checkpoint, config)?;
    let (classes, names_known) = match classes {
        Some(classes) => (classes, true),
        None => official_classes(&config.model, &checkpoint, weights)?,
    };
    let (model, report) = config.model.load(classes.len(), &checkpoint, weights, device)?;
    Ok(LoadedDetector { checkpoint: path.to_owned(), model: model.valid(), config, classes, names_known, iteration, report })
}

impl LoadedDetector {
    /// The memory for the prediction of an image of the limits of test images, or without them of the size of training images.
    pub fn memory(&self) -> MemoryEstimate {
        let data = &self.config.data;
        let image = data.test.scale.map_or_else(|| data.train.largest_input(), |[a, b]| [a.min(b), a.max(b)]);
        self.memory_of_images(false)(image)
    }

    /// The memory for the prediction of an image of `[height, width]`; `drawn` counts a picture of the result.
    pub fn memory_of_images(&self, drawn: bool) -> EstimateOfImage<'_> {
        Box::new(move |image| prediction_memory(&self.config.model, self.classes.len(), &self.config.data.test, image, drawn))
    }

    /// Opens the validation data of its configuration for its classes; they may lack annotations. Where their names are not known, they become
    /// those of the data, in the order of the annotations.
    ///
    /// # Errors
    /// When the data are missing or wrong, or have other classes.
    pub fn open_data(&mut self) -> Result<Arc<dyn DetectionDataset>> {
        let names = self.names_known.then_some(&self.classes);
        let data = self.config.data.source.open_test(names)?;
        if data.classes().len() != self.classes.len() {
            let (file, own) = (self.checkpoint.display(), counted(self.classes.len(), "class", "classes"));
            bail!("the model in {file} has {own}, {} has {}", self.config.data.source.place(), data.classes().len());
        }
        self.classes = data.classes().clone();
        Ok(data)
    }
}
