//! What the command-line tools share: the engine that trains and evaluates, the reports a person reads, the published numbers, the peers,
//! the checks of a device, the receptive fields, the activation maps, the tables beside the paper's.

pub mod ablation;
pub mod activation;
pub mod arguments;
pub mod engine;
pub mod erf;
pub mod gpu_check;
pub mod peers;
pub mod published;
pub mod report;
pub mod routes;
pub mod scaling;
pub mod tables;
