//! The parts of the programs: options, training, evaluation, photos, data checks, exit codes and signals. A program in `bin/` parses its
//! arguments and calls one of them.

pub mod arguments;
pub mod data_check;
pub mod detection;
pub mod evaluation;
pub mod measuring_options;
pub mod options;
pub mod photos;
pub mod present;
pub mod process;
pub mod segmentation;
pub mod study_options;
pub mod train;
