//! Peak memory of a training step and of inference, each in a process of its own.
//!
//! Burn tells what CubeCL's allocator holds (`Device::memory_pool_usage`): in reserve, and of that in use. The reserve grows to the peak
//! and is read after the runs; what is in use goes up and down, and its peak is the largest of many samples. `nvidia-smi`, where it is
//! there, tells what the process costs the GPU altogether, context and compiled kernels included.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use burn::prelude::*;
use serde_json::{Value, json};
use vmamba::Preset;

use super::environment::gpu_memory_used;
use super::precision::BF16;
use super::session::{Outcome, Session};
use super::speed::{self, Network, Purpose};
use super::{Facts, Part, Setup, threads};
use crate::peers::{PeerPrecision, Peers, Task, Work, peak_of_peer_in};
use crate::process::memory as process_memory;
use vmamba_report::tables::Cell;
use vmamba_train::device::DeviceChoice;
use vmamba_train::device_memory::{PoolPeak, pool_peak};
use vmamba_train::precision::Precision;

const COLUMNS: [&str; 10] = [
    "work",
    "model",
    "precision",
    "batch",
    "side",
    "reserved, MiB",
    "in use, MiB",
    "before, MiB",
    "whole process on the GPU, MiB",
    "source",
];

/// Time between two questions to `nvidia-smi`, which takes about as long to answer.
const ASKING: Duration = Duration::from_millis(50);

/// What a process is measured at.
#[derive(Clone, Debug)]
pub struct MemoryWork {
    /// `training` or `inference`.
    pub purpose: String,
    /// Model.
    pub preset: Preset,
    /// Numbers to compute with.
    pub precision: Precision,
    /// Images at once.
    pub batch: usize,
    /// Height and width of the images.
    pub side: usize,
}

impl MemoryWork {
    /// As the arguments of the process, behind the name of the option.
    fn arguments(&self) -> [String; 5] {
        let Self { purpose, preset, precision, batch, side } = self;
        [purpose.clone(), preset.name().to_owned(), precision.name().to_owned(), batch.to_string(), side.to_string()]
    }

    /// The reverse of that.
    ///
    /// # Errors
    /// When an argument is wrong.
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let [purpose, preset, precision, batch, side] = arguments else { bail!("--measure-memory: five arguments") };
        let number = |text: &String| text.parse::<usize>().with_context(|| format!("--measure-memory: `{text}` is no number"));
        if !["training", "inference"].contains(&purpose.as_str()) {
            bail!("--measure-memory: `{purpose}` is neither training nor inference");
        }
        let precision = precision.parse::<Precision>().map_err(anyhow::Error::msg)?;
        Ok(Self { purpose: purpose.clone(), preset: preset.parse()?, precision, batch: number(batch)?, side: number(side)? })
    }
}

/// Runs a network twice in this process, once more before to tune kernels, and tells its memory.
///
/// # Errors
/// When the device fails, or nobody tells.
pub fn measure_memory(work: &MemoryWork, device: &Device) -> Result<Value> {
    let MemoryWork { purpose, preset, precision, batch, side } = work;
    precision.adopt(device)?;
    let purpose = if purpose == "training" { Purpose::Training } else { Purpose::Inference };
    let wait = || device.sync().map_err(|error| anyhow::anyhow!("{error}"));
    let mut network = Network::new(*preset, purpose, *precision, *batch, *side, device);
    network.run();
    wait()?;
    let peak = pool_peak(device, || {
        network.run();
        network.run();
        wait()
    })?;
    let Some(PoolPeak { before, in_use, reserved }) = peak else {
        let before = process_memory().context("the system does not tell how much memory a process has")?;
        network.run();
        network.run();
        network.check()?;
        let after = process_memory().context("the system does not tell how much memory a process has")?;
        return Ok(json!({ "reserved": after.peak, "before": before.now, "source": "resident memory of the process" }));
    };
    network.check()?;
    Ok(json!({ "reserved": reserved, "in_use": in_use, "before": before, "source": "CubeCL's allocator (in use: sampled)" }))
}

