//! Checks and measurements of a device, one part a module:
//!
//! ```text
//! operations, models   the device against the CPU and against fixtures of the official implementations: parity
//! speed                images per second and training steps, beside PyTorch in the same rounds
//! memory               peak of training and inference, each in a child process
//! bandwidth            bytes per second of the scan, beside a copy
//!     └─> session: a row for each result, written immediately      facts ─> targets: required and measured figures
//! ```

mod bandwidth;
mod environment;
mod facts;
mod fixtures;
mod memory;
mod models;
mod numerics;
mod official;
mod operations;
mod precision;
mod session;
mod speed;
mod targets;

use std::path::PathBuf;

use burn::prelude::*;
use vmamba::Preset;
use vmamba_train::{DeviceChoice, Precision};

use crate::choice::chosen_by_name;
use crate::error::{Result, invalid};
use crate::measure::Protocol;

pub use environment::Environment;
pub use facts::Facts;
pub use fixtures::FixtureSet;
pub use operations::checked_operations;
pub use session::Session;
pub use vision_ops::Operation;

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Every operation, forward and backward, against the CPU.
    ParityOps,
    /// Networks against results of the official implementations (`--fixtures`).
    ParityModels,
    /// Images per second of classifiers.
    Throughput,
    /// Training steps of classifiers: forward pass, cross-entropy loss, backward pass, AdamW.
    Training,
    /// Peak memory of training and inference.
    Memory,
    /// Bytes per second of the four-route scan, beside a copy.
    Bandwidth,
}

impl Part {
    /// Every part, in the order of a full report.
    pub const ALL: [Self; 6] = [Self::ParityOps, Self::ParityModels, Self::Throughput, Self::Training, Self::Memory, Self::Bandwidth];

    /// Its name on the command line, in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::ParityOps => "parity-ops",
            Self::ParityModels => "parity-models",
            Self::Throughput => "throughput",
            Self::Training => "training",
            Self::Memory => "memory",
            Self::Bandwidth => "bandwidth",
        }
    }
}

chosen_by_name!(Part, "part");

/// The Python program and the official code of the peers.
#[derive(Clone, Debug)]
pub struct PeerSource {
    /// The program.
    pub python: String,
    /// Folder `classification/models` of the official repository.
    pub official: Option<PathBuf>,
}

/// The request of a report.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The device by name.
    pub choice: DeviceChoice,
    /// The open device.
    pub device: Device,
    /// Types to compute in.
    pub precisions: Vec<Precision>,
    /// Models of `throughput` and `training`; peers and the part `memory` use the first.
    pub presets: Vec<Preset>,
    /// Batch sizes.
    pub batches: Vec<usize>,
    /// Heights and widths of the images in pixels.
    pub sides: Vec<usize>,
    /// Batch size, and side of the images in pixels, of `memory`.
    pub memory_size: [usize; 2],
    /// Batch size of `bandwidth`.
    pub bandwidth_batch: usize,
    /// Operations of `parity-ops`; empty for all.
    pub operations: Vec<Operation>,
    /// Warm-up, runs of a round, and rounds.
    pub protocol: Protocol,
    /// Tolerance of float32: the largest error, relative to the largest value.
    pub tolerance: f64,
    /// Tolerance of bf16 activations.
    pub bf16_tolerance: f64,
    /// Results of the official implementations.
    pub fixtures: Option<FixtureSet>,
    /// The peers; `None` measures ours alone.
    pub peers: Option<PeerSource>,
}

impl Setup {
    /// The tolerance of an operation.
    fn limit(&self, precision: Precision) -> f64 {
        match precision {
            Precision::Float32 => self.tolerance,
            // TF32 keeps two bits more than bf16 and has no tolerance of its own.
            Precision::Tf32 | Precision::Bf16 => self.bf16_tolerance,
        }
    }

    /// PyTorch's name of the device; a Vulkan device without an index is taken for the first GPU.
    fn torch_device(&self) -> String {
        match self.choice {
            DeviceChoice::Cpu => "cpu".to_owned(),
            DeviceChoice::Cuda(index) => format!("cuda:{index}"),
            DeviceChoice::Vulkan(index) => format!("cuda:{}", index.unwrap_or(0)),
        }
    }
}

/// Runs `parts` in order; after each, writes the table of targets.
///
/// # Errors
/// When a file cannot be written. A failure of the device is a row of the report.
pub fn run(setup: &Setup, parts: &[Part], session: &mut Session) -> Result<Facts> {
    if parts.is_empty() {
        return Err(invalid!("--parts: at least one part"));
    }
    let mut facts = Facts::default();
    for part in parts {
        match part {
            Part::ParityOps => operations::run(setup, session, &mut facts)?,
            Part::ParityModels => models::run(setup, session, &mut facts)?,
            Part::Throughput | Part::Training => speed::run(*part, setup, session, &mut facts)?,
            Part::Memory => memory::run(setup, session, &mut facts)?,
            Part::Bandwidth => bandwidth::run(setup, session, &mut facts)?,
        }
        session.targets(targets::table(&facts, setup))?;
    }
    Ok(facts)
}
