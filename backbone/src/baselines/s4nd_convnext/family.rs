//! Facts about the S4ND-ConvNeXt family.

use super::{S4ndConvnext, S4ndConvnextClassifier, S4ndConvnextConfig};
use crate::checkpoint::StateDict;
use crate::family::{ClassifierFile, Family, Level, forwarded_items, staged_levels};
use crate::{ParameterGroups, Place};

impl ParameterGroups for S4ndConvnextConfig {
    fn depths(&self) -> Vec<usize> {
        self.depths.clone()
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        match *key.split('.').collect::<Vec<_>>() {
            ["stem", ..] => Some(Place::Stem),
            // Norm and downsampling are stored with the stage that they lead to.
            ["stages", stage, "norm_layer" | "downsample", ..] => {
                Some(Place::Downsample { behind: stage.parse::<usize>().ok()?.checked_sub(1)? })
            }
            _ => Place::staged(key, "stages"),
        }
    }
}

impl Family for S4ndConvnextConfig {
    forwarded_items!(S4ndConvnext, S4ndConvnextClassifier, super::key, super::rename);

    const NAME: &'static str = "s4nd_convnext";
    const HEAD_KEY: &'static str = "head.fc.weight";

    fn published() -> Vec<(&'static str, Self)> {
        vec![("s4nd_convnext_tiny", Self::tiny())]
    }

    fn table_defaults() -> Self {
        Self::tiny()
    }

    fn classifier_file(&self) -> ClassifierFile {
        ClassifierFile { only_in_classifier: vec!["head."], only_in_backbone: vec![] }
    }

    fn official_state(&self, state: StateDict) -> StateDict {
        self.settle_kernels(state)
    }

    fn levels(&self, image: [usize; 2]) -> Vec<Level> {
        let strides = self.strides();
        let of = |numbers: &[usize], stage: usize| numbers.get(stage).copied().unwrap_or_default();
        staged_levels(&self.out_indices, &self.stage_sizes(image), |stage| of(&self.dims, stage), |stage| of(&strides, stage))
    }
}
