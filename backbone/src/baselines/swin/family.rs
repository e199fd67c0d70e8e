//! Facts about the Swin family.

use super::{Swin, SwinClassifier, SwinConfig, WindowSize};
use crate::checkpoint::StateDict;
use crate::family::{ClassifierFile, Family, Level, forwarded_items, staged_levels};
use crate::{DecayExceptions, ParameterGroups, Place, SWIN_EXCEPTIONS};

impl ParameterGroups for SwinConfig {
    fn decay_exceptions(&self) -> DecayExceptions {
        SWIN_EXCEPTIONS
    }

    fn depths(&self) -> Vec<usize> {
        self.depths.clone()
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        if key.starts_with("patch_embed.") { Some(Place::Stem) } else { Place::staged(key, "layers") }
    }
}

impl Family for SwinConfig {
    forwarded_items!(Swin, SwinClassifier, super::key, super::rename);

    const NAME: &'static str = "swin";
    const HEAD_KEY: &'static str = "head.weight";

    fn published() -> Vec<(&'static str, Self)> {
        // Swin-T* of the paper's resolution study: as many windows at every image size.
        let scaled = |config: Self| Self { window_size: WindowSize::Scaled, ..config };
        vec![
            ("swin_tiny", Self::tiny()),
            ("swin_small", Self::small()),
            ("swin_base", Self::base()),
            ("swin_tiny_scaled", scaled(Self::tiny())),
            ("swin_small_scaled", scaled(Self::small())),
            ("swin_base_scaled", scaled(Self::base())),
        ]
    }

    fn table_defaults() -> Self {
        Self::tiny()
    }

    fn classifier_file(&self) -> ClassifierFile {
        ClassifierFile { only_in_classifier: vec!["head.", "norm."], only_in_backbone: vec!["norm"] }
    }

    fn official_state(&self, state: StateDict) -> StateDict {
        super::official_state(state)
    }

    fn levels(&self, image: [usize; 2]) -> Vec<Level> {
        staged_levels(&self.out_indices, &self.stage_sizes(image), |stage| self.dim(stage), |stage| self.stride(stage))
    }
}
