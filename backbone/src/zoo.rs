//! Every published model behind one type: chosen by name, configured by an enum.
//!
//! ```
//! use vmamba::zoo::BackboneConfig;
//!
//! let config = BackboneConfig::named("vmamba_tiny_s1l8").unwrap();
//! assert_eq!(config.classifier_complexity(1000, [224, 224]).params, 30_249_064);
//! assert!(BackboneConfig::named("vmamba_tinny").is_err());
//! ```
//!
//! In configuration files a backbone is a table: `preset` names a published model, every other key changes one of its options.
//!
//! What differs between families is in their implementations of [`Family`]; this module only chooses between them.

use burn::module::Param;
use burn::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod pretrained;
#[cfg(feature = "schema")]
mod schema;
mod table;

pub use pretrained::{LoadedClassifier, PretrainedError, load_classifier, load_pretrained};

use crate::baselines::{
    Convnext, ConvnextClassifier, ConvnextConfig, Deit, DeitClassifier, DeitConfig, Hivit, HivitClassifier, HivitConfig, Resnet,
    ResnetClassifier, ResnetConfig, S4ndConvnext, S4ndConvnextClassifier, S4ndConvnextConfig, Swin, SwinClassifier, SwinConfig, Vim,
    VimClassifier, VimConfig, Xcit, XcitClassifier, XcitConfig,
};
use crate::checkpoint::{LoadOptions, Rename, StateDict};
use crate::complexity::Complexity;
use crate::family::{ClassifierFile, Family, Level};
use crate::layers::Dense;
use crate::vmamba::config::require;
use crate::vmamba::{ConfigError, Vmamba, VmambaClassifier, VmambaConfig};
use crate::{Chain, DecayExceptions, FeaturePyramid, LastMap, LayerGrouping, ParameterGroups, Place, official_key};

/// The last linear layer of a classifier.
#[derive(Clone, Debug)]
pub struct LinearHead {
    /// `[num_classes, features]`.
    pub weight: Tensor<2>,
    /// `[num_classes]`.
    pub bias: Option<Tensor<1>>,
}

impl LinearHead {
    /// `[batch, features]` to logits `[batch, num_classes]`.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        vision_ops::linear(features, self.weight.clone(), self.bias.clone())
    }
}

