//! Reports a person reads: observers of a training run, tables, plots, and pictures of predictions.
//!
//! * [`Console`]: progress on a terminal or in a log.
//! * [`RunFolder`]: checkpoints, `config.toml`, `metrics.jsonl`, TensorBoard events and curves in one folder.
//! * [`tables`], [`plots`], [`heatmap`]: text, Markdown, PNG and SVG.
//! * [`pictures`], [`objects`]: predictions drawn over photos.
//! * [`detection`], [`segmentation`]: tables of the figures of an evaluation.
//! * [`files`]: files that are written whole or not at all.

pub mod colours;
pub mod console;
pub mod curves;
pub mod detection;
pub mod files;
pub mod heatmap;
pub mod metrics;
pub mod npy;
pub mod objects;
pub mod pictures;
pub mod plots;
pub mod run_folder;
pub mod segmentation;
pub mod sheet;
pub mod tables;
pub mod tensorboard;

pub use console::Console;
pub use run_folder::RunFolder;
