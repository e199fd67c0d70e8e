//! Every published model under one roof: chosen by name, configured by an enum, run through one type.
//!
//! ```
//! use burn::prelude::*;
//! use vmamba::zoo::BackboneConfig;
//!
//! let config = BackboneConfig::named("vmamba_tiny_s1l8").unwrap();
//! assert_eq!(config.classifier_complexity(1000, [224, 224]).params, 30_249_064);
//! assert!(BackboneConfig::named("vmamba_tinny").is_err());
//! ```
//!
//! In configuration files a backbone is a table: `preset` names a published model, every other key changes an option of it.

use std::borrow::Cow;

use burn::module::Param;
use burn::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::checkpoint::{LoadOptions, Rename, StateDict, current_key};
use crate::complexity::Complexity;
use crate::layers::Dense;
use crate::vmamba::{ConfigError, Preset, Vmamba, VmambaClassifier, VmambaConfig};
use crate::{FeaturePyramid, official_key};

/// The configuration of any model of this crate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub enum BackboneConfig {
    /// VMamba and Vanilla-VMamba.
    Vmamba(VmambaConfig),
}

/// Any backbone, with the keys of its own reference in checkpoints, see [`key`].
#[derive(Module, Debug)]
pub enum Backbone {
    /// VMamba and Vanilla-VMamba.
    Vmamba(Vmamba),
}

/// Any classifier.
#[derive(Module, Debug)]
pub enum Classifier {
    /// VMamba and Vanilla-VMamba.
    Vmamba(VmambaClassifier),
}

/// The last linear layer of a classifier.
#[derive(Clone, Debug)]
pub struct LinearHead {
    /// `[num_classes, features]`.
    pub weight: Tensor<2>,
    /// `[num_classes]`.
    pub bias: Option<Tensor<1>>,
}

/// What a backbone gives at one level of its pyramid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Channels.
    pub channels: usize,
    /// Pixels of the image between neighbouring positions.
    pub stride: usize,
    /// Height and width.
    pub size: [usize; 2],
}

/// Families by the name that `family` has in a configuration.
const FAMILIES: [(&str, fn() -> BackboneConfig); 1] = [("vmamba", || BackboneConfig::Vmamba(VmambaConfig::official_defaults()))];

impl From<VmambaConfig> for BackboneConfig {
    fn from(config: VmambaConfig) -> Self {
        Self::Vmamba(config)
    }
}

impl BackboneConfig {
    /// Names of all published models.
    pub fn names() -> Vec<&'static str> {
        Preset::ALL.map(Preset::name).to_vec()
    }

    /// A published model by its name.
    ///
    /// # Errors
    /// [`ConfigError::Preset`] with all names.
    pub fn named(name: &str) -> Result<Self, ConfigError> {
        if let Some(preset) = Preset::ALL.into_iter().find(|preset| preset.name() == name) {
            return Ok(Self::Vmamba(preset.config()));
        }
        Err(ConfigError::Preset { found: name.to_owned(), supported: Self::names().join(", ") })
    }

    /// The name of its family in configurations.
    pub fn family(&self) -> &'static str {
        match self {
            Self::Vmamba(_) => "vmamba",
        }
    }

    /// Checks that the options fit together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Vmamba(config) => config.validate(),
        }
    }

    /// Checks that the model can take an image of `[height, width]` pixels.
    ///
    /// # Errors
    /// Says which sizes it takes.
    pub fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError> {
        match self {
            Self::Vmamba(config) => config.check_image(image),
        }
    }

    /// The backbone with random weights on `device`.
    ///
    /// # Errors
    /// As [`BackboneConfig::validate`], and for a model that has no pyramid.
    pub fn try_init(&self, device: &Device) -> Result<Backbone, ConfigError> {
        Ok(match self {
            Self::Vmamba(config) => Backbone::Vmamba(config.try_init(device)?),
        })
    }

    /// The classifier with random weights on `device`.
    ///
    /// # Errors
    /// As [`BackboneConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<Classifier, ConfigError> {
        Ok(match self {
            Self::Vmamba(config) => Classifier::Vmamba(config.try_init_classifier(num_classes, device)?),
        })
    }

    /// The levels of the pyramid for an image of `[height, width]` pixels, the finest first; none for a model that is only a classifier.
    pub fn levels(&self, image: [usize; 2]) -> Vec<Level> {
        match self {
            Self::Vmamba(config) => {
                let sizes = config.stage_sizes(image);
                let level = |stage: &usize| Level {
                    channels: config.dim(*stage),
                    stride: config.stride(*stage),
                    size: sizes.get(*stage).copied().unwrap_or_default(),
                };
                config.out_indices.iter().map(level).collect()
            }
        }
    }

    /// Cost of the backbone for one image of `[height, width]` pixels.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        match self {
            Self::Vmamba(config) => config.complexity(image),
        }
    }

    /// Cost of the classifier for one image of `[height, width]` pixels.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        match self {
            Self::Vmamba(config) => config.classifier_complexity(num_classes, image),
        }
    }

    /// How files of other origin spell the keys of this family.
    pub fn rename(&self) -> Rename {
        match self {
            Self::Vmamba(_) => vmamba_rename,
        }
    }

    /// Options that load this family strictly, in every spelling that is known of it.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions::new().rename(self.rename())
    }

    /// As [`BackboneConfig::load_options`], for a classifier's file into the backbone: the head of the file is of no use, and it lacks what
    /// only backbones have.
    pub fn classifier_file_options(&self) -> LoadOptions {
        let (in_classifiers, in_backbones): (&[&str], &[&str]) = match self {
            Self::Vmamba(_) => (&["classifier.", "head.", "norm."], &["outnorm"]),
        };
        let options = in_classifiers.iter().fold(self.load_options(), |options, prefix| options.ignore_unexpected(*prefix));
        in_backbones.iter().fold(options, |options, prefix| options.may_be_missing(*prefix))
    }

    /// The key of the weight of a classifier's last linear layer, `[num_classes, features]`.
    pub fn head_key(&self) -> &'static str {
        match self {
            Self::Vmamba(_) => "classifier.head.weight",
        }
    }

    /// The number of classes of a classifier's file, in every spelling that is known of this family; none when it holds no head.
    pub fn num_classes(&self, state: &StateDict) -> Option<usize> {
        let (wanted, rename) = (self.head_key(), self.rename());
        let is_head = |key: &str| key == wanted || rename(key).is_some_and(|key| key == wanted);
        let (_, head) = state.iter().find(|(key, _)| is_head(key))?;
        head.shape.first().copied()
    }

    /// Reads the table of a configuration: `preset`, else `family`, else VMamba, and options.
    fn from_table(mut table: Map<String, Value>) -> Result<Self, String> {
        let text = |key: &str, value: Value| match value {
            Value::String(text) => Ok(text),
            other => Err(format!("{key} must be a name, not {other}")),
        };
        let base = match (table.remove("preset"), table.remove("family")) {
            (Some(_), Some(_)) => return Err("preset and family are both set; a preset has its family".to_owned()),
            (Some(preset), None) => Self::named(&text("preset", preset)?).map_err(|error| error.to_string())?,
            (None, Some(family)) => {
                let family = text("family", family)?;
                let known = FAMILIES.iter().find(|(name, _)| *name == family);
                let Some((_, base)) = known else {
                    return Err(format!("no family is called `{family}`; there are {}", FAMILIES.map(|(name, _)| name).join(", ")));
                };
                base()
            }
            (None, None) => Self::Vmamba(VmambaConfig::official_defaults()),
        };
        let config = match base {
            Self::Vmamba(base) => Self::Vmamba(overlaid(&base, table)?),
        };
        config.validate().map_err(|error| error.to_string())?;
        Ok(config)
    }
}