/// Writes the enums over the families, and the methods that forward to the chosen one.
macro_rules! families {
    ($($(#[doc = $doc:literal])* $family:ident($config:ident, $backbone:ident, $classifier:ident);)*) => {
        /// The configuration of any model of this crate.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
        pub enum BackboneConfig {
            $($(#[doc = $doc])* $family($config),)*
        }

        /// Any backbone. [`key`] gives the keys of its parameters in checkpoints, which are those of its reference implementation.
        #[derive(Module, Debug)]
        pub enum Backbone {
            $($(#[doc = $doc])* $family($backbone),)*
        }

        /// Any classifier.
        // A program has only one, and Burn has no boxed modules.
        #[allow(clippy::large_enum_variant)]
        #[derive(Module, Debug)]
        pub enum Classifier {
            $($(#[doc = $doc])* $family($classifier),)*
        }

        /// Names that `family` may have in a configuration.
        const FAMILIES: &[&str] = &[$(<$config as Family>::NAME),*];

        $(impl From<$config> for BackboneConfig {
            fn from(config: $config) -> Self {
                Self::$family(config)
            }
        })*

        impl BackboneConfig {
            /// Names and configurations of all published models.
            fn published() -> Vec<(&'static str, Self)> {
                let mut all = Vec::new();
                $(all.extend(<$config as Family>::published().into_iter().map(|(name, config)| (name, Self::$family(config))));)*
                all
            }

            /// The configuration that a table with this `family` changes.
            fn of_family(name: &str) -> Option<Self> {
                match name {
                    $(<$config as Family>::NAME => Some(Self::$family(<$config as Family>::table_defaults())),)*
                    _ => None,
                }
            }

            /// The JSON schema of the options of every family, with the values that a table without a preset starts from.
            #[cfg(feature = "schema")]
            fn schemas(generator: &mut schemars::SchemaGenerator) -> Vec<schemars::Schema> {
                vec![$(schema::of_family::<$config>(concat!($($doc),*), generator)),*]
            }

            /// The name of its family in configurations.
            pub fn family(&self) -> &'static str {
                match self {
                    $(Self::$family(_) => <$config as Family>::NAME,)*
                }
            }

            /// Validates the options.
            ///
            /// # Errors
            /// Returns the first invalid field.
            pub fn validate(&self) -> Result<(), ConfigError> {
                match self {
                    $(Self::$family(config) => config.validate(),)*
                }
            }

            /// As [`BackboneConfig::validate`], and validates the options of the feature pyramid, which a classifier does not use.
            ///
            /// # Errors
            /// Returns the first invalid field.
            pub fn validate_pyramid(&self) -> Result<(), ConfigError> {
                match self {
                    $(Self::$family(config) => Family::validate_pyramid(config)?,)*
                }
                Ok(())
            }

            /// Channels of the images.
            pub fn in_chans(&self) -> usize {
                match self {
                    $(Self::$family(config) => Family::in_chans(config),)*
                }
            }

            /// Checks that the model can process an image of `[height, width]` pixels.
            ///
            /// # Errors
            /// Names the sizes that it can process.
            pub fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError> {
                match self {
                    $(Self::$family(config) => config.check_image(image),)*
                }
            }

            /// The backbone with random weights on `device`.
            ///
            /// # Errors
            /// As [`BackboneConfig::validate`], and for options that make no pyramid.
            pub fn try_init(&self, device: &Device) -> Result<Backbone, ConfigError> {
                match self {
                    $(Self::$family(config) => Ok(Backbone::$family(config.try_init(device)?)),)*
                }
            }

            /// The classifier with random weights on `device`.
            ///
            /// # Errors
            /// As [`BackboneConfig::validate`], and for 0 classes.
            pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<Classifier, ConfigError> {
                require(num_classes > 0, "num_classes", "at least 1", &num_classes)?;
                match self {
                    $(Self::$family(config) => Ok(Classifier::$family(config.try_init_classifier(num_classes, device)?)),)*
                }
            }

            /// Cost of the backbone for one image of `[height, width]` pixels.
            pub fn complexity(&self, image: [usize; 2]) -> Complexity {
                match self {
                    $(Self::$family(config) => config.complexity(image),)*
                }
            }

            /// Cost of the classifier for one image of `[height, width]` pixels.
            pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
                match self {
                    $(Self::$family(config) => config.classifier_complexity(num_classes, image),)*
                }
            }

            /// The levels of the pyramid for an image of `[height, width]` pixels, the finest first.
            pub fn levels(&self, image: [usize; 2]) -> Vec<Level> {
                match self {
                    $(Self::$family(config) => config.levels(image),)*
                }
            }

            /// Translates the keys of other implementations of this family into those of the reference.
            pub fn rename(&self) -> Rename {
                match self {
                    $(Self::$family(_) => <$config as Family>::rename,)*
                }
            }

            /// The key of the weight of a classifier's last linear layer, `[num_classes, features]`.
            pub fn head_key(&self) -> &'static str {
                match self {
                    $(Self::$family(_) => <$config as Family>::HEAD_KEY,)*
                }
            }

            /// How a classifier's file differs from the backbone.
            pub fn classifier_file(&self) -> ClassifierFile {
                match self {
                    $(Self::$family(config) => config.classifier_file(),)*
                }
            }

            /// The tensors of a file in the shapes and order of the reference implementation, for files in which more than names differ.
            /// Call it before [`load_into`](crate::checkpoint::load_into).
            #[must_use]
            pub fn official_state(&self, state: StateDict) -> StateDict {
                match self {
                    $(Self::$family(config) => Family::official_state(config, state),)*
                }
            }

            /// A classifier's tensors as this backbone needs them: DeiT and Vim get their position tables resized to the image size of the
            /// configuration, as the published segmentors do. Call it after [`BackboneConfig::official_state`].
            #[must_use]
            pub fn backbone_state(&self, state: StateDict) -> StateDict {
                match self {
                    $(Self::$family(config) => Family::backbone_state(config, state),)*
                }
            }

            /// This configuration with the options of `table`.
            fn overlaid(&self, table: Map<String, Value>) -> Result<Self, String> {
                match self {
                    $(Self::$family(base) => Ok(Self::$family(table::overlaid(base, table)?)),)*
                }
            }

            /// All options as a table.
            fn fields(&self) -> serde_json::Result<Value> {
                match self {
                    $(Self::$family(config) => serde_json::to_value(config),)*
                }
            }
        }

        impl ParameterGroups for BackboneConfig {
            fn decay_exceptions(&self) -> DecayExceptions {
                match self {
                    $(Self::$family(config) => config.decay_exceptions(),)*
                }
            }

            fn undecayed_tables(&self) -> &'static [&'static str] {
                match self {
                    $(Self::$family(config) => config.undecayed_tables(),)*
                }
            }

            fn depths(&self) -> Vec<usize> {
                match self {
                    $(Self::$family(config) => ParameterGroups::depths(config),)*
                }
            }

            fn place_of(&self, key: &str) -> Option<Place> {
                match self {
                    $(Self::$family(config) => config.place_of(key),)*
                }
            }

            fn num_layers(&self, by: LayerGrouping) -> usize {
                match self {
                    $(Self::$family(config) => config.num_layers(by),)*
                }
            }

            fn layer_at(&self, place: Place, by: LayerGrouping) -> Option<usize> {
                match self {
                    $(Self::$family(config) => config.layer_at(place, by),)*
                }
            }
        }

        impl FeaturePyramid for Backbone {
            fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
                match self {
                    $(Self::$family(backbone) => backbone.forward_features(images),)*
                }
            }

            fn channels(&self) -> Vec<usize> {
                match self {
                    $(Self::$family(backbone) => backbone.channels(),)*
                }
            }

            fn strides(&self) -> Vec<usize> {
                match self {
                    $(Self::$family(backbone) => backbone.strides(),)*
                }
            }

            fn fewest_norm_values(&self, image: [usize; 2]) -> Option<usize> {
                match self {
                    $(Self::$family(backbone) => backbone.fewest_norm_values(image),)*
                }
            }

            fn size_divisor(&self) -> usize {
                match self {
                    $(Self::$family(backbone) => backbone.size_divisor(),)*
                }
            }
        }

        impl LastMap for Backbone {
            fn chain(&self, image: [usize; 2]) -> Chain<'_> {
                match self {
                    $(Self::$family(backbone) => backbone.chain(image),)*
                }
            }
        }

        impl LastMap for Classifier {
            fn chain(&self, image: [usize; 2]) -> Chain<'_> {
                match self {
                    $(Self::$family(classifier) => classifier.chain(image),)*
                }
            }
        }

        impl Classifier {
            /// `images` `[batch, in_chans, height, width]`, float32 or bf16, normalised, to logits `[batch, num_classes]`, float32.
            pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
                match self {
                    $(Self::$family(classifier) => classifier.forward(images),)*
                }
            }

            /// The input of the last linear layer: `images` `[batch, in_chans, height, width]`, float32 or bf16, normalised, to
            /// `[batch, features]`, float32.
            pub fn features(&self, images: Tensor<4>) -> Tensor<2> {
                match self {
                    $(Self::$family(classifier) => classifier.features(images),)*
                }
            }

            /// The last linear layer.
            pub fn head(&self) -> LinearHead {
                let dense = |head: &Dense| LinearHead { weight: head.weight.val(), bias: head.bias.as_ref().map(Param::val) };
                match self {
                    $(Self::$family(classifier) => dense(classifier.head()),)*
                }
            }
        }

        /// The reference implementation's key for the parameter at `path` of a [`Backbone`] or [`Classifier`]. The first name of such a
        /// path is the family's; a path without it is taken as one of a [`Vmamba`].
        ///
        /// ```
        /// assert_eq!(vmamba::zoo::key("Vmamba.outnorm.2.weight"), "outnorm2.weight");
        /// assert_eq!(vmamba::zoo::key("outnorm.2.weight"), "outnorm2.weight");
        /// ```
        pub fn key(path: &str) -> String {
            match path.split_once('.') {
                $(Some((stringify!($family), path)) => <$config as Family>::key(path),)*
                _ => official_key(path),
            }
        }
    };
}

