//! Facts about the HiViT family.

use super::{Hivit, HivitClassifier, HivitConfig, LAST};
use crate::family::{ClassifierFile, Family, Level, forwarded_items};
use crate::{ParameterGroups, Place};

impl ParameterGroups for HivitConfig {
    /// An MLP of the first two stages counts as a block.
    fn depths(&self) -> Vec<usize> {
        (0..=LAST).map(|stage| self.mlps(stage)).collect()
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        match *key.split('.').collect::<Vec<_>>() {
            ["patch_embed" | "absolute_pos_embed", ..] => Some(Place::Stem),
            ["blocks", index, ..] => self.place_in_list(index.parse().ok()?),
            _ => None,
        }
    }
}

impl Family for HivitConfig {
    forwarded_items!(Hivit, HivitClassifier, super::key, super::rename);

    const NAME: &'static str = "hivit";
    const HEAD_KEY: &'static str = "head.weight";

    fn published() -> Vec<(&'static str, Self)> {
        vec![("hivit_tiny", Self::tiny()), ("hivit_small", Self::small()), ("hivit_base", Self::base())]
    }

    fn table_defaults() -> Self {
        Self::tiny()
    }

    fn classifier_file(&self) -> ClassifierFile {
        ClassifierFile { only_in_classifier: vec!["head.", "fc_norm."], only_in_backbone: vec!["fpn"] }
    }

    fn levels(&self, image: [usize; 2]) -> Vec<Level> {
        let level = |((channels, stride), size)| Level { channels, stride, size };
        self.channels().into_iter().zip(self.strides()).zip(self.level_sizes(image)).map(level).collect()
    }
}

impl HivitConfig {
    /// The place of entry `index` of the official list, in which a merge follows the blocks of each stage but the last.
    fn place_in_list(&self, index: usize) -> Option<Place> {
        let mut first = 0;
        for (stage, depth) in self.depths().into_iter().enumerate() {
            match index - first {
                block if block < depth => return Some(Place::Block { stage, block }),
                block if block == depth && stage < LAST => return Some(Place::Downsample { behind: stage }),
                _ => first += depth + 1,
            }
        }
        None
    }
}
