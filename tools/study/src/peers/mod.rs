//! Speed and memory beside other implementations: our models and, through a Python worker, PyTorch's, run in turns on the same machine.

mod memory;
mod network;
mod report;
mod worker;

use std::time::Instant;

use anyhow::{Result, bail};
use vmamba::Preset;

use crate::process::cpu_seconds;

pub use memory::{Peak, measure_memory, peak_of_ours, peak_of_peer, peak_of_peer_in};
pub use report::{json, memory_table, min_and_median, plot, table};
pub use worker::{PeerPrecision, Peers, Setting, Versions};

use network::Network;

/// What a network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A classifier's forward pass.
    Forward,
    /// A classifier's forward and backward pass of a cross-entropy loss.
    Train,
    /// UperNet with 512 channels and 150 classes, to logits at stride 4.
    Segment,
    /// Mask R-CNN with 1000 proposals and as many objects as it may find, to pasted masks.
    Detect,
}

impl Work {
    /// Its name in requests to the worker and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Train => "train",
            Self::Segment => "segment",
            Self::Detect => "detect",
        }
    }
}

/// What one measurement runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// What the networks do.
    pub work: Work,
    /// Height and width of the images in pixels.
    pub size: [usize; 2],
    /// Images at once.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
}

impl Task {
    /// `forward, 224x224, batch 1, 2 threads`.
    pub fn name(&self) -> String {
        let Self { work, size: [height, width], batch, threads } = *self;
        let what = match work {
            Work::Forward => "forward",
            Work::Train => "training step",
            Work::Segment => "UperNet",
            Work::Detect => "Mask R-CNN",
        };
        format!("{what}, {height}x{width}, batch {batch}, {threads} thread{}", if threads == 1 { "" } else { "s" })
    }

    fn check(&self) -> Result<()> {
        if self.threads == 0 || self.batch == 0 || self.size.iter().any(|side| *side < 32) {
            bail!("threads and batch must be at least 1 and the sides at least 32: {}", self.name());
        }
        Ok(())
    }
}

/// Seconds of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// On the clock.
    pub wall: f64,
    /// Of all threads of the process together, where the system tells.
    pub cpu: Option<f64>,
}

/// The runs of one model, or why there are none.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Model.
    pub name: String,
    /// Whether it is one of ours.
    pub ours: bool,
    /// The runs in order, without the warm-up; the reason when the model could not run.
    pub runs: Result<Vec<Timing>, String>,
}

/// All models on one task.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What was run.
    pub task: Task,
    /// Ours first.
    pub models: Vec<Measured>,
}

/// Runs `ours` and the peers called `names` in turns: one warm-up each, then `runs` rounds of one run of every model.
///
/// A peer that refuses the task, and every peer of a worker that ended, is a row that says why.
///
/// # Errors
/// When the task has no threads, images or pixels, or no runs are asked for.
pub fn compare(task: Task, ours: &[Preset], mut peers: Option<&mut Peers>, names: &[String], runs: usize) -> Result<Comparison> {
    task.check()?;
    if runs == 0 {
        bail!("{}: at least one run", task.name());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(task.threads).build()?;
    let mut models: Vec<Measured> = Vec::new();
    let mut networks = Vec::new();
    for preset in ours {
        let network = pool.install(|| Network::new(*preset, task));
        pool.install(|| network.run());
        networks.push(network);
        models.push(Measured { name: preset.name().to_owned(), ours: true, runs: Ok(Vec::new()) });
    }
    if let Some(peers) = peers.as_mut() {
        for name in names {
            let warmed = peers.set_up(name, task).and_then(|()| peers.run(name));
            models.push(Measured { name: name.clone(), ours: false, runs: warmed.map(|_| Vec::with_capacity(runs)) });
        }
    }
    for _ in 0..runs {
        for (index, model) in models.iter_mut().enumerate() {
            let Ok(timings) = &mut model.runs else { continue };
            let timing = match (networks.get(index), peers.as_mut()) {
                (Some(network), _) => Ok(pool.install(|| timed(|| network.run()))),
                (None, Some(peers)) => peers.run(&model.name),
                (None, None) => continue,
            };
            match timing {
                Ok(timing) => timings.push(timing),
                Err(reason) => model.runs = Err(reason),
            }
        }
    }
    if let Some(peers) = peers {
        peers.clear();
    }
    Ok(Comparison { task, models })
}

fn timed(work: impl FnOnce()) -> Timing {
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    work();
    Timing { wall: wall.elapsed().as_secs_f64(), cpu: cpu_seconds().zip(cpu).map(|(end, start)| end - start) }
}
