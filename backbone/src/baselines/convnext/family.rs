//! Facts about the ConvNeXt family.

use super::{Convnext, ConvnextClassifier, ConvnextConfig};
use crate::family::{ClassifierFile, Family, Level, forwarded_items, staged_levels};
use crate::{LayerGrouping, ParameterGroups, Place};

/// Blocks of the third stage that share a learning rate.
const BLOCKS_A_LAYER: usize = 3;

/// The authors' recipe decays by dimension, which is the default.
impl ParameterGroups for ConvnextConfig {
    fn depths(&self) -> Vec<usize> {
        self.depths.clone()
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        match *key.split('.').collect::<Vec<_>>() {
            ["downsample_layers", "0", ..] => Some(Place::Stem),
            ["downsample_layers", stage, ..] => Some(Place::Downsample { behind: stage.parse::<usize>().ok()?.checked_sub(1)? }),
            ["stages", stage, block, ..] => Place::block(stage.parse().ok()?, block),
            _ => None,
        }
    }

    /// 6 for ConvNeXt-T, 12 for ConvNeXt-S and ConvNeXt-B: one for each of the first two stages, one for every three blocks of the third, one
    /// for the last. The published recipes that group by stage use this number too, although their layers end at 4.
    fn num_layers(&self, _by: LayerGrouping) -> usize {
        self.depths.get(2).map_or(0, |blocks| blocks.div_ceil(BLOCKS_A_LAYER)) + 3
    }

    /// By block: `get_layer_id_for_convnext` of mmdetection 3.3.0, by stage: `get_stage_id_for_convnext`.
    fn layer_at(&self, place: Place, by: LayerGrouping) -> Option<usize> {
        let last = self.num_layers(by);
        match (by, place) {
            (_, Place::Stem) => Some(0),
            (LayerGrouping::Stem, _) => None,
            (LayerGrouping::Stage, Place::Downsample { .. }) => Some(0),
            (LayerGrouping::Stage, Place::Block { stage, .. }) => Some(stage + 1),
            (LayerGrouping::Block, Place::Downsample { behind: behind @ (0 | 1) }) => Some(behind + 2),
            (LayerGrouping::Block, Place::Block { stage: stage @ (0 | 1), .. }) => Some(stage + 1),
            (LayerGrouping::Block, Place::Block { stage: 2, block }) => Some(3 + block / BLOCKS_A_LAYER),
            (LayerGrouping::Block, _) => Some(last),
        }
    }
}

impl Family for ConvnextConfig {
    forwarded_items!(Convnext, ConvnextClassifier, super::key, super::rename);

    const NAME: &'static str = "convnext";
    const HEAD_KEY: &'static str = "head.weight";

    fn published() -> Vec<(&'static str, Self)> {
        vec![("convnext_tiny", Self::tiny()), ("convnext_small", Self::small()), ("convnext_base", Self::base())]
    }

    fn table_defaults() -> Self {
        Self::tiny()
    }

    fn classifier_file(&self) -> ClassifierFile {
        ClassifierFile { only_in_classifier: vec!["head.", "norm."], only_in_backbone: vec!["norm"] }
    }

    fn levels(&self, image: [usize; 2]) -> Vec<Level> {
        staged_levels(&self.out_indices, &self.stage_sizes(image), |stage| self.dim(stage), |stage| self.stride(stage))
    }
}
