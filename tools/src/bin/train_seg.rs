//! Trains a semantic segmentor: `train_seg --config configs/camvid_nano.toml --out runs/camvid`. Without arguments it trains a small model
//! on the built-in scenes, evaluates it and draws pictures, within minutes on two cores.

use std::process::ExitCode;

use clap::Parser;
use vmamba_cli::process;
use vmamba_cli::segmentation::Training;
use vmamba_cli::train::{TrainArguments, train};

/// Train a semantic segmentor (UperNet).
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
    process::run_tool(|| train::<Training>(&arguments.train).map(|()| true))
}
