//! Speed and memory of one network, in this process or in a child process.

use burn::prelude::*;
use serde::{Deserialize, Serialize};
use vision_datasets::json;
use vmamba_panics::catch;
use vmamba_train::DeviceChoice;

use super::device::{PoolPeak, machine, pool_peak};
use super::network::Network;
use super::task::Subject;
use super::timing::{Protocol, in_turns, on_device};
use super::{allocator, child, process};
use crate::error::{Result, StudyError};

/// The run before the measurement of memory begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// A run on a corner of the images: it draws the weights and leaves small buffers.
    Corner,
    /// A run on whole images: it also compiles and tunes kernels.
    WholeRun,
}

/// A request to a child process; the value of the option `--measure`, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Answered by [`Measured`].
    Speed {
        /// What is measured.
        subject: Subject,
        /// How.
        protocol: Protocol,
    },
    /// Answered by [`Usage`].
    Memory {
        /// What is measured.
        subject: Subject,
        /// The run before.
        begin: Begin,
    },
}

impl Request {
    /// Answers a request in this process, as JSON.
    ///
    /// # Errors
    /// When `text` is not a request, and as [`speed`] and [`memory`].
    pub fn answer(text: &str) -> Result<String> {
        let request = json::parse(text).map_err(StudyError::content("--measure"))?;
        let answer = match &request {
            Self::Speed { subject, protocol } => serde_json::to_string(&speed(subject, *protocol)?),
            Self::Memory { subject, begin } => serde_json::to_string(&memory(subject, *begin)?),
        };
        answer.map_err(StudyError::content("the answer"))
    }
}

/// Speed and memory of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Images per second in the median round.
    pub images_per_second: f64,
    /// Seconds of one run, in each round.
    pub seconds: Vec<f64>,
    /// Peak memory in bytes, including weights and images.
    pub peak_bytes: u64,
    /// Memory in bytes before the timed runs: weights and images.
    pub before_bytes: u64,
    /// The source of the memory figures.
    pub memory_source: String,
    /// The processor with its number of cores, or the GPU.
    #[serde(default)]
    pub machine: String,
}

/// Memory of a network in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory before the measured runs: program, weights and images.
    pub before: u64,
    /// Peak: resident memory of the process, or what a GPU's allocator holds in reserve.
    pub peak: u64,
    /// On a GPU: the peak of the memory in use.
    #[serde(default)]
    pub in_use: Option<u64>,
    /// The source of the figures.
    #[serde(default)]
    pub source: String,
}

impl Usage {
    /// Source of resident memory.
    pub(crate) const RESIDENT: &str = "resident memory of the process";
}

/// Measures speed and memory in this process. Memory on the CPU is counted by
/// [`CountingAllocator`](super::allocator::CountingAllocator).
///
/// # Errors
/// When the model is invalid, the device fails, or the program does not count its memory.
pub fn speed(subject: &Subject, protocol: Protocol) -> Result<Measured> {
    let (choice, device) = open(subject)?;
    guarded(|| {
        let task = &subject.task;
        let mut network = Network::new(&subject.config, task, &device)?;
        // Draws the weights; compiles and tunes kernels.
        network.run();
        wait(&device)?;
        let before = allocator::allocated();
        allocator::restart();
        let rest = Protocol { warmup: protocol.warmup.saturating_sub(1), ..protocol };
        let rounds = in_turns(rest, None, vec![on_device(&device, || network.run())]).pop();
        let rounds = rounds.unwrap_or_else(|| Err("no contender".to_owned())).map_err(StudyError::Run)?;
        let counted = allocator::peak();
        // Sampling a GPU's allocator would slow the timed runs; so it watches two more runs.
        let pool = pool_peak(&device, || twice(&mut network, &device))?;
        network.check()?;
        let (before_bytes, peak_bytes, source) = match pool {
            Some(pool) => (pool.before, pool.in_use, "the device's allocator, sampled"),
            None if counted > 0 => (before as u64, counted as u64, "the program's allocator"),
            None => return Err(StudyError::Run("this program does not count its memory".to_owned())),
        };
        let [_, median] = rounds.wall();
        Ok(Measured {
            images_per_second: task.batch as f64 / median,
            seconds: rounds.timings().iter().map(|timing| timing.wall).collect(),
            peak_bytes,
            before_bytes,
            memory_source: source.to_owned(),
            machine: machine(choice, &device),
        })
    })
}

/// Measures the memory of two runs in this process: of a GPU's allocator where it can be read, of the process otherwise.
///
/// # Errors
/// When the model is invalid, the device fails, or the system does not report the memory of a process.
pub fn memory(subject: &Subject, begin: Begin) -> Result<Usage> {
    let (_, device) = open(subject)?;
    let measure = || {
        let mut network = Network::new(&subject.config, &subject.task, &device)?;
        match begin {
            Begin::Corner => network.draw_parameters(),
            Begin::WholeRun => network.run(),
        }
        wait(&device)?;
        let pool = pool_peak(&device, || twice(&mut network, &device))?;
        let usage = match pool {
            Some(PoolPeak { before, in_use, reserved }) => {
                let source = "CubeCL's allocator (in use: sampled)".to_owned();
                Usage { before, peak: reserved, in_use: Some(in_use), source }
            }
            None => {
                let before = resident()?.now;
                twice(&mut network, &device)?;
                Usage { before, peak: resident()?.peak, in_use: None, source: Usage::RESIDENT.to_owned() }
            }
        };
        network.check()?;
        Ok(usage)
    };
    match subject.task.threads {
        Some(threads) => guarded(|| pool_of(threads)?.install(measure)),
        None => guarded(measure),
    }
}

/// As [`speed`], in a child process.
///
/// # Errors
/// The error of the child process on one line.
pub fn speed_apart(subject: Subject, protocol: Protocol) -> Result<Measured, String> {
    child::ask(&Request::Speed { subject, protocol }, None)
}

/// As [`memory`], in a child process; calls `watch` every 50 ms while it runs.
///
/// # Errors
/// The error of the child process on one line.
pub fn memory_apart(subject: Subject, begin: Begin, watch: Option<&mut dyn FnMut()>) -> Result<Usage, String> {
    child::ask(&Request::Memory { subject, begin }, watch)
}

/// A pool of CPU threads.
pub(crate) fn pool_of(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| StudyError::Run(error.to_string()))
}

fn open(subject: &Subject) -> Result<(DeviceChoice, Device)> {
    let choice = subject.device.parse::<DeviceChoice>().map_err(StudyError::Invalid)?;
    let device = choice.open()?;
    subject.task.precision.adopt(&device)?;
    Ok((choice, device))
}

/// Returns a panic of `work` as an error.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch(work).map_err(StudyError::Run)?
}

fn wait(device: &Device) -> Result<()> {
    device.sync().map_err(|error| StudyError::Run(error.to_string()))
}

fn twice(network: &mut Network, device: &Device) -> Result<()> {
    network.run();
    network.run();
    wait(device)
}

fn resident() -> Result<process::Resident> {
    process::resident().ok_or_else(|| StudyError::Run("this system does not report the memory of a process".to_owned()))
}
