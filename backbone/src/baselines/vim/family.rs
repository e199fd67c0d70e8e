//! Facts about the Vim family.

use super::{Vim, VimClassifier, VimConfig};
use crate::checkpoint::StateDict;
use crate::family::{ClassifierFile, Family, Level, forwarded_items, uniform_levels};
use crate::vmamba::ConfigError;
use crate::{ParameterGroups, Place};

/// The authors' segmentor decays by dimension, which is the default. `A_log` has two dimensions, so it is decayed.
impl ParameterGroups for VimConfig {
    fn depths(&self) -> Vec<usize> {
        vec![self.depth]
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        match *key.split('.').collect::<Vec<_>>() {
            ["patch_embed" | "pos_embed" | "cls_token", ..] => Some(Place::Stem),
            ["layers", block, ..] => Place::block(0, block),
            _ => None,
        }
    }
}

impl Family for VimConfig {
    forwarded_items!(Vim, VimClassifier, super::key, super::rename);

    const NAME: &'static str = "vim";
    const HEAD_KEY: &'static str = "head.weight";

    fn published() -> Vec<(&'static str, Self)> {
        vec![("vim_tiny", Self::tiny()), ("vim_small", Self::small()), ("vim_base", Self::base())]
    }

    fn table_defaults() -> Self {
        Self::tiny()
    }

    fn classifier_file(&self) -> ClassifierFile {
        ClassifierFile { only_in_classifier: vec!["head.", "norm_f.", "cls_token"], only_in_backbone: vec!["fpn"] }
    }

    fn official_state(&self, state: StateDict) -> StateDict {
        super::without_unused_norm(state)
    }

    fn backbone_state(&self, state: StateDict) -> StateDict {
        self.fit_positions(state)
    }

    fn validate_pyramid(&self) -> Result<(), ConfigError> {
        Self::validate_pyramid(self)
    }

    fn levels(&self, image: [usize; 2]) -> Vec<Level> {
        uniform_levels(self.embed_dim, self.strides(), self.level_sizes(image))
    }
}
