//! UperNet from checkpoints.

use std::path::{Path, PathBuf};

use burn::prelude::*;
use vmamba::checkpoint::{
    Checkpoint, CheckpointError, ClassLayer, ClassRows, LoadError, LoadOptions, LoadReport, StateDict, Weights, load_into,
};
use vmamba::zoo::{self, Backbone};

use crate::config::{UperNetConfig, UperNetConfigError};
use crate::key_map::official_key;
use crate::model::UperNet;

/// Prefix of the keys of the decode head.
const DECODE_HEAD: &str = "decode_head.";

/// Prefix of the keys of the auxiliary head, which prediction does not need.
const AUXILIARY_HEAD: &str = "auxiliary_head.";

/// Prefixes of the keys whose shapes depend on the number of classes.
const CLASS_LAYERS: [&str; 2] = ["decode_head.conv_seg.", "auxiliary_head.conv_seg."];

/// Prefixes of the keys behind the backbone in the files of detectors.
const DETECTOR_HEADS: [&str; 3] = ["neck.", "rpn_head.", "roi_head."];

/// Why an UperNet cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum UperNetLoadError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] UperNetConfigError),
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

/// Whether keys of a state_dict belong to a segmentor of mmsegmentation or of this toolkit.
///
/// ```
/// assert!(upernet::is_checkpoint(["backbone.norm0.weight", "decode_head.conv_seg.weight"]));
/// assert!(!upernet::is_checkpoint(["backbone.norm0.weight", "rpn_head.rpn_cls.weight"]));
/// ```
pub fn is_checkpoint<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> bool {
    keys.into_iter().any(|key| key.as_ref().starts_with(DECODE_HEAD))
}

impl UperNetConfig {
    /// Builds the model on `device` with the weights of a checkpoint to start training from:
    ///
    /// * a classifier's file gives the backbone;
    /// * an UperNet's file gives everything except the class layers if the number of classes differs; an auxiliary head that the model
    ///   lacks is ignored;
    /// * a detector's file gives the backbone.
    ///
    /// Everything else keeps its random weights; the report lists it.
    ///
    /// # Errors
    /// [`UperNetLoadError`] when the configuration is invalid, the file cannot be read, or its weights do not fit. Nothing is loaded in part.
    pub fn init_from(&self, path: impl AsRef<Path>, device: &Device) -> Result<(UperNet<Backbone>, LoadReport), UperNetLoadError> {
        self.start_from(self.try_init(device)?, &Checkpoint::read(path)?, Weights::Validated, &ClassRows::Unknown)
    }

    /// As [`UperNetConfig::init_from`], with a model that was built from this configuration and a set of weights of an open file. `classes`
    /// says how the classes of an UperNet's file relate to those of the model.
    ///
    /// # Errors
    /// See [`UperNetConfig::init_from`].
    pub fn start_from(
        &self,
        model: UperNet<Backbone>,
        checkpoint: &Checkpoint,
        weights: Weights,
        classes: &ClassRows,
    ) -> Result<(UperNet<Backbone>, LoadReport), UperNetLoadError> {
        let (state, origin) = checkpoint.model_state(weights)?;
        let mut state = self.backbone.official_state(state);
        let options = self.backbone.load_options();
        let loaded = if is_checkpoint(state.keys()) {
            let options = CLASS_LAYERS.into_iter().fold(options, LoadOptions::may_be_missing).ignore_unexpected(AUXILIARY_HEAD);
            let removed = classes.apply(&mut state, &CLASS_LAYERS.map(ClassLayer::new));
            load_into(model, &official_key, &state, &options).map(|(model, report)| (model, report.with_classes(classes, removed)))
        } else if state.keys().any(|key| key.starts_with("rpn_head.")) {
            let options = DETECTOR_HEADS.into_iter().fold(options.strip_prefix("backbone."), LoadOptions::ignore_unexpected);
            load_backbone(model, &state, &options)
        } else {
            load_backbone(model, &self.backbone.backbone_state(state), &self.backbone.classifier_file_options())
        };
        let fit = |error| UperNetLoadError::Fit { path: checkpoint.path().to_owned(), error };
        loaded.map(|(model, report)| (model, report.from(origin))).map_err(fit)
    }

    /// Builds the model on `device` with all weights of an UperNet's file, for prediction. If the file has averaged weights (EMA), those are
    /// loaded. The auxiliary head may be missing in the file or in the model.
    ///
    /// # Errors
    /// [`UperNetLoadError`] when the configuration is invalid, the file cannot be read, or any other weight is missing, unexpected or of
    /// another shape.
    pub fn load(&self, path: impl AsRef<Path>, device: &Device) -> Result<(UperNet<Backbone>, LoadReport), UperNetLoadError> {
        self.load_checkpoint(&Checkpoint::read(path)?, Weights::Validated, device)
    }

