//! A device measured and checked: `gpu_check --device cuda:0 --out runs/gpu_check`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anstream::{print, println};
use anyhow::{Context, Result, bail};
use clap::Parser;
use vmamba::Preset;
use vmamba_cli::process;
use vmamba_study::gpu_check::{self, Environment, FixtureSet, MemoryWork, Part, PeerSource, Protocol, Session, Setup};
use vmamba_train::DeviceChoice;
use vmamba_train::Precision;

/// Check a device against the CPU and the official implementations, and measure speed, memory and bandwidth on it, beside PyTorch where
/// a Python with it is there.
///
/// Writes gpu_check.md and gpu_check.json after every row. Exits with 1 when a check of parity is not passed; figures of speed and memory
/// pass or fail nothing.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// `cpu`, `cuda[:n]` or `vulkan[:n]`.
    #[arg(long, default_value = "cuda:0")]
    device: DeviceChoice,
    /// What to do.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "parity-ops,parity-models,throughput,training,memory,bandwidth")]
    parts: Vec<Part>,
    /// Models of throughput and training; ratios to peers, and memory, are about the first.
    #[arg(long, value_delimiter = ',', default_value = "vmamba_tiny_s1l8,vmamba_small_s2l15,vmamba_base_s2l15")]
    models: Vec<String>,
    /// Images at once.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32,128")]
    batches: Vec<usize>,
    /// Height and width of the images in pixels.
    #[arg(long, value_delimiter = ',', default_value = "224,384,512,768")]
    sides: Vec<usize>,
    /// Numbers to compute with; what the device does not have is said and left out.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "float32,tf32,bf16")]
    precisions: Vec<Precision>,
    /// Batch and side of the memory part.
    #[arg(long, num_args = 2, value_names = ["BATCH", "SIDE"], default_values_t = [32, 224])]
    memory_size: Vec<usize>,
    /// Images at once of the bandwidth part.
    #[arg(long, default_value_t = 128)]
    bandwidth_batch: usize,
    /// Operations of parity-ops; all when not given.
    #[arg(long, value_delimiter = ',')]
    operations: Vec<String>,
    /// Runs before the first round.
    #[arg(long, default_value_t = 10)]
    warmup: usize,
    /// The most runs of a round; fewer when they take more than a second.
    #[arg(long, default_value_t = 30)]
    iterations: usize,
    /// Rounds, in each of which ours and the peers run in turns; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Largest error of float32 relative to the largest value; gradients of whole networks may have ten times as much.
    #[arg(long, default_value_t = 1e-4)]
    tolerance: f64,
    /// Largest error of operations with bf16 activations: some roundings to eight bits, 0.4 % each.
    #[arg(long, default_value_t = 2e-2)]
    bf16_tolerance: f64,
    /// Numbers of the official implementations, laid out like tests/fixtures, for parity-models.
    #[arg(long)]
    fixtures: Option<PathBuf>,
    /// Python with torch and torchvision for the peers; `none` measures ours alone.
    #[arg(long, default_value = "python3")]
    python: String,
    /// Folder classification/models of the official repository, to measure the official model as a peer, too.
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Seconds after which no further row is begun; the report says which were left out.
    #[arg(long)]
    time_limit: Option<u64>,
    /// Folder for the report.
    #[arg(long, default_value = "runs/gpu_check")]
    out: PathBuf,
    /// Measure the memory of this process and print it; how the memory part calls itself.
    #[arg(long, hide = true, num_args = 5, value_names = ["PURPOSE", "MODEL", "PRECISION", "BATCH", "SIDE"])]
    measure_memory: Option<Vec<String>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<bool> {
    if let Some(work) = &arguments.measure_memory {
        let work = MemoryWork::parse(work)?;
        let device = arguments.device.open()?;
        let measured = vmamba_train::panics::catch(|| gpu_check::measure_memory(&work, &device)).map_err(anyhow::Error::msg)??;
        println!("{measured}");
        return Ok(true);
    }
    let setup = setup(arguments)?;
    let limit = arguments.time_limit.map(Duration::from_secs);
    let mut session = Session::new(&arguments.out, limit, Environment::of(setup.choice, &setup.device))?;
    let facts = gpu_check::run(&setup, &arguments.parts, &mut session)?;
    print!("{}", session.text());
    for row in session.left_out() {
        println!("left out for want of time: {row}");
    }
    println!("written to {}", arguments.out.display());
    if !facts.passed() {
        println!("{} checks of parity not passed", facts.failed());
    }
    Ok(facts.passed())
}

/// Everything that can be wrong with the arguments is found before anything is computed.
fn setup(arguments: &Arguments) -> Result<Setup> {
    let presets = arguments.models.iter().map(|name| preset(name)).collect::<Result<Vec<_>>>()?;
    gpu_check::check_names(&arguments.operations)?;
    for (name, values, least) in [
        ("--batches", arguments.batches.as_slice(), 1),
        ("--sides", &arguments.sides, 32),
        ("--memory-size", &arguments.memory_size, 1),
        ("--bandwidth-batch", &[arguments.bandwidth_batch], 1),
        ("--rounds", &[arguments.rounds], 1),
        ("--iterations", &[arguments.iterations], 1),
    ] {
        if let Some(value) = values.iter().find(|value| **value < least) {
            bail!("{name}: {value} is less than {least}");
        }
    }
    let memory_size = <[usize; 2]>::try_from(arguments.memory_size.as_slice()).context("--memory-size: batch and side")?;
    if memory_size[1] < 32 {
        bail!("--memory-size: a side of {} is less than 32", memory_size[1]);
    }
    let fixtures = arguments.fixtures.as_deref().map(FixtureSet::open).transpose()?;
    if let Some(folder) = arguments.peers.as_ref().filter(|folder| !folder.join("vmamba.py").is_file()) {
        bail!("--peers: {} has no vmamba.py", folder.display());
    }
    let peers = (arguments.python != "none").then(|| PeerSource { python: arguments.python.clone(), official: arguments.peers.clone() });
    Ok(Setup {
        choice: arguments.device,
        device: arguments.device.open()?,
        precisions: arguments.precisions.clone(),
        presets,
        batches: arguments.batches.clone(),
        sides: arguments.sides.clone(),
        memory_size,
        bandwidth_batch: arguments.bandwidth_batch,
        operations: arguments.operations.clone(),
        protocol: Protocol { warmup: arguments.warmup, iterations: arguments.iterations, rounds: arguments.rounds },
        tolerance: arguments.tolerance,
        bf16_tolerance: arguments.bf16_tolerance,
        fixtures,
        peers,
    })
}

fn preset(name: &str) -> Result<Preset> {
    let names = || Preset::ALL.map(Preset::name).join(", ");
    Preset::ALL
        .into_iter()
        .find(|preset| preset.name() == name)
        .with_context(|| format!("--models: no model is called `{name}`; there are {}", names()))
}
