//! Facts about the ResNet family.

use super::{Resnet, ResnetClassifier, ResnetConfig};
use crate::family::{ClassifierFile, Family, Level, forwarded_items, staged_levels};
use crate::{DecayExceptions, ParameterGroups, Place};

impl ParameterGroups for ResnetConfig {
    /// mmdetection's and mmsegmentation's recipes decay everything.
    fn decay_exceptions(&self) -> DecayExceptions {
        DecayExceptions::None
    }

    fn depths(&self) -> Vec<usize> {
        self.depths.clone()
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        match *key.split('.').collect::<Vec<_>>() {
            ["conv1" | "bn1" | "stem", ..] => Some(Place::Stem),
            [stage, block, ..] => Place::block(stage.strip_prefix("layer")?.parse::<usize>().ok()?.checked_sub(1)?, block),
            _ => None,
        }
    }
}

impl Family for ResnetConfig {
    forwarded_items!(Resnet, ResnetClassifier, super::key, super::rename);

    const NAME: &'static str = "resnet";
    const HEAD_KEY: &'static str = "fc.weight";

    fn published() -> Vec<(&'static str, Self)> {
        vec![("resnet50", Self::resnet50()), ("resnet101", Self::resnet101())]
    }

    fn table_defaults() -> Self {
        Self::resnet50()
    }

    fn classifier_file(&self) -> ClassifierFile {
        ClassifierFile { only_in_classifier: vec!["fc."], only_in_backbone: vec![] }
    }

    fn levels(&self, image: [usize; 2]) -> Vec<Level> {
        staged_levels(&self.out_indices, &self.stage_sizes(image), |stage| self.channels(stage), |stage| self.stride(stage))
    }
}
