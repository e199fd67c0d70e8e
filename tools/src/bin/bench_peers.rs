//! Our models beside PyTorch's: `bench_peers --out runs/peers`.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use vmamba_cli::arguments::{batch, count, pixels, threads};
use vmamba_cli::process;
use vmamba_cli::study_options::{self, MeasureOption, OutOption, PresetsOption, PythonOption, RoundsOption, SidesOption};
use vmamba_report::{eprintln, print, println};
use vmamba_study::measure::{Peers, Task, Work};
use vmamba_study::peers::{self, Results};
use vmamba_train::Precision;

/// Measure our networks and PyTorch's in turns, on this machine's CPU, in float32.
///
/// Writes peers.md, peers.json (every run), memory.md and, with forward passes, peers.png and peers.svg. The peers need a Python with torch
/// and torchvision.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    models: PresetsOption,
    /// Peers. Only swin_t has UperNet, only resnet50 has Mask R-CNN.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = Peers::NAMES, default_value = "swin_t,convnext_t,resnet50,deit_s")]
    peers: Vec<String>,
    /// What to measure.
    #[arg(long, value_name = "TASK,...", value_enum, value_delimiter = ',', default_value = "forward,train")]
    tasks: Vec<Kind>,
    #[command(flatten)]
    sides: SidesOption,
    /// Height and width of UperNet's image in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = 512, value_parser = pixels)]
    segment_side: usize,
    /// Height and width of Mask R-CNN's image in pixels, before padding.
    #[arg(long, num_args = 2, value_names = ["HEIGHT", "WIDTH"], default_values_t = [800, 1066], value_parser = pixels)]
    detect_size: Vec<usize>,
    /// Numbers of CPU threads; memory is measured with the last.
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = threads, default_value = "1,2")]
    threads: Vec<usize>,
    #[command(flatten)]
    rounds: RoundsOption,
    /// Rounds of the training step, UperNet and Mask R-CNN.
    #[arg(long, value_name = "N", value_parser = count, default_value_t = 5)]
    long_rounds: usize,
    /// Batch size of the training step.
    #[arg(long, value_name = "N", value_parser = batch, default_value_t = 4)]
    train_batch: usize,
    #[command(flatten)]
    python: PythonOption,
    #[command(flatten)]
    out: OutOption,
    #[command(flatten)]
    measure: MeasureOption,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Forward pass of a classifier, at every side.
    Forward,
    /// Forward and backward pass of a classifier, at the first side.
    Train,
    /// UperNet with 150 classes.
    Segment,
    /// Mask R-CNN with 1000 proposals and 100 detections.
    Detect,
    /// Peak memory of a classifier's forward pass, at every side, each in a child process.
    Memory,
}

fn main() -> ExitCode {
    let arguments: Arguments =
        study_options::parse(&[("models", "vmamba_tiny_s1l8"), ("sides", "224,512"), ("rounds", "15"), ("out", "runs/peers")]);
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.measure.answer()? {
        return Ok(());
    }
    arguments.out.check([])?;
    let (models, out) = (&arguments.models.models, &arguments.out.out);
    let (tasks, memory_tasks) = (tasks(arguments)?, memory_tasks(arguments));
    tasks.iter().map(|(task, _)| task).chain(&memory_tasks).try_for_each(Task::check)?;
    let _lock = arguments.out.create()?;
    let mut peers = start(&arguments.python);
    let mut results = Results::default();
    for (index, (task, rounds)) in tasks.iter().enumerate() {
        eprintln!("{}/{}: {}", index + 1, tasks.len(), task.name());
        let names = names(arguments, task.work, peers.as_ref());
        results.comparisons.push(peers::compare(*task, models, peers.as_mut(), &names, *rounds)?);
        // After every task, so that an interrupted run keeps its results.
        results.write(out, peers.as_ref())?;
    }
    for task in &memory_tasks {
        eprintln!("memory: {}", task.name());
        let names = names(arguments, task.work, peers.as_ref());
        results.memory.extend(peers::memory(task, models, arguments.python.program(), &names));
        results.write(out, peers.as_ref())?;
    }
    print!("{}", results.text());
    println!("results are in {}", out.display());
    match peers.as_ref().and_then(Peers::ended) {
        Some(reason) => bail!("{reason}; the tables name the missing figures"),
        None => Ok(()),
    }
}

fn task(work: Work, size: [usize; 2], batch: usize, threads: Option<usize>) -> Task {
    Task { work, size, batch, precision: Precision::Float32, threads }
}

/// The tasks whose memory is measured.
fn memory_tasks(arguments: &Arguments) -> Vec<Task> {
    let sides = arguments.sides.sides.iter().filter(|_| arguments.tasks.contains(&Kind::Memory));
    sides.map(|side| task(Work::Forward, [*side; 2], 1, arguments.threads.last().copied())).collect()
}

/// The tasks whose speed is measured, with their numbers of rounds.
fn tasks(arguments: &Arguments) -> Result<Vec<(Task, usize)>> {
    let mut tasks = Vec::new();
    let (rounds, long, sides) = (arguments.rounds.rounds, arguments.long_rounds, &arguments.sides.sides);
    for threads in &arguments.threads {
        let mut add = |work, size, batch, rounds| tasks.push((task(work, size, batch, Some(*threads)), rounds));
        for kind in &arguments.tasks {
            match kind {
                Kind::Forward => sides.iter().for_each(|side| add(Work::Forward, [*side; 2], 1, rounds)),
                Kind::Train => {
                    let side = *sides.first().context("--sides: the training step needs one")?;
                    add(Work::Train { update: false }, [side; 2], arguments.train_batch, long);
                }
                Kind::Segment => add(Work::Segment, [arguments.segment_side; 2], 1, long),
                Kind::Detect => {
                    let size = <[usize; 2]>::try_from(arguments.detect_size.as_slice()).context("--detect-size: height and width")?;
                    add(Work::Detect, size, 1, long);
                }
                Kind::Memory => {}
            }
        }
    }
    Ok(tasks)
}

/// The requested peers that can do this work; prints those that cannot.
fn names(arguments: &Arguments, work: Work, peers: Option<&Peers>) -> Vec<String> {
    let Some(peers) = peers else { return Vec::new() };
    let (names, missing): (Vec<String>, Vec<String>) =
        arguments.peers.iter().cloned().partition(|name| peers.versions().models(work).contains(name));
    if !missing.is_empty() {
        eprintln!("  no peer for this task: {}", missing.join(", "));
    }
    names
}

fn start(python: &PythonOption) -> Option<Peers> {
    let Some(python) = python.program() else {
        println!("peers skipped: --python none");
        return None;
    };
    match Peers::start(python, None) {
        Ok(peers) => {
            let versions = peers.versions();
            println!("peers: PyTorch {}, torchvision {}", versions.torch, versions.torchvision);
            Some(peers)
        }
        Err(error) => {
            println!("peers skipped: {} (name a Python with torch and torchvision with --python)", error.line());
            None
        }
    }
}
