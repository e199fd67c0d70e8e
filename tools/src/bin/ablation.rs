//! The acceleration and ablation tables of the paper: `ablation --tables d-state,scan-pattern --out runs/ablation`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use vmamba_cli::measuring_options::MeasuringOptions;
use vmamba_cli::options::ComputeOptions;
use vmamba_cli::process;
use vmamba_cli::study_options::{self, BatchOption, OutOption, one_of};
use vmamba_report::{eprintln, println};
use vmamba_study::ablation::{AblationConfig, Speed, check_file_names, write};
use vmamba_study::measure::allocator::CountingAllocator;
use vmamba_study::published::Ablation;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Print parameters, FLOPs and, with --measure-speed, throughput of the variants of VMamba in the paper's tables, beside the published
/// figures.
///
/// Writes a Markdown, a CSV and a JSON file for each table. Speeds are kept in study.json, so that an interrupted run can continue.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Published tables; all without this option.
    #[arg(long, value_name = "TABLE,...", value_delimiter = ',', value_parser = one_of::<Ablation>(Ablation::ALL.map(Ablation::name)))]
    tables: Vec<Ablation>,
    /// Your own tables, in the format of configs/ablation (repeatable); published tables are then left out unless --tables names them.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Also measure inference and training.
    #[arg(long)]
    measure_speed: bool,
    #[command(flatten)]
    batch: BatchOption,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    measuring: MeasuringOptions,
    #[command(flatten)]
    out: OutOption,
}

fn main() -> ExitCode {
    let arguments: Arguments = study_options::parse(&[("out", "runs/ablation")]);
    process::run_tool(|| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.measuring.measure.answer()? {
        return Ok(true);
    }
    arguments.out.check([])?;
    let names = match (arguments.tables.as_slice(), arguments.config.as_slice()) {
        ([], []) => &Ablation::ALL,
        (tables, _) => tables,
    };
    let mut tables = names.iter().map(|table| AblationConfig::built_in(*table)).collect::<Result<Vec<_>, _>>()?;
    for path in &arguments.config {
        tables.push(AblationConfig::read(path)?);
    }
    check_file_names(&tables)?;
    let _lock = arguments.out.create()?;
    let (measuring, out) = (&arguments.measuring, &arguments.out.out);
    let mut speed = None;
    if arguments.measure_speed {
        // Before the first measurement: a missing device or precision is one error instead of one in every row.
        arguments.compute.open()?;
        let (batch, precision, device) = (arguments.batch.batch, arguments.compute.precision, arguments.compute.device_name());
        let protocol = measuring.protocol(&device);
        let request = Speed { batch, precision, device, protocol, retry: measuring.retry };
        speed = Some(request.measure(&tables, out, &process::interrupted())?);
    }
    for table in &tables {
        println!("{}", write(table, speed.as_ref(), out)?);
    }
    println!("results are in {}", out.display());
    let complete = speed.is_none_or(|speed| speed.complete);
    if !complete {
        eprintln!("interrupted; the same command continues");
    }
    Ok(complete)
}
