//! Writes the weights of a checkpoint as a plain `.safetensors` file with official keys:
//! `export_weights runs/camvid/best.safetensors camvid.safetensors`.

use std::path::PathBuf;
use std::process::ExitCode;

use anstream::println;
use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use vmamba::checkpoint::{Checkpoint, StateDict, Weights, export_safetensors};
use vmamba_cli::process;

/// Write the weights of a checkpoint, and nothing else, as .safetensors with the official keys.
///
/// Reads what train_seg saves and official .pth files. The result loads into the official model:
/// model.load_state_dict(safetensors.torch.load_file(FILE)).
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Checkpoint: of train_seg, .pth or .safetensors.
    checkpoint: PathBuf,
    /// File to write.
    output: PathBuf,
    /// Which weights, where a file has several.
    #[arg(long, value_enum, default_value = "auto")]
    weights: Choice,
    /// Only the keys that begin with this, which is removed: `backbone.` gives the backbone of a segmentor.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    /// The trained weights, or the averaged ones when there are no others.
    Auto,
    /// The trained weights.
    Model,
    /// The averaged weights.
    Ema,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    let checkpoint = Checkpoint::read(&arguments.checkpoint)?;
    let weights = match arguments.weights {
        Choice::Auto => Weights::Auto,
        Choice::Model => Weights::Model,
        Choice::Ema => Weights::Ema,
    };
    let all = checkpoint.state_dict(weights)?;
    let mut chosen = StateDict::new();
    for (key, tensor) in all.iter() {
        if let Some(key) = key.strip_prefix(arguments.prefix.as_str()) {
            chosen.insert(key, tensor.clone());
        }
    }
    if chosen.is_empty() {
        bail!(
            "{}: no key begins with `{}`; the first is `{}`",
            arguments.checkpoint.display(),
            arguments.prefix,
            all.keys().next().unwrap_or("")
        );
    }
    export_safetensors(&arguments.output, &chosen)?;
    println!("{}: {} tensors", arguments.output.display(), chosen.len());
    Ok(())
}
