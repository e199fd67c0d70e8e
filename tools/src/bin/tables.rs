//! The published tables of detection and segmentation with our runs: `tables --runs runs/tiny_1x --out runs/tables`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use vmamba_cli::process;
use vmamba_cli::study_options::{self, OutOption};
use vmamba_report::files::write_whole;
use vmamba_report::{print, println};
use vmamba_study::tables::run::{Run, read_checkpoint, read_folder};
use vmamba_study::tables::{Benchmark, assemble, layout};

/// Print the published COCO and ADE20K tables with our results below the published rows, and the settings that differ.
///
/// Writes tables.md, tables.json, coco.csv and ade20k.csv.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Folders of runs (train_det, train_seg), or folders with figures of evaluations (test_det --json, test_seg --json).
    #[arg(long, value_name = "DIR", num_args = 1..)]
    runs: Vec<PathBuf>,
    /// Checkpoints of train_det or train_seg: parameters, FLOPs and, for the best checkpoint of a run, the figure of its validation.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    checkpoints: Vec<PathBuf>,
    /// Benchmarks.
    #[arg(long, value_enum, default_value_t)]
    task: Task,
    #[command(flatten)]
    out: OutOption,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Task {
    /// Mask R-CNN on COCO val2017.
    Coco,
    /// UperNet on ADE20K val.
    Ade20k,
    /// Both.
    #[default]
    All,
}

impl Task {
    fn benchmarks(self) -> &'static [Benchmark] {
        match self {
            Self::Coco => &[Benchmark::Coco],
            Self::Ade20k => &[Benchmark::Ade20k],
            Self::All => &[Benchmark::Coco, Benchmark::Ade20k],
        }
    }
}

fn main() -> ExitCode {
    let arguments: Arguments = study_options::parse(&[("out", "runs/tables")]);
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    arguments.out.check([])?;
    let mut runs: Vec<Run> = Vec::new();
    for folder in &arguments.runs {
        runs.extend(read_folder(folder)?);
    }
    for checkpoint in &arguments.checkpoints {
        runs.push(read_checkpoint(checkpoint)?);
    }
    let benchmarks = arguments.task.benchmarks();
    let sections = assemble(benchmarks, &runs)?;
    print!("{}", layout::text(&sections));
    for run in runs.iter().filter(|run| !benchmarks.contains(&run.benchmark)) {
        println!("left out by --task: {}, a run on {}", run.place, run.benchmark.name());
    }

    let out = &arguments.out.out;
    let _lock = arguments.out.create()?;
    write_whole(&out.join("tables.md"), layout::markdown(&sections).as_bytes())?;
    write_whole(&out.join("tables.json"), format!("{:#}\n", layout::to_json(&sections)).as_bytes())?;
    for &benchmark in benchmarks {
        write_whole(&out.join(format!("{}.csv", benchmark.name())), layout::csv(benchmark, &sections).as_bytes())?;
    }
    println!("results are in {}", out.display());
    Ok(())
}
