//! Segmentors from checkpoints: to train on, and ready to predict.

use std::path::Path;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::prelude::*;
use upernet::{UperNet, UperNetConfig, official_key};
use vmamba::checkpoint::{Checkpoint, LoadReport, Weights, load_into};
use vmamba::zoo::Backbone;
use vmamba_types::ClassList;

use super::config::SegmentationConfig;
use crate::init::Init;
use crate::run_config::Header;

/// The model with the weights that training starts from.
pub(super) fn start_from(model: UperNet<Backbone>, config: &UperNetConfig, init: &Init) -> Result<(UperNet<Backbone>, Option<LoadReport>)> {
    let Init::Checkpoint(path) = init else { return Ok((model, None)) };
    let checkpoint = Checkpoint::read(path).context("init")?;
    let state = config.backbone.official_state(checkpoint.state_dict(Weights::Auto).context("init")?);
    let context = || format!("init = \"{}\"", path.display());
    if state.keys().any(|key| key.starts_with("decode_head.")) {
        // A segmentor for other classes: everything but the last layers.
        let options = config
            .backbone
            .load_options()
            .may_be_missing("decode_head.conv_seg.")
            .may_be_missing("auxiliary_head.conv_seg.")
            .ignore_unexpected("auxiliary_head.");
        let (model, report) = load_into(model, &official_key, &state, &options).with_context(context)?;
        return Ok((model, Some(report)));
    }
    // A classifier: its head is not used, and it has no norms on the outputs of its stages.
    let options = config.backbone.classifier_file_options();
    let state = config.backbone.backbone_state(state);
    let UperNet { backbone, decode_head, auxiliary_head } = model;
    let (backbone, report) = load_into(backbone, &vmamba::zoo::key, &state, &options).with_context(context)?;
    Ok((UperNet { backbone, decode_head, auxiliary_head }, Some(report)))
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
    let Header { config, classes, iteration } = Header::read(&checkpoint, config)?;
    let classes: ClassList = match classes {
        Some(classes) => classes,
        None => config.data.source.read_classes()?,
    };
    let state = config.model.backbone.official_state(checkpoint.state_dict(Weights::Averaged)?);
    let model_config = config.model.for_classes(classes.len());
    let model = model_config.try_init(device).context("model")?;
    // Prediction does not need the auxiliary head.
    let options = model_config.backbone.load_options().may_be_missing("auxiliary_head.").ignore_unexpected("auxiliary_head.");
    let (model, _) = load_into(model, &official_key, &state, &options).with_context(|| path.display().to_string())?;
    Ok(LoadedSegmentor { model: model.valid(), config, classes, iteration })
}
