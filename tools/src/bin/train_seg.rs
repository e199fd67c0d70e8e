//! Trains a semantic segmentor: `train_seg --config configs/camvid_nano.toml --out runs/camvid`. Without arguments it trains a small model
//! on the built-in scenes, evaluates it and draws pictures, within minutes on two cores.

use std::process::ExitCode;

use clap::Parser;
use tools::engine::process;
use tools::engine::run::{self, TrainArguments};
use tools::engine::segmentation::SegmentationTraining;

/// Train a semantic segmentor (UperNet on VMamba).
///
/// Without --config, a small model is trained on the built-in scenes.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    train: TrainArguments,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run::train::<SegmentationTraining>(&arguments.train).map(|()| true))
}
