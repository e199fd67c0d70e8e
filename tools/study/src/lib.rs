//! Studies of VMamba beside other backbones.
//!
//! * [`measure`]: speed and memory of a network, which the next three and [`ablation`] use.
//! * [`peers`], [`gpu_check`], [`scaling`]: beside PyTorch's networks, on a device, over image sizes.
//! * [`ablation`], [`tables`], [`published`]: our figures beside the published ones.
//! * [`erf`], [`activation`], [`routes`]: effective receptive fields, activation maps, scan routes.
//!
//! Functions return [`StudyError`].

pub mod ablation;
pub mod activation;
mod choice;
pub mod erf;
mod error;
pub mod gpu_check;
pub mod measure;
pub mod peers;
pub mod published;
pub mod routes;
pub mod scaling;
pub mod tables;

pub use error::{Result, StudyError};
