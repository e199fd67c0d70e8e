//! Facts about the DeiT family.

use super::{Deit, DeitClassifier, DeitConfig};
use crate::checkpoint::StateDict;
use crate::family::{ClassifierFile, Family, Level, forwarded_items, uniform_levels};
use crate::vmamba::ConfigError;
use crate::{DecayExceptions, ParameterGroups, Place, VIT_EXCEPTIONS};

impl ParameterGroups for DeitConfig {
    fn decay_exceptions(&self) -> DecayExceptions {
        VIT_EXCEPTIONS
    }

    fn depths(&self) -> Vec<usize> {
        vec![self.depth]
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        match *key.split('.').collect::<Vec<_>>() {
            ["patch_embed" | "pos_embed" | "cls_token", ..] => Some(Place::Stem),
            ["blocks", block, ..] => Place::block(0, block),
            _ => None,
        }
    }
}

impl Family for DeitConfig {
    forwarded_items!(Deit, DeitClassifier, super::key, super::rename);

    const NAME: &'static str = "deit";
    const HEAD_KEY: &'static str = "head.weight";

    fn published() -> Vec<(&'static str, Self)> {
        vec![("deit_tiny", Self::tiny()), ("deit_small", Self::small()), ("deit_base", Self::base())]
    }

    fn table_defaults() -> Self {
        Self::tiny()
    }

    fn classifier_file(&self) -> ClassifierFile {
        let mut only_in_classifier = vec!["head.", "head_dist.", "dist_token", "norm."];
        if !self.patch_bias {
            only_in_classifier.push("patch_embed.proj.bias");
        }
        ClassifierFile { only_in_classifier, only_in_backbone: vec!["neck.", "norm."] }
    }

    fn official_state(&self, state: StateDict) -> StateDict {
        super::neck_into_backbone(state)
    }

    fn backbone_state(&self, state: StateDict) -> StateDict {
        self.fit_positions(state)
    }

    fn validate_pyramid(&self) -> Result<(), ConfigError> {
        Self::validate_pyramid(self)
    }

    fn levels(&self, image: [usize; 2]) -> Vec<Level> {
        uniform_levels(self.neck_channels, self.strides(), self.level_sizes(image))
    }
}
