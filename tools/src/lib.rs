//! What the programs share: options, exit codes, signals, and the training programs.

pub mod arguments;
pub mod measuring_options;
pub mod present;
pub mod process;
pub mod study_options;
pub mod train;
