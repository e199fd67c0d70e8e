//! Peak memory of a network in a process of its own.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use vmamba::Preset;

use super::network::Network;
use super::{Peers, Setting, Task};
use crate::process::memory;

/// Memory in bytes: the resident memory of a process, or, of a peer on a GPU, what its allocator holds there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peak {
    /// With the program, the weights and the images, before the first run.
    pub before: u64,
    /// The most until the end of the second run.
    pub peak: u64,
    /// On a GPU: the most that was in use, where `peak` has what PyTorch's allocator keeps in reserve as well.
    pub allocated: Option<u64>,
}

impl Peak {
    pub(super) fn from_json(answer: &Value) -> Option<Self> {
        Some(Self { before: answer["before"].as_u64()?, peak: answer["peak"].as_u64()?, allocated: answer["allocated"].as_u64() })
    }
}

/// Runs a network of ours twice in this process and returns what [`peak_of_ours`] reads.
///
/// # Errors
/// When the task is none or the system does not tell.
pub fn measure_memory(preset: Preset, task: Task) -> Result<Value> {
    task.check()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(task.threads).build()?;
    let network = pool.install(|| {
        let network = Network::new(preset, task);
        network.draw_parameters();
        network
    });
    let before = memory().context("the system does not tell how much memory a process has")?;
    pool.install(|| {
        network.run();
        network.run();
    });
    let after = memory().context("the system does not tell how much memory a process has")?;
    Ok(json!({ "before": before.now, "peak": after.peak }))
}

/// Peak memory of a network of ours: runs `program`, which is to call [`measure_memory`] when it gets these arguments.
///
/// # Errors
/// With the program's last words.
pub fn peak_of_ours(program: &Path, arguments: &[String]) -> Result<Peak, String> {
    let run = || -> Result<Peak> {
        let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot start {}", program.display()))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("{}", errors.lines().last().map_or_else(|| output.status.to_string(), str::to_owned));
        }
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        Peak::from_json(&answer).context("no figures")
    };
    run().map_err(|error| format!("{error:#}"))
}

/// Peak memory of a peer in a worker of its own.
///
/// # Errors
/// With the worker's reason.
pub fn peak_of_peer(python: &str, name: &str, task: Task) -> Result<Peak, String> {
    peak_of_peer_in(python, None, name, task, &Setting::default())
}

/// As [`peak_of_peer`], on any device and in any precision; `official` as in [`Peers::start_beside`].
///
/// # Errors
/// With the worker's reason.
pub fn peak_of_peer_in(python: &str, official: Option<&Path>, name: &str, task: Task, setting: &Setting) -> Result<Peak, String> {
    let mut peers = Peers::start_beside(python, official).map_err(|error| format!("{error:#}"))?;
    peers.set_up_in(name, task, setting)?;
    peers.memory(name)
}
