//! Facts about the XCiT family.

use super::{Xcit, XcitClassifier, XcitConfig};
use crate::checkpoint::StateDict;
use crate::family::{ClassifierFile, Family, Level, forwarded_items, uniform_levels};
use crate::vmamba::ConfigError;
use crate::{ParameterGroups, Place};

impl ParameterGroups for XcitConfig {
    fn depths(&self) -> Vec<usize> {
        vec![self.depth]
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        match *key.split('.').collect::<Vec<_>>() {
            ["patch_embed" | "pos_embed", ..] => Some(Place::Stem),
            ["blocks", block, ..] => Place::block(0, block),
            _ => None,
        }
    }
}

impl Family for XcitConfig {
    forwarded_items!(Xcit, XcitClassifier, super::key, super::rename);

    const NAME: &'static str = "xcit";
    const HEAD_KEY: &'static str = "head.weight";

    fn published() -> Vec<(&'static str, Self)> {
        vec![("xcit_small_12_p16", Self::small_12()), ("xcit_small_24_p16", Self::small_24()), ("xcit_medium_24_p16", Self::medium_24())]
    }

    fn table_defaults() -> Self {
        Self::small_12()
    }

    fn classifier_file(&self) -> ClassifierFile {
        ClassifierFile { only_in_classifier: vec!["head.", "norm.", "cls_token", "cls_attn_blocks."], only_in_backbone: vec!["fpn"] }
    }

    fn official_state(&self, state: StateDict) -> StateDict {
        super::split_class_attention(state)
    }

    fn validate_pyramid(&self) -> Result<(), ConfigError> {
        Self::validate_pyramid(self)
    }

    fn levels(&self, image: [usize; 2]) -> Vec<Level> {
        uniform_levels(self.embed_dim, self.strides(), self.level_sizes(image))
    }
}
