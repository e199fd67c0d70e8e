//! The engine behind the tools: configuration, training, evaluation.
//!
//! ```text
//! classification (accuracy of a classifier, linear tuning)
//! config (TOML, inheritance, --set) ─> segmentation | detection (data, model, weights) ─> trainer ─> run folder
//!                                          └─ evaluate ─> table, pictures          ├─ optimizer (AdamW, SGD), param_groups, schedule, ema
//!                                                                                  ├─ data_parallel: copies on further devices
//!                                                                                  └─ logging, checkpoints, resume, signals
//! ```

pub mod classification;
pub mod config;
pub mod data_parallel;
pub mod detection;
pub mod device;
pub mod device_memory;
pub mod ema;
pub mod evaluate;
pub mod freeze;
pub mod guard;
pub mod logging;
pub mod optimizer;
pub mod param_groups;
pub mod parameters;
pub mod precision;
pub mod process;
pub mod run;
pub mod schedule;
pub mod segmentation;
pub mod trainer;
