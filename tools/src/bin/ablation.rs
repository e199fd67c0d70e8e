//! The paper's acceleration and ablation tables: `ablation --tables d-state,scan-pattern --out runs/ablation`.

use std::path::PathBuf;
use std::process::ExitCode;

use anstream::{eprintln, println};
use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::json;
use vmamba::zoo::BackboneConfig;
use vmamba_cli::arguments::whole_number;
use vmamba_cli::measuring_arguments::MeasuringArguments;
use vmamba_cli::process;
use vmamba_report::files::write_whole;
use vmamba_study::ablation::{AblationConfig, SIDE};
use vmamba_study::published::Ablation;
use vmamba_study::scaling::{self, Plan, Purpose, Request, Study, allocator::CountingAllocator};
use vmamba_train::Precision;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Print parameters, FLOPs and, with --measure-speed, throughput of the variants of VMamba in the paper's tables, published numbers beside.
///
/// Writes a Markdown, a CSV and a JSON file for each table. Speeds are kept in study.json, so that an interrupted run goes on.
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
    #[arg(long, default_value_t = 1, value_parser = whole_number)]
    batch: usize,
    /// Numbers to compute with.
    #[arg(long, value_enum, default_value = "float32")]
    precision: Precision,
    #[command(flatten)]
    measuring: MeasuringArguments,
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
    // Files go by titles, and so do measurements.
    let names: Vec<String> = tables.iter().map(|table| file_name(&table.title)).collect();
    if let Some((_, name)) = names.iter().enumerate().find(|(index, name)| names.iter().take(*index).any(|other| other == *name)) {
        bail!("two tables would be written to {name}.md: give them titles that differ");
    }
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot write to {}", arguments.out.display()))?;
    let (mut study, mut complete, mut head) = (Study::default(), true, Vec::new());
    if arguments.measure_speed {
        let protocol = arguments.measuring.protocol();
        let plan = Plan {
            models: Vec::new(),
            sides: vec![SIDE],
            batches: vec![arguments.batch],
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
        let mut models: Vec<(String, BackboneConfig)> = Vec::new();
        for (name, model) in tables.iter().flat_map(AblationConfig::models) {
            // Most tables have the same model among others; measured once, it stands in all of them.
            if !models.iter().any(|(_, known)| *known == model) {
                models.push((name, model));
            }
        }
        complete = scaling::run(&plan.works_of(&models), protocol, &mut study, &arguments.out, &interrupted)?;
        // What other settings left in the folder belongs to other tables.
        let device = arguments.measuring.device.to_string();
        study.rows.retain(|row| {
            let work = &row.work;
            row.protocol == protocol && work.batch == arguments.batch && work.precision == arguments.precision && work.device == device
        });
        let machine = study.rows.iter().find_map(|row| Some(row.measured.as_ref()?.machine.clone()));
        head.push(format!(
            "speed: {}, {}, batch {}, {SIDE}x{SIDE}, {} runs that are not timed, then the median of {} rounds of {}",
            machine.unwrap_or(device),
            arguments.precision.name(),
            arguments.batch,
            protocol.warmup,
            protocol.rounds,
            protocol.runs
        ));
    }
    for config in &tables {
        let table = config.table(&study)?;
        let remarks: Vec<String> = head.iter().cloned().chain(config.remarks()?).collect();
        let lines = |bullet: &str| remarks.iter().map(|remark| format!("{bullet}{remark}\n")).collect::<String>();
        println!("{}\n{}{}", config.title, table.text(), lines("  "));
        let name = file_name(&config.title);
        let document = json!({ "title": config.title, "remarks": remarks, "rows": table.json_rows() });
        for (ending, text) in [
            ("md", format!("## {}\n\n{}\n{}", config.title, table.markdown(), lines("* "))),
            ("csv", table.csv()),
            ("json", format!("{document:#}\n")),
        ] {
            let path = arguments.out.join(format!("{name}.{ending}"));
            write_whole(&path, text.as_bytes())?;
        }
    }
    println!("written to {}", arguments.out.display());
    if !complete {
        eprintln!("interrupted; the same command goes on from here");
    }
    Ok(complete)
}

/// The name of a table's files.
fn file_name(title: &str) -> String {
    title.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}