/// `base` with the options of `table`.
fn overlaid<C: Serialize + for<'de> Deserialize<'de>>(base: &C, table: Map<String, Value>) -> Result<C, String> {
    let Ok(Value::Object(mut merged)) = serde_json::to_value(base) else {
        return Err("the configuration is no table".to_owned());
    };
    merged.extend(table);
    serde_path_to_error::deserialize(Value::Object(merged)).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        if path == "." || reason.starts_with("unknown field") { reason } else { format!("{path}: {reason}") }
    })
}

impl TryFrom<Map<String, Value>> for BackboneConfig {
    type Error = String;

    fn try_from(table: Map<String, Value>) -> Result<Self, String> {
        Self::from_table(table)
    }
}

impl From<BackboneConfig> for Map<String, Value> {
    fn from(config: BackboneConfig) -> Self {
        let family = config.family();
        let fields = match &config {
            BackboneConfig::Vmamba(config) => serde_json::to_value(config),
        };
        let mut table = Self::new();
        // The family comes first and, where it is left out, is VMamba.
        if family != "vmamba" {
            table.insert("family".to_owned(), Value::from(family));
        }
        if let Ok(Value::Object(fields)) = fields {
            table.extend(fields);
        }
        table
    }
}

impl FeaturePyramid for Backbone {
    fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        match self {
            Self::Vmamba(backbone) => backbone.forward_features(images),
        }
    }

    fn channels(&self) -> Vec<usize> {
        match self {
            Self::Vmamba(backbone) => backbone.channels(),
        }
    }

    fn strides(&self) -> Vec<usize> {
        match self {
            Self::Vmamba(backbone) => backbone.strides(),
        }
    }
}

impl Classifier {
    /// `images` `[batch, in_chans, height, width]`, float32 or bf16, normalised, to logits `[batch, num_classes]`, float32.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        match self {
            Self::Vmamba(classifier) => classifier.forward(images),
        }
    }

    /// What goes into the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, normalised, to
    /// `[batch, features]`, float32. None for a model whose logits are not one linear layer of one vector.
    pub fn features(&self, images: Tensor<4>) -> Option<Tensor<2>> {
        match self {
            Self::Vmamba(classifier) => Some(classifier.features(images)),
        }
    }

    /// The last linear layer; none where [`Classifier::features`] gives none.
    pub fn head(&self) -> Option<LinearHead> {
        let dense = |head: &Dense| LinearHead { weight: head.weight.val(), bias: head.bias.as_ref().map(Param::val) };
        match self {
            Self::Vmamba(classifier) => Some(dense(classifier.head())),
        }
    }
}

impl LinearHead {
    /// `[batch, features]` to logits `[batch, num_classes]`.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        vision_ops::linear(features, self.weight.clone(), self.bias.clone())
    }
}

/// The reference's key for the parameter at `path` of a [`Backbone`] or [`Classifier`], whose first name is the family's; other paths are
/// those of a [`Vmamba`] itself.
///
/// ```
/// assert_eq!(vmamba::zoo::key("Vmamba.outnorm.2.weight"), "outnorm2.weight");
/// assert_eq!(vmamba::zoo::key("outnorm.2.weight"), "outnorm2.weight");
/// ```
pub fn key(path: &str) -> String {
    match path.split_once('.') {
        Some(("Vmamba", path)) => official_key(path),
        _ => official_key(path),
    }
}

fn vmamba_rename(key: &str) -> Option<Cow<'_, str>> {
    Some(current_key(key))
}
