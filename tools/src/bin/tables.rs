//! The published tables of detection and segmentation with our runs in them: `tables --runs runs/tiny_1x --out runs/tables`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstream::{print, println};
use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use vmamba_cli::process;
use vmamba_report::files::write_whole;
use vmamba_study::tables::run::{Run, read_checkpoint, read_folder};
use vmamba_study::tables::{Benchmark, assemble, layout};

/// Print the published COCO and ADE20K tables, our results below the published ones, and what differs in the setting.
///
/// Writes tables.md, tables.json, coco.csv and ade20k.csv.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Folders of runs (train_det, train_seg), or with the figures of evaluations (test_det --json, test_seg --json).
    #[arg(long, value_name = "DIR", num_args = 1..)]
    runs: Vec<PathBuf>,
    /// Checkpoints of train_det or train_seg: parameters, FLOPs and the stored result, where they are of the best validation.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    checkpoints: Vec<PathBuf>,
    /// Which tables.
    #[arg(long, value_enum, default_value_t)]
    task: Task,
    /// Folder for the tables.
    #[arg(long, value_name = "FOLDER", default_value = "runs/tables")]
    out: PathBuf,
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
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
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
        println!("left out by --task: {}, a run for {}", run.place, run.benchmark.name());
    }

    let out = &arguments.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot write to {}", out.display()))?;
    write(&out.join("tables.md"), &layout::markdown(&sections))?;
    write(&out.join("tables.json"), &format!("{:#}\n", layout::to_json(&sections)))?;
    for &benchmark in benchmarks {
        write(&out.join(format!("{}.csv", benchmark.name())), &layout::csv(benchmark, &sections))?;
    }
    println!("tables are in {}", out.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(write_whole(path, text.as_bytes())?)
}
