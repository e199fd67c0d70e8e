//! The paper's acceleration and ablation tables: `ablation --tables d-state,scan-pattern --out runs/ablation`.

use std::path::PathBuf;
use std::process::ExitCode;

use anstream::{eprintln, println};
use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tools::ablation::{AblationConfig, SIDE};
use tools::engine::precision::Precision;
use tools::engine::process;
use tools::published::Ablation;
use tools::scaling::{self, Plan, Purpose, Request, Study, allocator::CountingAllocator};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Print parameters, FLOPs and, with --measure-speed, throughput of the variants of VMamba in the paper's tables, published numbers beside.
///
/// Writes a Markdown file and a CSV file for each table. Speeds are kept in study.json, so that an interrupted run goes on.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Published tables; all without this.
    #[arg(long, value_enum, value_delimiter = ',')]
    tables: Vec<Ablation>,
    /// Tables of your own, written as those in configs/ablation; only these, unless --tables is given as well.
    #[arg(long)]
    config: Vec<PathBuf>,
    /// Measure inference and training as well.
    #[arg(long)]
    measure_speed: bool,
    /// Images at once.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Numbers to compute with.
    #[arg(long, value_enum, default_value = "float32")]
    precision: Precision,
    #[command(flatten)]
    measuring: scaling::Arguments,
    /// Folder for the tables.
    #[arg(long, default_value = "runs/ablation")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<bool> {
    if let Some(request) = &arguments.measuring.measure {
        println!("{}", Request::answer(request)?);
        return Ok(true);
    }
    let names = match (arguments.tables.as_slice(), arguments.config.as_slice()) {
        ([], []) => Ablation::value_variants(),
        (tables, _) => tables,
    };
    let mut tables = names.iter().map(|table| AblationConfig::built_in(*table)).collect::<Result<Vec<_>>>()?;
    for path in &arguments.config {
        tables.push(AblationConfig::read(path)?);
    }
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot write to {}", arguments.out.display()))?;
    let (mut study, mut complete) = (Study::default(), true);
    if arguments.measure_speed {
        let protocol = arguments.measuring.protocol();
        let plan = Plan {
            models: Vec::new(),
            sides: vec![SIDE],
            batches: vec![arguments.batch.max(1)],
            precisions: vec![arguments.precision],
            purposes: vec![Purpose::Inference, Purpose::Training],
            device: arguments.measuring.device.to_string(),
            protocol,
        };
        arguments.precision.adopt(&arguments.measuring.device.open()?)?;
        let interrupted = process::interrupted();
        study = Study::open(&arguments.out)?;
        if arguments.measuring.retry {
            study.rows.retain(|row| row.failed.is_none());
        }
        let models: Vec<_> = tables.iter().flat_map(AblationConfig::models).collect();
        complete = scaling::run(&plan.works_of(&models), protocol, &mut study, &arguments.out, interrupted)?;
        // What other settings left in the folder belongs to other tables.
        let device = arguments.measuring.device.to_string();
        study.rows.retain(|row| {
            let work = &row.work;
            row.protocol == protocol && work.batch == arguments.batch && work.precision == arguments.precision && work.device == device
        });
    }
    for config in &tables {
        let table = config.table(&study)?;
        println!("{}\n{}", config.title, table.text());
        let name = config.title.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        for (ending, text) in [("md", format!("## {}\n\n{}", config.title, table.markdown())), ("csv", table.csv())] {
            let path = arguments.out.join(format!("{name}.{ending}"));
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    println!("written to {}", arguments.out.display());
    if !complete {
        eprintln!("interrupted; the same command goes on from here");
    }
    Ok(complete)
}