pub(super) fn run(setup: &Setup, session: &mut Session, facts: &mut Facts) -> Result<()> {
    session.part(Part::Memory, &COLUMNS)?;
    let Some(preset) = setup.presets.first().copied() else { return Ok(()) };
    let [batch, side] = setup.memory_size;
    // The peers are asked one at a time, each in a process of its own, so this one is only asked which there are.
    let names = match speed::start(setup) {
        Ok(worker) => worker.map(|(_, names)| names).unwrap_or_default(),
        Err(reason) => {
            session.note(format!("peers left out: {reason}"))?;
            Vec::new()
        }
    };
    for precision in &setup.precisions {
        if let Err(error) = precision.adopt(&setup.device) {
            session.note(format!("{} not run: {error}", precision.name()))?;
            continue;
        }
        for purpose in ["training", "inference"] {
            let work = MemoryWork { purpose: purpose.to_owned(), preset, precision: *precision, batch, side };
            let what = format!("{purpose} of {preset}, {}, batch {batch}, {side}x{side}", precision.name());
            if !session.begin(&what)? {
                continue;
            }
            let title =
                |model: &str, numbers: &str| -> Vec<Cell> { vec![purpose.into(), model.into(), numbers.into(), batch.into(), side.into()] };
            let numbers = if *precision == Precision::Bf16 { BF16 } else { precision.name() };
            let ours = of_ours(setup, &work).map_err(|error| format!("{error:#}"));
            let reserved = ours.as_ref().ok().map(|usage| usage.reserved);
            session.row(title(preset.name(), numbers), outcome(ours))?;
            for name in &names {
                if !session.begin(&format!("{purpose} of {name}"))? {
                    continue;
                }
                let peer = of_peer(setup, name, &work);
                if let (Ok(peer), Some(ours), "training") = (&peer, reserved, purpose)
                    && name == Peers::OFFICIAL
                    && facts.memory_over_official.is_none()
                {
                    facts.memory_over_official = Some(ours as f64 / peer.reserved as f64);
                }
                session.row(title(name, precision.name()), outcome(peer))?;
            }
        }
    }
    Ok(())
}

struct Usage {
    reserved: u64,
    in_use: Option<u64>,
    before: u64,
    whole: Option<u64>,
    source: String,
}

fn outcome(usage: Result<Usage, String>) -> Outcome {
    let mib = |bytes: u64| Cell::Number(bytes as f64 / f64::from(1 << 20), 0);
    match usage {
        Ok(Usage { reserved, in_use, before, whole, source }) => {
            let optional = |bytes: Option<u64>| bytes.map_or(Cell::Missing, mib);
            Outcome::Measured(vec![mib(reserved), optional(in_use), mib(before), optional(whole), source.into()], String::new())
        }
        Err(reason) => Outcome::Failed(reason),
    }
}

fn of_ours(setup: &Setup, work: &MemoryWork) -> Result<Usage> {
    let program = std::env::current_exe().context("this program cannot call itself")?;
    let errors = tempfile::tempfile().context("no temporary file")?;
    let device = setup.choice.to_string();
    let mut arguments = vec!["--device".to_owned(), device, "--measure-memory".to_owned()];
    arguments.extend(work.arguments());
    let idle = gpu_memory(setup.choice);
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(errors.try_clone().context("no temporary file")?))
        .spawn()
        .context("this program cannot call itself")?;
    let (child, most) = watch(child, setup.choice)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", last_line(errors).unwrap_or_else(|| output.status.to_string()));
    }
    let answer: Value = serde_json::from_slice(&output.stdout).context("the process that measures answered no JSON")?;
    let bytes = |key: &str| answer[key].as_u64();
    Ok(Usage {
        reserved: bytes("reserved").context("no figures")?,
        in_use: bytes("in_use"),
        before: bytes("before").context("no figures")?,
        whole: most.zip(idle).map(|(most, idle)| most.saturating_sub(idle)),
        source: answer["source"].as_str().unwrap_or_default().to_owned(),
    })
}

fn gpu_memory(choice: DeviceChoice) -> Option<u64> {
    match choice {
        DeviceChoice::Cuda(index) => gpu_memory_used(index),
        _ => None,
    }
}

/// Waits for a process and tells the most memory the GPU had in use meanwhile.
fn watch(mut child: Child, choice: DeviceChoice) -> Result<(Child, Option<u64>)> {
    let mut most = None;
    while child.try_wait()?.is_none() {
        most = most.max(gpu_memory(choice));
        std::thread::sleep(ASKING);
    }
    Ok((child, most))
}

fn last_line(mut errors: std::fs::File) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut text = String::new();
    errors.seek(SeekFrom::Start(0)).ok()?;
    errors.read_to_string(&mut text).ok()?;
    text.lines().rfind(|line| !line.trim().is_empty()).map(|line| line.trim_start_matches("error: ").to_owned())
}

fn of_peer(setup: &Setup, name: &str, work: &MemoryWork) -> Result<Usage, String> {
    let Some(source) = &setup.peers else { return Err("no peers".to_owned()) };
    let training = work.purpose == "training";
    let task =
        Task { work: if training { Work::Train } else { Work::Forward }, size: [work.side; 2], batch: work.batch, threads: threads() };
    let precision = match work.precision {
        Precision::Float32 => PeerPrecision::Float32,
        Precision::Tf32 => PeerPrecision::Tf32,
        Precision::Bf16 => PeerPrecision::Bf16,
    };
    let setting = speed::setting(setup, precision, training);
    let peak = peak_of_peer_in(&source.python, source.official.as_deref(), name, task, &setting)?;
    let source = if setting.device == "cpu" { "resident memory of the process" } else { "PyTorch's allocator" };
    Ok(Usage { reserved: peak.peak, in_use: peak.allocated, before: peak.before, whole: None, source: source.to_owned() })
}
