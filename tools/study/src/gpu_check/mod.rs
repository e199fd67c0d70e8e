//! What `gpu_check` measures and checks on a device, one part a module:
//!
//! ```text
//! operations, models   the device against the CPU and against fixtures: parity
//! speed                images a second and training steps, beside PyTorch in the same rounds
//! memory               peak of training and inference, each in a process of its own
//! bandwidth            bytes the scan moves, beside a copy
//!     └─> session: rows as they come, written after each      facts ─> targets: what was to be reached and what was
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
mod timing;

use std::path::PathBuf;

use anyhow::{Result, bail};
use burn::prelude::*;
use clap::ValueEnum;
use vmamba::Preset;

use vmamba_train::device::DeviceChoice;
use vmamba_train::precision::Precision;

pub use environment::Environment;
pub(crate) use environment::device_name;
pub use facts::Facts;
pub use fixtures::FixtureSet;
pub use memory::{MemoryWork, measure_memory};
pub use operations::{OPERATIONS, check_names};
pub use session::Session;
pub use timing::Protocol;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Part {
    /// Every operation, forward and backward, against the CPU.
    ParityOps,
    /// Networks against numbers of the official implementations (`--fixtures`).
    ParityModels,
    /// Images a second of classifiers.
    Throughput,
    /// Training steps of classifiers: forward, cross entropy, backward, AdamW.
    Training,
    /// Peak memory of training and inference.
    Memory,
    /// Bytes a second of the four-route scan beside a copy.
    Bandwidth,
}

impl Part {
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

/// Python for the peers, and the official code.
#[derive(Clone, Debug)]
pub struct PeerSource {
    /// The program.
    pub python: String,
    /// Folder `classification/models` of the official repository.
    pub official: Option<PathBuf>,
}

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The device as it was named.
    pub choice: DeviceChoice,
    /// The device.
    pub device: Device,
    /// Numbers to compute with.
    pub precisions: Vec<Precision>,
    /// Models of `throughput` and `training`; the first is what ratios are about, and that of `memory`.
    pub presets: Vec<Preset>,
    /// Images at once.
    pub batches: Vec<usize>,
    /// Height and width of the images.
    pub sides: Vec<usize>,
    /// Batch and side of `memory`.
    pub memory_size: [usize; 2],
    /// Images at once of `bandwidth`.
    pub bandwidth_batch: usize,
    /// Operations of `parity-ops`; empty for all.
    pub operations: Vec<String>,
    /// How times are taken.
    pub protocol: Protocol,
    /// The largest error of float32, relative to the largest value.
    pub tolerance: f64,
    /// The largest error of bf16 activations.
    pub bf16_tolerance: f64,
    /// Numbers of the official implementations.
    pub fixtures: Option<FixtureSet>,
    /// The peers; none to measure ours alone.
    pub peers: Option<PeerSource>,
}

impl Setup {
    /// The largest error an operation may have.
    fn limit(&self, precision: Precision) -> f64 {
        match precision {
            Precision::Float32 => self.tolerance,
            // A few bits more than bf16; there are no limits of its own.
            Precision::Tf32 | Precision::Bf16 => self.bf16_tolerance,
        }
    }

    /// PyTorch's name of the device: a Vulkan device is taken for the first GPU.
    fn torch_device(&self) -> String {
        match self.choice {
            DeviceChoice::Cpu => "cpu".to_owned(),
            DeviceChoice::Cuda(index) => format!("cuda:{index}"),
            DeviceChoice::Vulkan(index) => format!("cuda:{}", index.unwrap_or(0)),
        }
    }
}

/// Runs the parts in the order given and then writes the table of targets.
///
/// # Errors
/// When a file cannot be written. What the device cannot do is a row that says so.
pub fn run(setup: &Setup, parts: &[Part], session: &mut Session) -> Result<Facts> {
    if parts.is_empty() {
        bail!("--parts: nothing to do");
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

/// Number of threads the CPU's work is done with, here and in the peers.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
