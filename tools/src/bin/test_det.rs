//! Evaluates a detector: `test_det best.safetensors`. A checkpoint of `train_det` and the data are all it needs; an official checkpoint also
//! needs `--config`.

use std::process::ExitCode;

use clap::Parser;
use vmamba_cli::detection::DetectionOptions;
use vmamba_cli::evaluation::{self, EvaluationOptions};
use vmamba_cli::process;
use vmamba_recipes::detection::LoadedDetector;

/// Evaluate a detector on its validation data: AP of boxes and masks.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    evaluation: EvaluationOptions,
    #[command(flatten)]
    task: DetectionOptions,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| evaluation::run::<LoadedDetector>(&arguments.evaluation, &arguments.task).map(|()| true))
}
