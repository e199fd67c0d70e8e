//! Trains a detector: `train_det --config configs/nuclei_nano.toml --out runs/nuclei`. Without arguments it trains a small model on the
//! built-in scenes, evaluates it and draws pictures, within minutes on two cores.

use std::process::ExitCode;

use clap::Parser;
use vmamba_cli::detection::Training;
use vmamba_cli::process;
use vmamba_cli::train::{TrainArguments, train};

/// Train a detector with instance masks.
///
/// Without --config, a small Mask R-CNN is trained on the built-in scenes.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    train: TrainArguments,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| train::<Training>(&arguments.train).map(|()| true))
}
