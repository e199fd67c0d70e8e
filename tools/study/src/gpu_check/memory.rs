//! Peak memory of a training step and of inference, each in a child process.
//!
//! On a GPU, Burn reports the bytes that CubeCL's allocator holds (`Device::memory_pool_usage`): in reserve, and in use. The reserve grows to
//! the peak and is read after the runs; the peak in use is the largest of many samples. `nvidia-smi`, where it is installed, reports
//! the memory of the whole process on the GPU, including context and compiled kernels.

use vmamba_report::tables::Cell;
use vmamba_train::Precision;

use super::precision::BF16;
use super::session::{Outcome, Session};
use super::{Facts, Part, Setup, speed};
use crate::error::Result;
use crate::measure::{Begin, Peers, Purpose, Subject, Task, Usage, gpu_memory_used, memory_apart};

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

pub(super) fn run(setup: &Setup, session: &mut Session, facts: &mut Facts) -> Result<()> {
    session.part(Part::Memory, &COLUMNS)?;
    let Some(preset) = setup.presets.first().copied() else { return Ok(()) };
    let [batch, side] = setup.memory_size;
    // Every peer is measured in its own worker process; this worker only lists them.
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
        for purpose in [Purpose::Training, Purpose::Inference] {
            let work = format!("{purpose} of {preset}, {}, batch {batch}, {side}x{side}", precision.name());
            if !session.begin(&work)? {
                continue;
            }
            let title = |model: &str, numbers: &str| -> Vec<Cell> {
                vec![purpose.name().into(), model.into(), numbers.into(), batch.into(), side.into()]
            };
            let task = Task { work: purpose.work(true), size: [side; 2], batch, precision: *precision, threads: None };
            let numbers = if *precision == Precision::Bf16 { BF16 } else { precision.name() };
            let subject = Subject { config: preset.config().into(), task, device: setup.choice.to_string() };
            let ours = ours(setup, subject);
            let reserved = ours.as_ref().ok().map(|(usage, _)| usage.peak);
            session.row(title(preset.name(), numbers), outcome(ours))?;
            for name in &names {
                if !session.begin(&format!("{purpose} of {name}"))? {
                    continue;
                }
                let peer = peer(setup, name, &task);
                if let (Ok((peer, _)), Some(ours), Purpose::Training) = (&peer, reserved, purpose)
                    && name == Peers::OFFICIAL
                    && facts.memory_over_official.is_none()
                {
                    facts.memory_over_official = Some(ours as f64 / peer.peak as f64);
                }
                session.row(title(name, precision.name()), outcome(peer))?;
            }
        }
    }
    Ok(())
}

/// Memory as the process reports it, and of the whole process on the GPU.
type Found = Result<(Usage, Option<u64>), String>;

fn outcome(found: Found) -> Outcome {
    let mib = |bytes: u64| Cell::Number(bytes as f64 / f64::from(1 << 20), 0);
    match found {
        Ok((Usage { before, peak, in_use, source }, whole)) => {
            let optional = |bytes: Option<u64>| bytes.map_or(Cell::Missing, mib);
            Outcome::Measured(vec![mib(peak), optional(in_use), mib(before), optional(whole), source.into()], String::new())
        }
        Err(reason) => Outcome::Failed(reason),
    }
}

fn ours(setup: &Setup, subject: Subject) -> Found {
    let idle = gpu_memory_used(setup.choice);
    let mut most = None;
    let usage = memory_apart(subject, Begin::WholeRun, Some(&mut || most = most.max(gpu_memory_used(setup.choice))))?;
    Ok((usage, most.zip(idle).map(|(most, idle)| most.saturating_sub(idle))))
}

fn peer(setup: &Setup, name: &str, task: &Task) -> Found {
    let Some(source) = &setup.peers else { return Err("no peers".to_owned()) };
    let usage = Peers::memory_apart(&source.python, source.official.as_deref(), name, task, &setup.torch_device())?;
    Ok((usage, None))
}
