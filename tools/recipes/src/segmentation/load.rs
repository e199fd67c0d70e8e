//! Segmentors from checkpoints, ready to predict.

use std::path::Path;

use anyhow::Result;
use burn::module::Module;
use burn::prelude::*;
use upernet::UperNet;
use vmamba::checkpoint::Checkpoint;
use vmamba::zoo::Backbone;
use vmamba_types::ClassList;

use super::config::SegmentationConfig;
use crate::run_config::Header;

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
    let Header { config, classes, iteration } = Header::read(&checkpoint, config)?;
    let classes: ClassList = match classes {
        Some(classes) => classes,
        None => config.data.source.read_classes()?,
    };
    let model = config.model.for_classes(classes.len()).load_checkpoint(&checkpoint, device)?.0.valid();
    Ok(LoadedSegmentor { model, config, classes, iteration })
}