    /// As [`UperNetConfig::load`], with a set of weights of an open file.
    ///
    /// # Errors
    /// See [`UperNetConfig::load`].
    pub fn load_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        weights: Weights,
        device: &Device,
    ) -> Result<(UperNet<Backbone>, LoadReport), UperNetLoadError> {
        let model = self.try_init(device)?;
        let (state, origin) = checkpoint.model_state(weights)?;
        let options = self.backbone.load_options().may_be_missing(AUXILIARY_HEAD).ignore_unexpected(AUXILIARY_HEAD);
        let loaded = load_into(model, &official_key, &self.backbone.official_state(state), &options);
        let fit = |error| UperNetLoadError::Fit { path: checkpoint.path().to_owned(), error };
        loaded.map(|(model, report)| (model, report.from(origin))).map_err(fit)
    }
}

fn load_backbone(
    mut model: UperNet<Backbone>,
    state: &StateDict,
    options: &LoadOptions,
) -> Result<(UperNet<Backbone>, LoadReport), LoadError> {
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

    fn config(num_classes: usize) -> UperNetConfig {
        let backbone = VmambaConfig { depths: vec![1; 2], dims: Dims::Doubling(8), out_indices: vec![0, 1], ..VmambaConfig::default() };
        let mut config = UperNetConfig::on(backbone, num_classes);
        config.head.channels = 4;
        config.auxiliary = config.auxiliary.map(|head| crate::FcnHeadConfig { in_index: 1, channels: 4, ..head });
        config
    }

    /// Saves a state to a file; the folder lives as long as the first value.
    fn file(state: &StateDict, ema: Option<&StateDict>) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        save_checkpoint(&path, state, ema, &BTreeMap::new(), &BTreeMap::new()).unwrap();
        (folder, path)
    }

    fn assert_equal_under(prefix: &str, model: &UperNet<Backbone>, file: &StateDict) {
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
    fn a_segmentor_for_other_classes_gives_everything_but_the_last_layers() {
        let device = Device::flex();
        let state = state_dict_of(&config(5).init(&device), &official_key);
        let (_folder, path) = file(&state, None);
        let (model, report) = config(3).init_from(&path, &device).unwrap();
        for prefix in ["backbone.", "decode_head.fpn_bottleneck.", "auxiliary_head.convs."] {
            assert_equal_under(prefix, &model, &state);
        }
        assert_eq!(report.allowed_shape.len(), 4, "weight and bias of two layers: {report}");
        let error = config(3).load(&path, &device).unwrap_err().to_string();
        assert!(error.contains("model.safetensors") && error.contains("conv_seg"), "{error}");
    }

    #[test]
    fn a_prefix_that_keeps_every_tensor_from_fitting_is_named() {
        let device = Device::flex();
        let state = state_dict_of(&config(3).init(&device), &official_key);
        let wrapped = state.iter().map(|(key, tensor)| (format!("net.{key}"), tensor.clone())).collect();
        let (_folder, path) = file(&wrapped, None);
        let error = config(3).load(&path, &device).unwrap_err().to_string();
        assert!(
            error.contains("not one tensor fits (all its keys begin with `net.`: export_weights --prefix net. removes that)"),
            "{error}"
        );
    }

    #[test]
    fn a_detector_gives_the_backbone() {
        let device = Device::flex();
        let config = config(3);
        let mut state: StateDict =
            state_dict_of(&config.init(&device), &official_key).into_iter().filter(|(key, _)| key.starts_with("backbone.")).collect();
        state.insert("rpn_head.rpn_cls.bias", StateTensor { shape: vec![2], data: vec![1.0; 2] });
        let (_folder, path) = file(&state, None);
        let (model, report) = config.init_from(&path, &device).unwrap();
        assert_equal_under("backbone.", &model, &state);
        assert_eq!(report.ignored, ["rpn_head.rpn_cls.bias"]);
    }

    #[test]
    fn prediction_loads_averaged_weights_and_needs_no_auxiliary_head() {
        let device = Device::flex();
        let config = config(3);
        let [trained, averaged] = [0, 1].map(|_| state_dict_of(&config.init(&device), &official_key));
        let (_folder, path) = file(&trained, Some(&averaged));
        let (model, _) = config.load(&path, &device).unwrap();
        assert_equal_under("", &model, &averaged);
        let without = UperNetConfig { auxiliary: None, ..config.clone() };
        assert_equal_under("", &without.load(&path, &device).unwrap().0, &averaged);
        let mut incomplete = trained.clone();
        incomplete.remove("decode_head.bottleneck.conv.weight");
        let (_folder, path) = file(&incomplete, None);
        assert!(config.load(&path, &device).unwrap_err().to_string().contains("decode_head.bottleneck.conv.weight"));
    }
}
