//! Studies of VMamba beside other backbones.
//!
//! * [`peers`], [`gpu_check`], [`scaling`]: speed and memory, on CPUs and GPUs, over image sizes.
//! * [`ablation`], [`tables`], [`published`]: our figures beside the published ones.
//! * [`erf`], [`activation`], [`routes`]: effective receptive fields, activation maps, scan routes.

pub mod ablation;
pub mod activation;
pub mod erf;
pub mod gpu_check;
pub mod peers;
pub mod process;
pub mod published;
pub mod routes;
pub mod scaling;
pub mod tables;
