//! Recipes for detection, segmentation and classification: model, data, loss and evaluation of a training run.
//!
//! ```text
//! TOML ── config ──> DetectionConfig ────> Detection ────┐                  evaluate: prediction, figures of a data set
//!                    SegmentationConfig ─> Segmentation ─┴─ Recipe ─> Trainer   load: a model from a checkpoint, ready to predict
//! ```
//!
//! * [`config`]: configuration files with inheritance and overrides.
//! * [`detection`], [`segmentation`]: the recipe, its configuration, evaluation; each is a folder with the same files.
//! * [`classification`]: accuracy of classifiers, linear tuning.
//! * `configuration`, with the feature `schema`: the reference of all keys, docs/configuration.md.
//! * [`memory`]: an estimate of the memory that a run or a prediction needs.
//! * [`Configured`]: a recipe that a configuration file describes, for programs.

pub mod classification;
pub mod config;
#[cfg(feature = "schema")]
pub mod configuration;
mod configured;
pub mod detection;
mod finite;
mod init;
pub mod memory;
pub mod run_config;
mod scenes;
pub mod segmentation;
mod split;
mod supervised;

pub use configured::Configured;
pub use init::Init;
pub use memory::MemoryEstimate;
pub use run_config::{DataConfig, RunConfig, Section, TaskConfig};
pub use scenes::SceneSource;
pub use split::Split;
pub use supervised::{Supervised, Task};
