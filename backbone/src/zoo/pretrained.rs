//! Backbones and classifiers with the weights of a file.

use std::path::{Path, PathBuf};

use burn::prelude::*;

use super::{Backbone, BackboneConfig, Classifier, key};
use crate::checkpoint::{Checkpoint, CheckpointError, LoadError, LoadReport, Weights, load_into};
use crate::vmamba::ConfigError;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PretrainedError {
    /// The file cannot be read, or is not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weights do not fit the model.
    #[error("checkpoint {}: {error}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// The keys that fit and those that do not.
        error: LoadError,
    },
    /// The file has no classifier head.
    #[error("checkpoint {}: not a classifier of this model, as it has no `{head}`", path.display())]
    NoHead {
        /// The file.
        path: PathBuf,
        /// The key that the head's weight should have.
        head: &'static str,
    },
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Loads the weights of a classifier, the usual start of a detector or segmentor, into `backbone`, which was built from `config`.
///
/// The head of the file is ignored. Parameters that only backbones have, such as the norms on the levels of the pyramid, keep their values
/// where the file lacks them. Position tables are resized to the image size of `config`. Of several sets of weights in the file,
/// the validated one is loaded.
///
/// ```no_run
/// use burn::prelude::*;
/// use vmamba::zoo::{BackboneConfig, load_pretrained};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = BackboneConfig::named("swin_tiny")?;
/// let backbone = config.try_init(&Device::flex())?;
/// let (backbone, report) = load_pretrained(backbone, &config, "swin_tiny_patch4_window7_224.pth")?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`PretrainedError`], which names the file. A file that fits only in part is refused, so that training never starts from other weights than
/// those that were asked for.
pub fn load_pretrained(
    backbone: Backbone,
    config: &BackboneConfig,
    path: impl AsRef<Path>,
) -> Result<(Backbone, LoadReport), PretrainedError> {
    let path = path.as_ref();
    let (state, origin) = Checkpoint::read(path)?.model_state(Weights::Validated)?;
    let state = config.backbone_state(config.official_state(state));
    let loaded = load_into(backbone, &key, &state, &config.classifier_file_options()).map_err(|error| failed(path, error))?;
    Ok((loaded.0, loaded.1.from(origin)))
}

/// A classifier from a file.
#[derive(Debug)]
pub struct LoadedClassifier {
    /// The model.
    pub model: Classifier,
    /// Classes of its head.
    pub num_classes: usize,
    /// Which set and which keys were loaded.
    pub report: LoadReport,
}

/// Loads a classifier of the model `config` on `device`. The head of the file tells the number of classes.
///
/// # Errors
/// [`PretrainedError`], which names the file.
pub fn load_classifier(
    config: &BackboneConfig,
    path: impl AsRef<Path>,
    weights: Weights,
    device: &Device,
) -> Result<LoadedClassifier, PretrainedError> {
    let path = path.as_ref();
    let checkpoint = Checkpoint::read(path)?;
    let (state, origin) = checkpoint.model_state(weights)?;
    let state = config.official_state(state);
    let no_head = || PretrainedError::NoHead { path: path.to_owned(), head: config.head_key() };
    let num_classes = config.num_classes(&state).ok_or_else(no_head)?;
    let model = config.try_init_classifier(num_classes, device)?;
    let (model, report) = load_into(model, &key, &state, &config.load_options()).map_err(|error| failed(path, error))?;
    Ok(LoadedClassifier { model, num_classes, report: report.from(origin) })
}

fn failed(path: &Path, error: LoadError) -> PretrainedError {
    PretrainedError::Load { path: path.to_owned(), error }
}
