//! The contract of a family of backbones: everything the rest of the toolkit asks about a model, answered beside the model.
//!
//! A new family is one folder with a configuration that implements [`Family`] and [`ParameterGroups`], and one line in
//! [`zoo`](crate::zoo).

use std::borrow::Cow;

use burn::module::Module;
use burn::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checkpoint::StateDict;
use crate::complexity::Complexity;
use crate::vmamba::ConfigError;
use crate::{FeaturePyramid, LastMap, ParameterGroups};

/// Size and width of one level of a feature pyramid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Channels.
    pub channels: usize,
    /// Pixels of the image between neighbouring positions.
    pub stride: usize,
    /// Height and width.
    pub size: [usize; 2],
}

/// How the keys of a classifier's file differ from those of the backbone, as prefixes of official keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassifierFile {
    /// Only in the classifier: its head and last norm.
    pub only_in_classifier: Vec<&'static str>,
    /// Only in the backbone: the norms or the neck of its levels, which start from random weights.
    pub only_in_backbone: Vec<&'static str>,
}

/// The configuration of a family of backbones, with the facts about its models.
pub trait Family: ParameterGroups + Clone + PartialEq + Serialize + DeserializeOwned {
    /// The backbone, a feature pyramid.
    type Backbone: Module + FeaturePyramid + LastMap;
    /// The image classifier.
    type Classifier: Module + LastMap;

    /// The name of the family in configuration files.
    const NAME: &'static str;
    /// The key of the weight of a classifier's last linear layer, `[num_classes, features]`.
    const HEAD_KEY: &'static str;

    /// Names and configurations of the published models.
    fn published() -> Vec<(&'static str, Self)>;

    /// The options of a table with `family = "…"` and no preset, which the other keys of the table change.
    fn table_defaults() -> Self;

    /// The key in the reference implementation of the parameter at `path` in the backbone or classifier.
    fn key(path: &str) -> String;

    /// The key of the reference implementation for a key of another one, see [`Rename`](crate::checkpoint::Rename).
    fn rename(key: &str) -> Option<Cow<'_, str>>;

    /// How a classifier's file differs from the backbone.
    fn classifier_file(&self) -> ClassifierFile;

    /// The tensors of a file in the shapes and order of the reference implementation, for files in which more than names differ. Call it
    /// before [`load_into`](crate::checkpoint::load_into).
    fn official_state(&self, state: StateDict) -> StateDict {
        state
    }

    /// A classifier's tensors as the backbone needs them, e.g. with the position table resized to the image size of the configuration. Call
    /// it after [`Family::official_state`].
    fn backbone_state(&self, state: StateDict) -> StateDict {
        state
    }

    /// The levels of the pyramid for an image of `[height, width]` pixels, the finest first.
    fn levels(&self, image: [usize; 2]) -> Vec<Level>;

    /// Validates the options.
    ///
    /// # Errors
    /// Returns the first invalid field.
    fn validate(&self) -> Result<(), ConfigError>;

    /// As [`Family::validate`], and validates the options of the feature pyramid, which a classifier does not use.
    ///
    /// # Errors
    /// Returns the first invalid field.
    fn validate_pyramid(&self) -> Result<(), ConfigError> {
        self.validate()
    }

    /// Channels of the images.
    fn in_chans(&self) -> usize;

    /// Checks that the model can process an image of `[height, width]` pixels.
    ///
    /// # Errors
    /// Names the sizes that it can process.
    fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError>;

    /// The backbone with random weights on `device`.
    ///
    /// # Errors
    /// As [`Family::validate`], and for options that make no pyramid.
    fn try_init(&self, device: &Device) -> Result<Self::Backbone, ConfigError>;

    /// The classifier with random weights on `device`.
    ///
    /// # Errors
    /// As [`Family::validate`].
    fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<Self::Classifier, ConfigError>;

    /// Cost of the backbone for one image of `[height, width]` pixels.
    fn complexity(&self, image: [usize; 2]) -> Complexity;

    /// Cost of the classifier for one image of `[height, width]` pixels.
    fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity;
}

/// Writes the items of [`Family`] that forward to others: its types, the functions that translate keys, and the methods that a configuration
/// also has as inherent methods, so that they can be called without the trait.
macro_rules! forwarded_items {
    ($backbone:ty, $classifier:ty, $key:path, $rename:path) => {
        type Backbone = $backbone;
        type Classifier = $classifier;

        fn key(path: &str) -> String {
            $key(path)
        }

        fn rename(key: &str) -> Option<std::borrow::Cow<'_, str>> {
            $rename(key)
        }

        fn in_chans(&self) -> usize {
            self.in_chans
        }

        fn validate(&self) -> Result<(), $crate::ConfigError> {
            Self::validate(self)
        }

        fn check_image(&self, image: [usize; 2]) -> Result<(), $crate::ConfigError> {
            Self::check_image(self, image)
        }

        fn try_init(&self, device: &burn::prelude::Device) -> Result<$backbone, $crate::ConfigError> {
            Self::try_init(self, device)
        }

        fn try_init_classifier(&self, num_classes: usize, device: &burn::prelude::Device) -> Result<$classifier, $crate::ConfigError> {
            Self::try_init_classifier(self, num_classes, device)
        }

        fn complexity(&self, image: [usize; 2]) -> $crate::complexity::Complexity {
            Self::complexity(self, image)
        }

        fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> $crate::complexity::Complexity {
            Self::classifier_complexity(self, num_classes, image)
        }
    };
}

pub(crate) use forwarded_items;

/// One level for each stage in `out_indices`. `sizes` has the size of every stage.
pub(crate) fn staged_levels(
    out_indices: &[usize],
    sizes: &[[usize; 2]],
    channels: impl Fn(usize) -> usize,
    stride: impl Fn(usize) -> usize,
) -> Vec<Level> {
    let level =
        |stage: &usize| Level { channels: channels(*stage), stride: stride(*stage), size: sizes.get(*stage).copied().unwrap_or_default() };
    out_indices.iter().map(level).collect()
}

/// Levels of equal width.
pub(crate) fn uniform_levels(channels: usize, strides: Vec<usize>, sizes: Vec<[usize; 2]>) -> Vec<Level> {
    strides.into_iter().zip(sizes).map(|(stride, size)| Level { channels, stride, size }).collect()
}
