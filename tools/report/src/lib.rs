//! Reports for people: observers of a training run, tables, plots, and pictures of predictions.
//!
//! Observers of a run; each can be used alone, and [`RunFolder`] combines the last three:
//!
//! * [`Console`]: progress on a terminal or in a log file.
//! * [`RunFolder`]: checkpoints and `config.toml` in a folder, with log, events and curves.
//! * [`MetricsLog`]: `metrics.jsonl`, a JSON object per step.
//! * [`TensorBoard`]: event files.
//! * [`Curves`]: losses and metric as PNG and SVG.
//!
//! Documents:
//!
//! * [`tables`], [`plots`], [`heatmap`], [`npy`]: text, Markdown, CSV, PNG, SVG, NumPy arrays.
//! * [`label_maps`], [`objects`]: predictions over photos. [`pictures`] and [`sheet`] draw them.
//! * [`detection`], [`segmentation`]: tables of the figures of an evaluation.
//! * [`files`]: atomic writes. All files but the checkpoints and the two growing logs are written through it.
//! * [`terminal`]: the print macros of the programs, which never panic.
//!
//! Errors are [`ReportError`]s, which name the file. Only [`console`] prints.
//!
//! ```no_run
//! use vmamba_report::{Console, RunFolder};
//! # use vmamba_train::{Recipe, TrainerBuilder};
//! # fn train<R: Recipe>(builder: TrainerBuilder<R>, device: &burn::prelude::Device) -> Result<(), Box<dyn std::error::Error>> {
//! let mut trainer = builder.observe(Console::default()).observe(RunFolder::create("runs/first")?).build(device)?;
//! trainer.run()?;
//! # Ok(())
//! # }
//! ```

pub mod colours;
pub mod console;
pub mod curves;
pub mod detection;
mod error;
pub mod files;
pub mod heatmap;
pub mod label_maps;
pub mod metrics;
pub mod npy;
pub mod objects;
pub mod pictures;
pub mod plots;
pub mod run_folder;
pub mod run_pictures;
pub mod segmentation;
pub mod sheet;
pub mod tables;
pub mod tensorboard;
pub mod terminal;
#[cfg(test)]
mod tiny;

pub use console::Console;
pub use curves::Curves;
pub use error::ReportError;
pub use metrics::MetricsLog;
pub use run_folder::RunFolder;
pub use run_pictures::RunPictures;
pub use tensorboard::TensorBoard;
