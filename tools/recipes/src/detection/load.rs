//! Detectors from checkpoints: to train on, and ready to predict.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use mask_rcnn::{MaskRcnn, MaskRcnnConfig, official_key};
use vision_datasets::sample::DetectionDataset;
use vmamba::checkpoint::{Checkpoint, LoadReport, Weights, load_into};
use vmamba::zoo::Backbone;
use vmamba_types::ClassList;

use super::config::DetectionConfig;
use crate::init::Init;
use crate::run_config::Header;
use crate::split::Split;

/// The model with the weights that training starts from.
pub(super) fn start_from(
    mut model: MaskRcnn<Backbone>,
    config: &MaskRcnnConfig,
    init: &Init,
) -> Result<(MaskRcnn<Backbone>, Option<LoadReport>)> {
    let Init::Checkpoint(path) = init else { return Ok((model, None)) };
    let checkpoint = Checkpoint::read(path).context("init")?;
    let state = config.backbone.official_state(checkpoint.state_dict(Weights::Auto).context("init")?);
    let context = || format!("init = \"{}\"", path.display());
    if state.keys().any(|key| key.starts_with("rpn_head.")) {
        // A detector for other classes: everything but the last layers.
        let options = config
            .backbone
            .load_options()
            .may_be_missing("roi_head.bbox_head.fc_cls.")
            .may_be_missing("roi_head.bbox_head.fc_reg.")
            .may_be_missing("roi_head.mask_head.conv_logits.");
        let (model, report) = load_into(model, &official_key, &state, &options).with_context(context)?;
        return Ok((model, Some(report)));
    }
    // A classifier: its head is not used, and it has no norms on the outputs of its stages.
    let options = config.backbone.classifier_file_options();
    let state = config.backbone.backbone_state(state);
    let (backbone, report) = load_into(model.backbone, &vmamba::zoo::key, &state, &options).with_context(context)?;
    model.backbone = backbone;
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
    let Header { config, classes, iteration } = Header::read(&checkpoint, config)?;
    let state = checkpoint.state_dict(Weights::Averaged)?;
    let state = config.model.backbone.official_state(state);
    let (classes, names_known): (ClassList, bool) = match classes {
        Some(classes) => (classes, true),
        // An official checkpoint has a row of weights for each class and one for the background.
        None => match state.get("roi_head.bbox_head.fc_cls.weight").and_then(|weight| weight.shape.first()) {
            Some(81) => (vision_datasets::coco::classes(), true),
            Some(rows) if *rows > 1 => (ClassList::numbered(rows - 1), false),
            _ => bail!("{} has no `roi_head.bbox_head.fc_cls.weight`; is it a Mask R-CNN?", path.display()),
        },
    };
    let model = config.model.for_classes(classes.len()).try_init(device).context("model")?;
    let options = config.model.backbone.load_options();
    let (model, _) = load_into(model, &official_key, &state, &options).with_context(|| path.display().to_string())?;
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
