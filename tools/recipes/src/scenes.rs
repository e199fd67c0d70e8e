//! The built-in scenes as a data source.

use serde::{Deserialize, Serialize};
use vision_datasets::scenes::SceneConfig;
use vmamba_types::setting::{self, SettingError};

use crate::split::Split;

/// Built-in scenes for training and validation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SceneSource {
    /// Side of the square scenes in pixels.
    pub size: usize,
    /// Number of training scenes.
    pub train: usize,
    /// Number of validation scenes. They follow the training scenes in the sequence of the generator.
    pub val: usize,
    /// Seed of the generator.
    #[serde(default)]
    pub seed: u64,
}

/// Largest number of scenes of a split.
const MAX_SCENES: usize = 10_000_000;

impl SceneSource {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::whole("size", self.size, 16..=4_096)?;
        setting::whole("train", self.train, 1..=MAX_SCENES)?;
        setting::whole("val", self.val, 1..=MAX_SCENES)
    }

    /// The scenes of a split.
    pub fn split(&self, split: Split) -> SceneConfig {
        let Self { size, train, val, seed } = *self;
        let (first, count) = match split {
            Split::Train => (0, train),
            Split::Val => (train as u64, val),
        };
        SceneConfig { seed, count, first, height: size, width: size, ..SceneConfig::default() }
    }
}
