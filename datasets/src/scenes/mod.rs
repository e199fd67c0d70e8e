//! Built-in labelled scenes: photo-like images of simple things in front of sky, hills and ground.
//!
//! They need no download and no licence. Every scene comes with all annotations of detection and segmentation: the semantic map, and the
//! mask and the box of the visible part of every thing. A scene is a pure function of `(seed, index)`: every thread, order and platform
//! paints the same bytes.
//!
//! ```text
//! (seed, index) ─ random.rs ─> paint.rs: sky, hills, ground ─> things in z-order ─> light, noise ─> RGB
//!                                        shape.rs: signed distances   texture.rs: patterns, colours
//!                                        └──> stuff class and thing id of every pixel ─> semantic map, masks, boxes
//! ```
//!
//! Each class has its own shape and its own pattern. Hue only hints at the class, because one thing in five has a random hue, so a network
//! must look at neighbourhoods rather than at single pixels.

mod dataset;
mod detection;
mod export;
mod paint;
mod random;
mod shape;
mod texture;

pub use dataset::{Scene, SceneDataset, scene_classes};
pub use detection::SceneObjects;
pub use export::{ExportSummary, write_ade20k_layout};

use serde::{Deserialize, Serialize};

/// The class indices, in the order of [`scene_classes`].
pub(crate) const SKY: u8 = 0;
pub(crate) const HILL: u8 = 1;
pub(crate) const GROUND: u8 = 2;
pub(crate) const BALL: u8 = 3;
/// Classes from this one on are things, the others are stuff.
pub(crate) const FIRST_THING: u8 = BALL;
pub(crate) const CRATE: u8 = 4;
pub(crate) const STAR: u8 = 5;
pub(crate) const RING: u8 = 6;
pub(crate) const GEM: u8 = 7;

/// The number and the look of the scenes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SceneConfig {
    /// The world; two seeds share no scene.
    pub seed: u64,
    /// Number of scenes in the data set.
    pub count: usize,
    /// Number of the first scene in its world, see [`SceneConfig::following`].
    pub first: u64,
    /// Height in pixels, 16 to 4096.
    pub height: usize,
    /// Width in pixels, 16 to 4096.
    pub width: usize,
    /// Fewest things that are placed in a scene; a thing that finds no free place is left out.
    pub min_objects: u32,
    /// Most things in a scene, at most 200.
    pub max_objects: u32,
}

impl Default for SceneConfig {
    fn default() -> Self {
        Self { seed: 0, count: 1000, first: 0, height: 128, width: 128, min_objects: 2, max_objects: 6 }
    }
}

/// A field of [`SceneConfig`] that is outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scenes: {field} is {found}, but must be {allowed}")]
pub struct SceneConfigError {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub found: usize,
    /// The allowed range.
    pub allowed: String,
}

impl SceneConfig {
    /// The `count` scenes that follow these in the same world: a validation set that shares no scene with its training set.
    #[must_use]
    pub fn following(&self, count: usize) -> Self {
        Self { count, first: self.first.wrapping_add(self.count as u64), ..self.clone() }
    }

    /// Checks the ranges of the sizes and of the numbers of things.
    ///
    /// # Errors
    /// Names the first field that is outside its range.
    pub fn validate(&self) -> Result<(), SceneConfigError> {
        let inside = |field, found: usize, low: usize, high: usize| {
            if (low..=high).contains(&found) { Ok(()) } else { Err(SceneConfigError { field, found, allowed: format!("{low} to {high}") }) }
        };
        inside("height", self.height, 16, 4096)?;
        inside("width", self.width, 16, 4096)?;
        inside("max_objects", self.max_objects as usize, 0, 200)?;
        inside("min_objects", self.min_objects as usize, 0, self.max_objects as usize)
    }
}
