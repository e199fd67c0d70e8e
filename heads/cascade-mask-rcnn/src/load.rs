//! Cascade Mask R-CNN from checkpoints.

use std::path::Path;

use burn::prelude::*;
use vmamba::checkpoint::{Checkpoint, CheckpointError, ClassRows, LoadError, LoadReport, StateDict, Weights};
use vmamba::zoo::Backbone;
use vmamba_detection::{DetectorKeys, DetectorLoadError, ZooDetector, class_layers};

use crate::config::{CascadeMaskRcnnConfig, MaskHeads};
use crate::model::CascadeMaskRcnn;

/// The keys of the files of a cascade with `stages` stages.
fn keys(stages: usize) -> DetectorKeys {
    let layers = |stage: usize| {
        let prefixes =
            [format!("bbox_head.{stage}.fc_cls."), format!("bbox_head.{stage}.fc_reg."), format!("mask_head.{stage}.conv_logits.")];
        class_layers(prefixes.map(|prefix| format!("roi_head.{prefix}")))
    };
    DetectorKeys {
        classifier: "roi_head.bbox_head.0.fc_cls.weight",
        mask_predictor: "roi_head.mask_head.0.conv_logits.weight",
        class_layers: (0..stages).flat_map(layers).collect(),
    }
}

/// Whether the keys of a state_dict are those of a Cascade Mask R-CNN of mmdetection or of this toolkit.
///
/// ```
/// assert!(vmamba_cascade::is_checkpoint(["roi_head.bbox_head.0.fc_cls.weight", "roi_head.mask_head.0.conv_logits.weight"]));
/// // The keys of a Mask R-CNN have no index of a stage, and a Cascade R-CNN without masks has no mask head.
/// assert!(!vmamba_cascade::is_checkpoint(["roi_head.bbox_head.fc_cls.weight", "roi_head.mask_head.conv_logits.weight"]));
/// assert!(!vmamba_cascade::is_checkpoint(["rpn_head.rpn_cls.weight", "roi_head.bbox_head.0.fc_cls.weight"]));
/// ```
pub fn is_checkpoint<K: AsRef<str>>(names: impl IntoIterator<Item = K>) -> bool {
    keys(1).is_checkpoint(names)
}

/// The number of classes of the Cascade Mask R-CNN in a file; `None` when the file is not a Cascade Mask R-CNN.
///
/// # Errors
/// [`CheckpointError`] when the file cannot be read.
pub fn num_classes(checkpoint: &Checkpoint, weights: Weights) -> Result<Option<usize>, CheckpointError> {
    keys(1).num_classes(checkpoint, weights)
}

impl CascadeMaskRcnnConfig {
    /// Builds the model on `device` with the weights of a checkpoint to start training from:
    ///
    /// * a classifier's file gives the backbone;
    /// * a Cascade Mask R-CNN's file gives everything except the layers whose shapes depend on the number of classes, when that number
    ///   differs;
    /// * the file of another detector or of a segmentor gives the backbone.
    ///
    /// Everything else keeps its random weights; the report lists it.
    ///
    /// # Errors
    /// [`DetectorLoadError`] when the configuration is invalid, the file cannot be read, or its weights do not fit. Nothing is loaded in part.
    pub fn init_from(&self, path: impl AsRef<Path>, device: &Device) -> Result<(CascadeMaskRcnn<Backbone>, LoadReport), DetectorLoadError> {
        self.start_from(self.try_init(device)?, &Checkpoint::read(path)?, Weights::Validated, &ClassRows::Unknown)
    }

    /// As [`CascadeMaskRcnnConfig::init_from`], with a model that was built from this configuration and a set of weights of an open file.
    /// `classes` compares the classes of a Cascade Mask R-CNN's checkpoint with the classes of the model.
    ///
    /// # Errors
    /// See [`CascadeMaskRcnnConfig::init_from`].
    pub fn start_from(
        &self,
        model: CascadeMaskRcnn<Backbone>,
        checkpoint: &Checkpoint,
        weights: Weights,
        classes: &ClassRows,
    ) -> Result<(CascadeMaskRcnn<Backbone>, LoadReport), DetectorLoadError> {
        let keys = keys(self.heads.stages.len());
        keys.start_from(model, &self.backbone, checkpoint, weights, classes, |state| self.without_copies(state))
    }

    /// Builds the model on `device` with all weights of a Cascade Mask R-CNN's file, for prediction. If the file has averaged weights
    /// (EMA), those are loaded.
    ///
    /// # Errors
    /// [`DetectorLoadError`] when the configuration is invalid, the file cannot be read, or any weight is missing, unexpected or of another
    /// shape.
    pub fn load(&self, path: impl AsRef<Path>, device: &Device) -> Result<(CascadeMaskRcnn<Backbone>, LoadReport), DetectorLoadError> {
        self.load_checkpoint(&Checkpoint::read(path)?, Weights::Validated, device)
    }

    /// As [`CascadeMaskRcnnConfig::load`], with a set of weights of an open file.
    ///
    /// # Errors
    /// See [`CascadeMaskRcnnConfig::load`].
    pub fn load_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        weights: Weights,
        device: &Device,
    ) -> Result<(CascadeMaskRcnn<Backbone>, LoadReport), DetectorLoadError> {
        let keys = keys(self.heads.stages.len());
        keys.load(self.try_init(device)?, &self.backbone, checkpoint, weights, |state| self.without_copies(state))
    }

    /// For a shared mask head, removes the tensors of the later mask heads that equal those of the first: PyTorch saves a module that a list
    /// holds several times under every index. A mask head with other values stays, and loading refuses it.
    fn without_copies(&self, mut state: StateDict) -> StateDict {
        if self.heads.mask_heads == MaskHeads::PerStage {
            return state;
        }
        let is_copy = |key: &&str| {
            let name = key.strip_prefix("roi_head.mask_head.").and_then(|rest| rest.split_once('.'));
            let first = name.filter(|(stage, _)| *stage != "0").map(|(_, name)| format!("roi_head.mask_head.0.{name}"));
            first.is_some_and(|first| state.get(&first) == state.get(key))
        };
        let copies: Vec<String> = state.keys().filter(is_copy).map(str::to_owned).collect();
        for key in copies {
            state.remove(&key);
        }
        state
    }
}

impl ZooDetector for CascadeMaskRcnn<Backbone> {
    fn load_backbone(
        mut self,
        load: impl FnOnce(Backbone) -> Result<(Backbone, LoadReport), LoadError>,
    ) -> Result<(Self, LoadReport), LoadError> {
        let (backbone, report) = load(self.backbone)?;
        self.backbone = backbone;
        Ok((self, report))
    }
}