families! {
    /// VMamba and Vanilla-VMamba.
    Vmamba(VmambaConfig, Vmamba, VmambaClassifier);
    /// ResNet.
    Resnet(ResnetConfig, Resnet, ResnetClassifier);
    /// Swin Transformer.
    Swin(SwinConfig, Swin, SwinClassifier);
    /// ConvNeXt.
    Convnext(ConvnextConfig, Convnext, ConvnextClassifier);
    /// DeiT, as a backbone with the multi-level neck of its UperNet.
    Deit(DeitConfig, Deit, DeitClassifier);
    /// XCiT.
    Xcit(XcitConfig, Xcit, XcitClassifier);
    /// HiViT.
    Hivit(HivitConfig, Hivit, HivitClassifier);
    /// Vision Mamba.
    Vim(VimConfig, Vim, VimClassifier);
    /// S4ND-ConvNeXt.
    S4ndConvnext(S4ndConvnextConfig, S4ndConvnext, S4ndConvnextClassifier);
}

impl BackboneConfig {
    /// Checks that the model can process a photo, with its three channels, of `[height, width]` pixels.
    ///
    /// # Errors
    /// Names the field and the values that it may have.
    pub fn check_photo(&self, image: [usize; 2]) -> Result<(), ConfigError> {
        require(self.in_chans() == 3, "in_chans", "3, because images are read as RGB", &self.in_chans())?;
        self.check_image(image)
    }

