//! Evaluates a segmentor: `test_seg best.safetensors`. A checkpoint of `train_seg` and the data are all it needs; an official checkpoint also
//! needs `--config`.

use std::process::ExitCode;

use clap::Parser;
use vmamba_cli::evaluation::{self, EvaluationOptions};
use vmamba_cli::process;
use vmamba_cli::segmentation::SegmentationOptions;
use vmamba_recipes::segmentation::LoadedSegmentor;

/// Evaluate a semantic segmentor on its validation data: mIoU, mean accuracy and pixel accuracy.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    evaluation: EvaluationOptions,
    #[command(flatten)]
    task: SegmentationOptions,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| evaluation::run::<LoadedSegmentor>(&arguments.evaluation, &arguments.task).map(|()| true))
}
