//! Facts about the VMamba family, Vanilla-VMamba included.

use std::borrow::Cow;

use super::{Preset, Vmamba, VmambaClassifier, VmambaConfig, official_key};
use crate::checkpoint::current_key;
use crate::family::{ClassifierFile, Family, Level, forwarded_items, staged_levels};
use crate::{DecayExceptions, ParameterGroups, Place, SWIN_EXCEPTIONS};

impl ParameterGroups for VmambaConfig {
    fn decay_exceptions(&self) -> DecayExceptions {
        SWIN_EXCEPTIONS
    }

    fn undecayed_tables(&self) -> &'static [&'static str] {
        &["pos_embed", "A_logs", "Ds"]
    }

    fn depths(&self) -> Vec<usize> {
        self.depths.clone()
    }

    fn place_of(&self, key: &str) -> Option<Place> {
        let stem = key == "pos_embed" || key.starts_with("patch_embed.");
        if stem { Some(Place::Stem) } else { Place::staged(key, "layers") }
    }
}

fn rename(key: &str) -> Option<Cow<'_, str>> {
    Some(current_key(key))
}

impl Family for VmambaConfig {
    forwarded_items!(Vmamba, VmambaClassifier, official_key, rename);

    const NAME: &'static str = "vmamba";
    const HEAD_KEY: &'static str = "classifier.head.weight";

    fn published() -> Vec<(&'static str, Self)> {
        Preset::ALL.map(|preset| (preset.name(), preset.config())).to_vec()
    }

    fn table_defaults() -> Self {
        Self::official_defaults()
    }

    fn classifier_file(&self) -> ClassifierFile {
        ClassifierFile { only_in_classifier: vec!["classifier.", "head.", "norm."], only_in_backbone: vec!["outnorm"] }
    }

    fn levels(&self, image: [usize; 2]) -> Vec<Level> {
        staged_levels(&self.out_indices, &self.stage_sizes(image), |stage| self.dim(stage), |stage| self.stride(stage))
    }
}
