//! The built-in scenes as a data source.

use serde::{Deserialize, Serialize};
use vision_datasets::scenes::SceneConfig;

use crate::split::Split;

/// Built-in scenes to train and to validate on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SceneSource {
    /// Side of the square scenes in pixels.
    pub size: usize,
    /// Scenes to train on.
    pub train: usize,
    /// Scenes to validate on. They follow the training scenes in the generator's sequence.
    pub val: usize,
    /// Seed of the generator.
    #[serde(default)]
    pub seed: u64,
}

impl SceneSource {
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
