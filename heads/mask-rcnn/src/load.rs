//! Mask R-CNN from checkpoints.

use std::path::{Path, PathBuf};

use burn::prelude::*;
use vmamba::checkpoint::{Checkpoint, CheckpointError, LoadError, LoadOptions, LoadReport, StateDict, Weights, load_into};
use vmamba::zoo::{self, Backbone};

use crate::config::{MaskRcnnConfig, MaskRcnnConfigError};
use crate::key_map::official_key;
use crate::model::MaskRcnn;

/// Prefix of the keys of the classifier in a Mask R-CNN file; a cascade has a stage index before `fc_cls`.
const CLASSIFIER: &str = "roi_head.bbox_head.fc_cls.";

/// Prefixes of the keys whose shapes depend on the number of classes.
const CLASS_LAYERS: [&str; 3] = [CLASSIFIER, "roi_head.bbox_head.fc_reg.", "roi_head.mask_head.conv_logits."];

/// Prefixes of the keys behind the backbone in the files of other detectors and of segmentors.
const OTHER_HEADS: [&str; 5] = ["neck.", "rpn_head.", "roi_head.", "decode_head.", "auxiliary_head."];

/// Why a Mask R-CNN cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum MaskRcnnLoadError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] MaskRcnnConfigError),
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

/// Whether keys of a state_dict are those of a Mask R-CNN of mmdetection or of this toolkit.
///
/// ```
/// assert!(mask_rcnn::is_checkpoint(["backbone.norm0.weight", "roi_head.bbox_head.fc_cls.weight"]));
/// assert!(!mask_rcnn::is_checkpoint(["backbone.norm0.weight", "decode_head.conv_seg.weight"]));
/// ```
pub fn is_checkpoint<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> bool {
    keys.into_iter().any(|key| key.as_ref().starts_with(CLASSIFIER))
}

/// The number of classes of the Mask R-CNN in a file; `None` when the file is not a Mask R-CNN.
///
/// # Errors
/// [`CheckpointError`] when the file cannot be read.
pub fn num_classes(checkpoint: &Checkpoint) -> Result<Option<usize>, CheckpointError> {
    let shapes = checkpoint.shapes(Weights::Auto)?;
    let rows = shapes.get(&format!("{CLASSIFIER}weight")).and_then(|shape| shape.first().copied());
    // The background has a row of its own.
    Ok(rows.and_then(|rows| rows.checked_sub(1)).filter(|classes| *classes > 0))
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
    /// [`MaskRcnnLoadError`] when the configuration is invalid, the file cannot be read, or its weights do not fit. Nothing is loaded in part.
    pub fn init_from(&self, path: impl AsRef<Path>, device: &Device) -> Result<(MaskRcnn<Backbone>, LoadReport), MaskRcnnLoadError> {
        self.start_from(self.try_init(device)?, path)
    }

    /// As [`MaskRcnnConfig::init_from`], with a model that was built from this configuration.
    ///
    /// # Errors
    /// See [`MaskRcnnConfig::init_from`].
    pub fn start_from(
        &self,
        model: MaskRcnn<Backbone>,
        path: impl AsRef<Path>,
    ) -> Result<(MaskRcnn<Backbone>, LoadReport), MaskRcnnLoadError> {
        let path = path.as_ref();
        let state = self.backbone.official_state(Checkpoint::read(path)?.state_dict(Weights::Auto)?);
        let options = self.backbone.load_options();
        let loaded = if is_checkpoint(state.keys()) {
            load_into(model, &official_key, &state, &CLASS_LAYERS.into_iter().fold(options, LoadOptions::may_be_missing))
        } else if has_heads(&state) {
            let options = OTHER_HEADS.into_iter().fold(options.strip_prefix("backbone."), LoadOptions::ignore_unexpected);
            load_backbone(model, &state, &options)
        } else {
            load_backbone(model, &self.backbone.backbone_state(state), &self.backbone.classifier_file_options())
        };
        loaded.map_err(|error| MaskRcnnLoadError::Fit { path: path.to_owned(), error })
    }

    /// Builds the model on `device` with all weights of a Mask R-CNN's file, for prediction. If the file has averaged weights (EMA), those are
    /// loaded.
    ///
    /// # Errors
    /// [`MaskRcnnLoadError`] when the configuration is invalid, the file cannot be read, or any weight is missing, unexpected or of another
    /// shape.
    pub fn load(&self, path: impl AsRef<Path>, device: &Device) -> Result<(MaskRcnn<Backbone>, LoadReport), MaskRcnnLoadError> {
        self.load_checkpoint(&Checkpoint::read(path)?, device)
    }

    /// As [`MaskRcnnConfig::load`], from an open file.
    ///
    /// # Errors
    /// See [`MaskRcnnConfig::load`].
    pub fn load_checkpoint(&self, checkpoint: &Checkpoint, device: &Device) -> Result<(MaskRcnn<Backbone>, LoadReport), MaskRcnnLoadError> {
        let model = self.try_init(device)?;
        let state = checkpoint.state_dict(Weights::Averaged)?;
        load_into(model, &official_key, &self.backbone.official_state(state), &self.backbone.load_options())
            .map_err(|error| MaskRcnnLoadError::Fit { path: checkpoint.path().to_owned(), error })
    }
}

/// Whether a file is a detector's or a segmentor's.
fn has_heads(state: &StateDict) -> bool {
    state.keys().any(|key| key.starts_with("rpn_head.") || key.starts_with("decode_head."))
}

fn load_backbone(
    mut model: MaskRcnn<Backbone>,
    state: &StateDict,
    options: &LoadOptions,
) -> Result<(MaskRcnn<Backbone>, LoadReport), LoadError> {
    let (backbone, report) = load_into(model.backbone, &zoo::key, state, options)?;
    model.backbone = backbone;
    Ok((model, report))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vmamba::checkpoint::{StateTensor, save_checkpoint, state_dict_of};
    use vmamba::{Dims, VmambaConfig};

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
        assert_eq!(num_classes(&Checkpoint::read(&path).unwrap()).unwrap(), Some(5));
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
    fn prediction_loads_averaged_weights_strictly() {
        let device = Device::flex();
        let config = config(3);
        let [trained, averaged] = [0, 1].map(|_| state_dict_of(&config.init(&device), &official_key));
        let (_folder, path) = file(&trained, Some(&averaged));
        let (model, _) = config.load(&path, &device).unwrap();
        assert_equal_under("", &model, &averaged);
        let (model, _) = config.init_from(&path, &device).unwrap();
        assert_equal_under("", &model, &trained);
        let mut incomplete = trained.clone();
        incomplete.remove("neck.fpn_convs.0.conv.bias");
        let (_folder, path) = file(&incomplete, None);
        assert!(config.load(&path, &device).unwrap_err().to_string().contains("neck.fpn_convs.0.conv.bias"));
    }
}