    /// Names of all published models.
    pub fn names() -> Vec<&'static str> {
        Self::published().into_iter().map(|(name, _)| name).collect()
    }

    /// A published model by its name.
    ///
    /// # Errors
    /// [`ConfigError::Preset`] with all names.
    pub fn named(name: &str) -> Result<Self, ConfigError> {
        let found = Self::published().into_iter().find(|(published, _)| *published == name);
        let unknown = || ConfigError::Preset { found: name.to_owned(), supported: Self::names().join(", ") };
        found.map(|(_, config)| config).ok_or_else(unknown)
    }

    /// Options for a strict load of this family's weights from any implementation whose keys are known.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions::new().rename(self.rename())
    }

    /// As [`BackboneConfig::load_options`], for loading a classifier's file into the backbone: ignores the head of the file, and lets the
    /// parameters that only backbones have keep their values.
    pub fn classifier_file_options(&self) -> LoadOptions {
        let ClassifierFile { only_in_classifier, only_in_backbone } = self.classifier_file();
        let options = only_in_classifier.into_iter().fold(self.load_options(), LoadOptions::ignore_unexpected);
        only_in_backbone.into_iter().fold(options, LoadOptions::may_be_missing)
    }

    /// The number of classes of a classifier's file of any known implementation; none when the file has no head.
    pub fn num_classes(&self, state: &StateDict) -> Option<usize> {
        let (wanted, rename) = (self.head_key(), self.rename());
        let is_head = |key: &str| key == wanted || rename(key).is_some_and(|key| key == wanted);
        let (_, head) = state.iter().find(|(key, _)| is_head(key))?;
        head.shape.first().copied()
    }
}

#[cfg(test)]
pub(crate) mod tests;
