//! Mask R-CNN from checkpoints.

use std::path::Path;

use burn::prelude::*;
use vmamba::checkpoint::{Checkpoint, CheckpointError, ClassRows, LoadError, LoadReport, Weights};
use vmamba::zoo::Backbone;
use vmamba_detection::{DetectorKeys, DetectorLoadError, ZooDetector, class_layers};

use crate::config::MaskRcnnConfig;
use crate::model::MaskRcnn;

/// The keys of a Mask R-CNN's files. In a cascade's files the index of the stage precedes `fc_cls`.
fn keys() -> DetectorKeys {
    let prefixes = ["bbox_head.fc_cls.", "bbox_head.fc_reg.", "mask_head.conv_logits."];
    DetectorKeys {
        classifier: "roi_head.bbox_head.fc_cls.weight",
        mask_predictor: "roi_head.mask_head.conv_logits.weight",
        class_layers: class_layers(prefixes.map(|prefix| format!("roi_head.{prefix}"))).to_vec(),
    }
}

/// Whether the keys of a state_dict are those of a Mask R-CNN of mmdetection or of this toolkit.
///
/// ```
/// assert!(mask_rcnn::is_checkpoint(["roi_head.bbox_head.fc_cls.weight", "roi_head.mask_head.conv_logits.weight"]));
/// // A Faster R-CNN has no mask head.
/// assert!(!mask_rcnn::is_checkpoint(["rpn_head.rpn_cls.weight", "roi_head.bbox_head.fc_cls.weight"]));
/// ```
pub fn is_checkpoint<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> bool {
    self::keys().is_checkpoint(keys)
}

/// The number of classes of the Mask R-CNN in a file; `None` when the file is not a Mask R-CNN.
///
/// # Errors
/// [`CheckpointError`] when the file cannot be read.
pub fn num_classes(checkpoint: &Checkpoint, weights: Weights) -> Result<Option<usize>, CheckpointError> {
    keys().num_classes(checkpoint, weights)
}

impl MaskRcnnConfig {
    /// Builds the model on `device` with the weights of a checkpoint to start training from:
    ///
    /// * a classifier's file gives the backbone;
    /// * a Mask R-CNN's file gives everything except the layers whose shapes depend on the number of classes, when that number differs;
    /// * the file of another detector or of a segmentor gives the backbone.
    ///
    /// Everything else keeps its random weights; the report lists it.
    ///
    /// # Errors
    /// [`DetectorLoadError`] when the configuration is invalid, the file cannot be read, or its weights do not fit. Nothing is loaded in part.
    pub fn init_from(&self, path: impl AsRef<Path>, device: &Device) -> Result<(MaskRcnn<Backbone>, LoadReport), DetectorLoadError> {
        self.start_from(self.try_init(device)?, &Checkpoint::read(path)?, Weights::Validated, &ClassRows::Unknown)
    }

    /// As [`MaskRcnnConfig::init_from`], with a model that was built from this configuration and a set of weights of an open file. `classes`
    /// says how the classes of a Mask R-CNN's file relate to those of the model.
    ///
    /// # Errors
    /// See [`MaskRcnnConfig::init_from`].
    pub fn start_from(
        &self,
        model: MaskRcnn<Backbone>,
        checkpoint: &Checkpoint,
        weights: Weights,
        classes: &ClassRows,
    ) -> Result<(MaskRcnn<Backbone>, LoadReport), DetectorLoadError> {
        keys().start_from(model, &self.backbone, checkpoint, weights, classes, |state| state)
    }

    /// Builds the model on `device` with all weights of a Mask R-CNN's file, for prediction. If the file has averaged weights (EMA), those are
    /// loaded.
    ///
    /// # Errors
    /// [`DetectorLoadError`] when the configuration is invalid, the file cannot be read, or any weight is missing, unexpected or of another
    /// shape.
    pub fn load(&self, path: impl AsRef<Path>, device: &Device) -> Result<(MaskRcnn<Backbone>, LoadReport), DetectorLoadError> {
        self.load_checkpoint(&Checkpoint::read(path)?, Weights::Validated, device)
    }

    /// As [`MaskRcnnConfig::load`], with a set of weights of an open file.
    ///
    /// # Errors
    /// See [`MaskRcnnConfig::load`].
    pub fn load_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        weights: Weights,
        device: &Device,
    ) -> Result<(MaskRcnn<Backbone>, LoadReport), DetectorLoadError> {
        keys().load(self.try_init(device)?, &self.backbone, checkpoint, weights, |state| state)
    }
}

impl ZooDetector for MaskRcnn<Backbone> {
    fn load_backbone(
        mut self,
        load: impl FnOnce(Backbone) -> Result<(Backbone, LoadReport), LoadError>,
    ) -> Result<(Self, LoadReport), LoadError> {
        let (backbone, report) = load(self.backbone)?;
        self.backbone = backbone;
        Ok((self, report))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use vmamba::checkpoint::{StateDict, StateTensor, save_checkpoint, state_dict_of};
    use vmamba::{Dims, VmambaConfig, zoo};
    use vmamba_detection::official_key;

    use super::*;

    fn config(num_classes: usize) -> MaskRcnnConfig {
        let backbone = VmambaConfig { depths: vec![1; 2], dims: Dims::Doubling(8), out_indices: vec![0, 1], ..VmambaConfig::default() };
        let mut config = MaskRcnnConfig::on(backbone, num_classes);
        config.heads.fpn.channels = 4;
        config.heads.rpn.channels = 4;
        (config.heads.box_head.channels, config.heads.box_head.roi_size) = (8, 2);
        (config.heads.mask_head.channels, config.heads.mask_head.roi_size) = (4, 2);
        config
    }

    /// Saves a state to a file; the folder lives as long as the first value.
    fn file(state: &StateDict, ema: Option<&StateDict>) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        save_checkpoint(&path, state, ema, &BTreeMap::new(), &BTreeMap::new()).unwrap();
        (folder, path)
    }

