//! Built-in labelled scenes: photo-like pictures of simple things in front of sky, hills and ground.
//!
//! They need no download and no licence, and give everything a detector or segmentor learns from at once: the picture, the semantic map,
//! the visible mask and the box of every thing. A scene is a pure function of `(seed, index)`: any thread, any order and any platform
//! paints the same bytes.
//!
//! ```text
//! (seed, index) ─ random.rs ─> paint.rs: sky, hills, ground ─> things in z-order ─> light, noise ─> RGB
//!                                        shape.rs: signed distances   texture.rs: patterns, colours
//!                                        └──> class of the stuff + number of the thing at every pixel ─> semantic map, masks, boxes
//! ```
//!
//! Each class has its own form *and* its own pattern, while hue only hints at the class (one thing in five has any hue), so a network
//! must look at neighbourhoods and not at single pixels.

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
/// Classes from here on are things.
pub(crate) const FIRST_THING: u8 = BALL;
pub(crate) const CRATE: u8 = 4;
pub(crate) const STAR: u8 = 5;
pub(crate) const RING: u8 = 6;
pub(crate) const GEM: u8 = 7;

/// Which scenes there are and what they look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SceneConfig {
    /// The world: two seeds share no scene.
    pub seed: u64,
    /// Number of scenes in the set.
    pub count: usize,
    /// Number of the first scene; a validation set of the same world starts behind the training set.
    pub first: u64,
    /// Picture height in pixels, 16..=4096.
    pub height: usize,
    /// Picture width in pixels, 16..=4096.
    pub width: usize,
    /// Fewest things tried in a scene; things that find no place are left out.
    pub min_objects: u32,
    /// Most things in a scene, up to 200.
    pub max_objects: u32,
}

impl Default for SceneConfig {
    fn default() -> Self {
        Self { seed: 0, count: 1000, first: 0, height: 128, width: 128, min_objects: 2, max_objects: 6 }
    }
}

/// A scene configuration that cannot be painted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scenes: {field} is {found}, allowed is {allowed}")]
pub struct SceneConfigError {
    /// The field of [`SceneConfig`].
    pub field: &'static str,
    /// Its value.
    pub found: usize,
    /// The values that are possible.
    pub allowed: String,
}

impl SceneConfig {
    /// Checks the ranges of the sizes and numbers of things.
    ///
    /// # Errors
    /// Names the first field that is out of its range.
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
