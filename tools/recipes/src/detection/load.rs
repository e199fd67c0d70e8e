//! Detectors from checkpoints: to train on, and ready to predict.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use mask_rcnn::{MaskRcnn, MaskRcnnConfig};
use vision_datasets::sample::{ClassList, DetectionDataset};
use vmamba::checkpoint::{Checkpoint, LoadReport};
use vmamba::zoo::Backbone;

use super::config::{DetectionConfig, TASK};
use crate::init::Init;
use crate::split::Split;

/// The model with the weights that training starts from.
pub(super) fn start_from(
    model: MaskRcnn<Backbone>,
    config: &MaskRcnnConfig,
    init: &Init,
) -> Result<(MaskRcnn<Backbone>, Option<LoadReport>)> {
    let Init::Checkpoint(path) = init else { return Ok((model, None)) };
    let (model, report) = config.start_from(model, path).with_context(|| format!("init = \"{}\"", path.display()))?;
    Ok((model, Some(report)))
}

/// A detector from a checkpoint, ready to predict.
pub struct LoadedDetector {
    /// The model, without gradients.
    pub model: MaskRcnn<Backbone>,
    /// How it was trained.
    pub config: DetectionConfig,
    /// Its classes.
    pub classes: ClassList,
    /// Whether the names of the classes are known. An official checkpoint gives only their number.
    pub names_known: bool,
    /// The iteration of the checkpoint, if it gives one.
    pub iteration: Option<u64>,
}

/// Loads a detector. A checkpoint of this project holds its configuration and classes. For an official one, `config` describes the model and
/// its data give the classes.
///
/// # Errors
/// When the file is no detection checkpoint, does not fit, or needs a configuration.
pub fn load_detector(path: &Path, config: Option<DetectionConfig>, device: &Device) -> Result<LoadedDetector> {
    let checkpoint = Checkpoint::read(path)?;
    let metadata = checkpoint.metadata().clone();
    let own = checkpoint.is_ours();
    if let Some(task) = metadata.get("task").filter(|task| own && *task != TASK) {
        bail!("{} is a checkpoint for {task}, not for {TASK}", path.display());
    }
    let field = |name: &str| metadata.get(name).filter(|_| own);
    let config = match (config, field("config")) {
        (Some(config), _) => config,
        (None, Some(text)) => serde_json::from_str(text).with_context(|| format!("{}: its configuration", path.display()))?,
        (None, None) => bail!("{} does not say what model it is; name its configuration with --config", path.display()),
    };
    let (classes, names_known): (ClassList, bool) = match field("classes") {
        Some(text) => (serde_json::from_str(text).with_context(|| format!("{}: its classes", path.display()))?, true),
        None => match mask_rcnn::num_classes(&checkpoint)? {
            Some(80) => (vision_datasets::coco::classes(), true),
            Some(classes) => (ClassList::numbered(classes), false),
            None => bail!("{} has no `roi_head.bbox_head.fc_cls.weight`; is it a Mask R-CNN?", path.display()),
        },
    };
    let (model, _) = config.model.for_classes(classes.len()).load_checkpoint(&checkpoint, device)?;
    let iteration = field("iteration").and_then(|text| text.parse().ok());
    Ok(LoadedDetector { model: model.valid(), config, classes, names_known, iteration })
}

impl LoadedDetector {
    /// Opens the validation data of its configuration for its classes. Where their names are not known, they become those of the data, in the
    /// order of the annotations.
    ///
    /// # Errors
    /// When the data are missing or wrong, or have other classes.
    pub fn open_data(&mut self) -> Result<Arc<dyn DetectionDataset>> {
        let names = self.names_known.then_some(self.classes.names.as_slice());
        let data = self.config.data.source.open(Split::Val, names)?.data;
        if data.classes().len() != self.classes.len() {
            bail!("the model knows {} classes, the data have {}", self.classes.len(), data.classes().len());
        }
        self.classes = data.classes().clone();
        Ok(data)
    }
}