    fn constant(value: f32) -> StateTensor {
        StateTensor { shape: vec![2], data: vec![value; 2] }
    }

    fn assert_equal_under(prefix: &str, model: &MaskRcnn<Backbone>, file: &StateDict) {
        let own = state_dict_of(model, &official_key);
        let mut compared = 0;
        for (key, tensor) in own.iter().filter(|(key, _)| key.starts_with(prefix)) {
            assert_eq!(Some(tensor), file.get(key), "{key}");
            compared += 1;
        }
        assert!(compared > 0, "no key begins with {prefix}");
    }

    #[test]
    fn a_classifier_gives_the_backbone() {
        let device = Device::flex();
        let config = config(3);
        let state = state_dict_of(&config.backbone.try_init_classifier(7, &device).unwrap(), &zoo::key);
        let (_folder, path) = file(&state, None);
        let (model, report) = config.init_from(&path, &device).unwrap();
        let weight = "layers.0.blocks.0.op.in_proj.weight";
        let own = state_dict_of(&model, &official_key);
        assert_eq!(own.get(&format!("backbone.{weight}")), state.get(weight));
        assert!(report.allowed_missing.iter().all(|key| key.starts_with("outnorm")), "{report}");
    }

    #[test]
    fn a_detector_for_other_classes_gives_everything_but_the_last_layers() {
        let device = Device::flex();
        let state = state_dict_of(&config(5).init(&device), &official_key);
        let (_folder, path) = file(&state, None);
        assert_eq!(num_classes(&Checkpoint::read(&path).unwrap(), Weights::Validated).unwrap(), Some(5));
        let (model, report) = config(3).init_from(&path, &device).unwrap();
        for prefix in ["backbone.", "neck.", "rpn_head.", "roi_head.bbox_head.shared_fcs.", "roi_head.mask_head.convs."] {
            assert_equal_under(prefix, &model, &state);
        }
        assert_eq!(report.allowed_shape.len(), 6, "weight and bias of three layers: {report}");
        let error = config(3).load(&path, &device).unwrap_err().to_string();
        assert!(error.contains("model.safetensors") && error.contains("fc_cls"), "{error}");
    }

    #[test]
    fn other_detectors_and_segmentors_give_the_backbone() {
        let device = Device::flex();
        let config = config(3);
        for head in ["decode_head.conv_seg.bias", "rpn_head.rpn_cls.bias"] {
            let mut state: StateDict =
                state_dict_of(&config.init(&device), &official_key).into_iter().filter(|(key, _)| key.starts_with("backbone.")).collect();
            state.insert(head, constant(1.0));
            let (_folder, path) = file(&state, None);
            let (model, report) = config.init_from(&path, &device).unwrap();
            assert_equal_under("backbone.", &model, &state);
            assert_eq!(report.ignored, [head]);
            // An unknown key of the backbone is refused.
            state.insert("backbone.layers.0.unknown", constant(1.0));
            let (_folder, path) = file(&state, None);
            assert!(config.init_from(&path, &device).unwrap_err().to_string().contains("backbone.layers.0.unknown"));
        }
    }

    #[test]
    fn a_faster_rcnn_is_another_detector() {
        let device = Device::flex();
        let config = config(3);
        let faster: StateDict = state_dict_of(&config.init(&device), &official_key)
            .into_iter()
            .filter(|(key, _)| !key.starts_with("roi_head.mask_head."))
            .collect();
        assert!(!is_checkpoint(faster.keys()));
        let (_folder, path) = file(&faster, None);
        assert_eq!(num_classes(&Checkpoint::read(&path).unwrap(), Weights::Validated).unwrap(), None);
        let (model, report) = config.init_from(&path, &device).unwrap();
        assert_equal_under("backbone.", &model, &faster);
        assert!(report.ignored.iter().any(|key| key == "roi_head.bbox_head.fc_cls.weight"), "{report}");
        assert!(config.load(&path, &device).unwrap_err().to_string().contains("roi_head.mask_head"));
    }

    #[test]
    fn prediction_loads_averaged_weights_strictly() {
        let device = Device::flex();
        let config = config(3);
        let [trained, averaged] = [0, 1].map(|_| state_dict_of(&config.init(&device), &official_key));
        let (_folder, path) = file(&trained, Some(&averaged));
        let (model, _) = config.load(&path, &device).unwrap();
        assert_equal_under("", &model, &averaged);
        // Training goes on from the weights that were validated.
        let (model, _) = config.init_from(&path, &device).unwrap();
        assert_equal_under("", &model, &averaged);
        let mut incomplete = trained.clone();
        incomplete.remove("neck.fpn_convs.0.conv.bias");
        let (_folder, path) = file(&incomplete, None);
        assert!(config.load(&path, &device).unwrap_err().to_string().contains("neck.fpn_convs.0.conv.bias"));
    }
}
