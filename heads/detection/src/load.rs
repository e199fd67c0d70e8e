//! Detectors on a backbone of the zoo from checkpoints.

use std::path::PathBuf;

use burn::prelude::*;
use vmamba::ConfigError;
use vmamba::checkpoint::{
    Checkpoint, CheckpointError, ClassLayer, ClassRows, LoadError, LoadOptions, LoadReport, StateDict, Weights, load_into,
};
use vmamba::zoo::{self, Backbone, BackboneConfig};
use vmamba_types::SettingError;

/// Why the configuration of a detector is invalid.
#[derive(Debug, thiserror::Error)]
pub enum DetectorConfigError {
    /// The configuration of the backbone is invalid.
    #[error("backbone: {0}")]
    Backbone(#[from] ConfigError),
    /// Another field is invalid.
    #[error(transparent)]
    Heads(#[from] SettingError),
}

/// Why a detector cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DetectorLoadError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] DetectorConfigError),
    /// The file cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weights of the file do not fit the model.
    #[error("checkpoint {}: {error}", path.display())]
    Fit {
        /// The file.
        path: PathBuf,
        /// The keys that do not fit.
        error: LoadError,
    },
}

/// Prefixes of the keys of everything behind the backbone in the files of other detectors and of segmentors.
const OTHER_HEADS: [&str; 5] = ["neck.", "rpn_head.", "roi_head.", "decode_head.", "auxiliary_head."];

/// The official key of the parameter at `path` in a detector with the fields `backbone`, a [`Backbone`], `neck`, `rpn_head` and `roi_head`.
/// The keys of everything behind the backbone are the paths.
pub fn official_key(path: &str) -> String {
    match path.strip_prefix("backbone.") {
        Some(path) => format!("backbone.{}", zoo::key(path)),
        None => path.to_owned(),
    }
}

/// A detector whose field `backbone` is a [`Backbone`] and whose keys follow [`official_key`].
pub trait ZooDetector: Module {
    /// Replaces the backbone by the one that `load` returns.
    ///
    /// # Errors
    /// The error of `load`.
    fn load_backbone(
        self,
        load: impl FnOnce(Backbone) -> Result<(Backbone, LoadReport), LoadError>,
    ) -> Result<(Self, LoadReport), LoadError>;
}

/// The keys by which files of a detector are recognised, and the keys whose shapes depend on the number of classes.
#[derive(Clone, Debug)]
pub struct DetectorKeys {
    /// Key of the weight `[classes + 1, features]` of a classifier.
    pub classifier: &'static str,
    /// Key of the weight of the last layer of a mask head. A Faster R-CNN has the classifier of a Mask R-CNN, but no mask head.
    pub mask_predictor: &'static str,
    /// The layers whose shapes depend on the number of classes.
    pub class_layers: Vec<ClassLayer>,
}

/// The classifier with its background, the regression of boxes and the last layer of the mask head, by the prefixes of their keys.
pub fn class_layers([classifier, boxes, masks]: [String; 3]) -> [ClassLayer; 3] {
    [ClassLayer { rest: 1, ..ClassLayer::new(classifier) }, ClassLayer { rows: 4, ..ClassLayer::new(boxes) }, ClassLayer::new(masks)]
}

impl DetectorKeys {
    /// Whether the keys of a state_dict are those of this detector.
    pub fn is_checkpoint<K: AsRef<str>>(&self, keys: impl IntoIterator<Item = K>) -> bool {
        let (mut classifier, mut mask_predictor) = (false, false);
        for key in keys {
            classifier |= key.as_ref() == self.classifier;
            mask_predictor |= key.as_ref() == self.mask_predictor;
        }
        classifier && mask_predictor
    }

    /// The number of classes of the detector in a set of weights of a file; `None` when the file is not of this detector.
    ///
    /// # Errors
    /// [`CheckpointError`] when the file cannot be read.
    pub fn num_classes(&self, checkpoint: &Checkpoint, weights: Weights) -> Result<Option<usize>, CheckpointError> {
        let shapes = checkpoint.model_shapes(weights)?;
        if !self.is_checkpoint(shapes.keys()) {
            return Ok(None);
        }
        let rows = shapes.get(self.classifier).and_then(|shape| shape.first().copied());
        // The background has a row of its own.
        Ok(rows.and_then(|rows| rows.checked_sub(1)).filter(|classes| *classes > 0))
    }

    /// Loads the weights of a checkpoint to start training from into a model with random weights:
    ///
    /// * a classifier's file gives the backbone;
    /// * a file of this detector gives everything except the class layers if the classes differ, see `classes`;
    /// * the file of another detector or of a segmentor gives the backbone.
    ///
    /// Everything else keeps its random weights; the report lists it. `edit` may change the tensors of a file of this detector first, and
    /// `classes` compares the classes of the checkpoint with the classes of the model.
    ///
    /// # Errors
    /// [`DetectorLoadError`] when the file cannot be read or its weights do not fit. Nothing is loaded in part.
    pub fn start_from<D: ZooDetector>(
        &self,
        model: D,
        backbone: &BackboneConfig,
        checkpoint: &Checkpoint,
        weights: Weights,
        classes: &ClassRows,
        edit: impl FnOnce(StateDict) -> StateDict,
    ) -> Result<(D, LoadReport), DetectorLoadError> {
        let (state, origin) = checkpoint.model_state(weights)?;
        let state = backbone.official_state(state);
        let options = backbone.load_options();
        let loaded = if self.is_checkpoint(state.keys()) {
            let mut state = edit(state);
            let removed = classes.apply(&mut state, &self.class_layers);
            let options = self.class_layers.iter().fold(options, |options, layer| options.may_be_missing(&layer.prefix));
            load_into(model, &official_key, &state, &options).map(|(model, report)| (model, report.with_classes(classes, removed)))
        } else if has_heads(&state) {
            let options = OTHER_HEADS.into_iter().fold(options.strip_prefix("backbone."), LoadOptions::ignore_unexpected);
            model.load_backbone(|own| load_into(own, &zoo::key, &state, &options))
        } else {
            let (state, options) = (backbone.backbone_state(state), backbone.classifier_file_options());
            model.load_backbone(|own| load_into(own, &zoo::key, &state, &options))
        };
        let fit = |error| DetectorLoadError::Fit { path: checkpoint.path().to_owned(), error };
        loaded.map(|(model, report)| (model, report.from(origin))).map_err(fit)
    }

    /// Loads all weights of a set of a file of this detector, for prediction.
    /// `edit` may change the tensors of the file first.
    ///
    /// # Errors
    /// [`DetectorLoadError`] when the file cannot be read, or any weight is missing, unexpected or of another shape.
    pub fn load<D: ZooDetector>(
        &self,
        model: D,
        backbone: &BackboneConfig,
        checkpoint: &Checkpoint,
        weights: Weights,
        edit: impl FnOnce(StateDict) -> StateDict,
    ) -> Result<(D, LoadReport), DetectorLoadError> {
        let (state, origin) = checkpoint.model_state(weights)?;
        let loaded = load_into(model, &official_key, &edit(backbone.official_state(state)), &backbone.load_options());
        let fit = |error| DetectorLoadError::Fit { path: checkpoint.path().to_owned(), error };
        loaded.map(|(model, report)| (model, report.from(origin))).map_err(fit)
    }
}

/// Whether a file is a detector's or a segmentor's.
fn has_heads(state: &StateDict) -> bool {
    state.keys().any(|key| key.starts_with("rpn_head.") || key.starts_with("decode_head."))
}
