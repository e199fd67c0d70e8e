//! Segmentors from checkpoints: to train on, and ready to predict.

use std::path::Path;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use upernet::{UperNet, UperNetConfig};
use vision_datasets::sample::ClassList;
use vmamba::checkpoint::{Checkpoint, LoadReport};
use vmamba::zoo::Backbone;

use super::config::{SegmentationConfig, TASK};
use crate::init::Init;

/// The model with the weights that training starts from.
pub(super) fn start_from(model: UperNet<Backbone>, config: &UperNetConfig, init: &Init) -> Result<(UperNet<Backbone>, Option<LoadReport>)> {
    let Init::Checkpoint(path) = init else { return Ok((model, None)) };
    let (model, report) = config.start_from(model, path).with_context(|| format!("init = \"{}\"", path.display()))?;
    Ok((model, Some(report)))
}

/// A segmentor from a checkpoint, ready to predict.
pub struct LoadedSegmentor {
    /// The model, without gradients.
    pub model: UperNet<Backbone>,
    /// How it was trained.
    pub config: SegmentationConfig,
    /// Its classes.
    pub classes: ClassList,
    /// The iteration of the checkpoint, if it gives one.
    pub iteration: Option<u64>,
}

/// Loads a segmentor. A checkpoint of this project holds its configuration and classes. For an official one, `config` describes the model and
/// its data give the classes.
///
/// # Errors
/// When the file is no segmentation checkpoint, does not fit, or needs a configuration.
pub fn load_segmentor(path: &Path, config: Option<SegmentationConfig>, device: &Device) -> Result<LoadedSegmentor> {
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
    let classes: ClassList = match field("classes") {
        Some(text) => serde_json::from_str(text).with_context(|| format!("{}: its classes", path.display()))?,
        None => config.data.source.read_classes()?,
    };
    let (model, _) = config.model.for_classes(classes.len()).load_checkpoint(&checkpoint, device)?;
    let iteration = field("iteration").and_then(|text| text.parse().ok());
    Ok(LoadedSegmentor { model: model.valid(), config, classes, iteration })
}
