//! Checks and measurements of a device: `gpu_check --device cuda:0 --out runs/gpu_check`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use vmamba_cli::arguments::{batch, pixels, positive};
use vmamba_cli::options::DeviceOption;
use vmamba_cli::process;
use vmamba_cli::study_options::{
    self, BatchesOption, MeasureOption, OutOption, PrecisionsOption, PresetsOption, PythonOption, RunsOptions, SidesOption, one_of,
};
use vmamba_report::{print, println};
use vmamba_study::gpu_check::{self, Environment, FixtureSet, Operation, Part, PeerSource, Session, Setup, checked_operations};

/// Check a device against the CPU and the official implementations, and measure its speed, memory and bandwidth, beside PyTorch where
/// it is installed.
///
/// Writes gpu_check.md and gpu_check.json after every row. A warm-up ends after ten seconds, a round after one second. Exits with 1 when a
/// parity check fails; figures of speed and memory do not fail.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    device: DeviceOption,
    /// Parts of the report.
    #[arg(
        long,
        value_name = "PART,...",
        value_delimiter = ',',
        value_parser = one_of::<Part>(Part::ALL.map(Part::name)),
        default_value = "parity-ops,parity-models,throughput,training,memory,bandwidth"
    )]
    parts: Vec<Part>,
    #[command(flatten)]
    models: PresetsOption,
    #[command(flatten)]
    batches: BatchesOption,
    #[command(flatten)]
    sides: SidesOption,
    #[command(flatten)]
    precisions: PrecisionsOption,
    /// Batch size and side of the part memory.
    #[arg(long, num_args = 2, value_names = ["BATCH", "SIDE"], default_values_t = [32, 224], value_parser = pixels)]
    memory_size: Vec<usize>,
    /// Batch size of the part bandwidth.
    #[arg(long, value_name = "N", value_parser = batch, default_value_t = 128)]
    bandwidth_batch: usize,
    /// Operations of the part parity-ops; all without this option.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = operations())]
    operations: Vec<Operation>,
    #[command(flatten)]
    runs: RunsOptions,
    /// Tolerance of float32, relative to the largest value; gradients of whole networks have ten times as much.
    #[arg(long, value_name = "ERROR", default_value_t = 1e-4, value_parser = positive)]
    tolerance: f64,
    /// Tolerance of operations with bf16 activations, which round to eight bits: 0.4 % each.
    #[arg(long, value_name = "ERROR", default_value_t = 2e-2, value_parser = positive)]
    bf16_tolerance: f64,
    /// Results of the official implementations for the part parity-models, in the layout of tests/fixtures.
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    #[command(flatten)]
    python: PythonOption,
    /// Folder classification/models of the official repository, whose VMamba-T becomes a peer as well.
    #[arg(long, value_name = "DIR")]
    peers: Option<PathBuf>,
    /// Seconds after which no row begins, 0 for none at all; the report names the rows left out.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    time_limit: Option<u64>,
    #[command(flatten)]
    out: OutOption,
    #[command(flatten)]
    measure: MeasureOption,
}

/// Defaults of the shared options.
const DEFAULTS: [(&str, &str); 9] = [
    ("device", "cuda:0"),
    ("models", "vmamba_tiny_s1l8,vmamba_small_s2l15,vmamba_base_s2l15"),
    ("batches", "1,8,32,128"),
    ("sides", "224,384,512,768"),
    ("precisions", "float32,tf32,bf16"),
    ("warmup", "10"),
    ("runs", "30"),
    ("rounds", "5"),
    ("out", "runs/gpu_check"),
];

fn operations() -> impl TypedValueParser<Value = Operation> {
    let by_name = |name: String| checked_operations().find(|operation| operation.name() == name).ok_or("unknown operation");
    PossibleValuesParser::new(checked_operations().map(Operation::name)).try_map(by_name)
}

fn main() -> ExitCode {
    let arguments: Arguments = study_options::parse(&DEFAULTS);
    process::run_tool(|| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.measure.answer()? {
        return Ok(true);
    }
    arguments.out.check([])?;
    let setup = setup(arguments)?;
    let limit = arguments.time_limit.map(Duration::from_secs);
    let out = &arguments.out.out;
    let _lock = arguments.out.create()?;
    let mut session = Session::new(out, limit, Environment::of(setup.choice, &setup.device))?;
    let facts = gpu_check::run(&setup, &arguments.parts, &mut session)?;
    print!("{}", session.text());
    for row in session.left_out() {
        println!("left out, the time was up: {row}");
    }
    println!("results are in {}", out.display());
    if !facts.passed() {
        println!("{} parity checks failed", facts.failed());
    }
    Ok(facts.passed())
}

/// Validates all arguments before any computation.
fn setup(arguments: &Arguments) -> Result<Setup> {
    let memory_size = <[usize; 2]>::try_from(arguments.memory_size.as_slice()).context("--memory-size: batch and side")?;
    let [memory_batch, memory_side] = memory_size;
    for (name, values, least) in [
        ("--sides", arguments.sides.sides.as_slice(), 32),
        ("--memory-size, batch", &[memory_batch], 1),
        ("--memory-size, side", &[memory_side], 32),
    ] {
        if let Some(value) = values.iter().find(|value| **value < least) {
            bail!("{name}: {value} is less than {least}");
        }
    }
    let fixtures = arguments.fixtures.as_deref().map(FixtureSet::open).transpose()?;
    if let Some(folder) = arguments.peers.as_ref().filter(|folder| !folder.join("vmamba.py").is_file()) {
        bail!("--peers: {} has no vmamba.py", folder.display());
    }
    let peers = arguments.python.program().map(|python| PeerSource { python: python.to_owned(), official: arguments.peers.clone() });
    let choice = arguments.device.device;
    Ok(Setup {
        choice,
        device: choice.open()?,
        precisions: arguments.precisions.precisions.clone(),
        presets: arguments.models.models.clone(),
        batches: arguments.batches.batches.clone(),
        sides: arguments.sides.sides.clone(),
        memory_size,
        bandwidth_batch: arguments.bandwidth_batch,
        operations: arguments.operations.clone(),
        protocol: arguments.runs.protocol(),
        tolerance: arguments.tolerance,
        bf16_tolerance: arguments.bf16_tolerance,
        fixtures,
        peers,
    })
}
