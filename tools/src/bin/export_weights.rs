//! Writes the weights of a checkpoint as a plain `.safetensors` file with official keys:
//! `export_weights runs/camvid/best.safetensors camvid.safetensors`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use vmamba::checkpoint::{Checkpoint, StateDict, export_safetensors};
use vmamba_cli::options::{WeightsOptions, reserve};
use vmamba_cli::process;
use vmamba_report::println;

/// Write the weights of a checkpoint, and nothing else, as .safetensors with the official keys.
///
/// Reads checkpoints of the training programs and official .pth files. The official code loads the result with
/// model.load_state_dict(safetensors.torch.load_file(FILE)). The checkpoint itself is never overwritten.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Checkpoint: of a training program, .pth or .safetensors.
    checkpoint: PathBuf,
    /// File to write; its name ends with .safetensors.
    output: PathBuf,
    /// Replace the output file if it exists.
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    weights: WeightsOptions,
    /// Write only the keys with this prefix, and remove it from them: `backbone.` gives the backbone of a segmentor.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    prefix: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    let output = &arguments.output;
    if output.extension().is_none_or(|extension| extension != "safetensors") {
        bail!("{}: the weights are written in the format .safetensors, so the name must end with .safetensors", output.display());
    }
    reserve("OUTPUT", output)?;
    let checkpoint = Checkpoint::read(&arguments.checkpoint)?;
    if output.exists() && !arguments.overwrite {
        bail!("{} exists; --overwrite replaces it", output.display());
    }
    let (all, origin) = checkpoint.model_state(arguments.weights.chosen())?;
    let mut chosen = StateDict::new();
    for (key, tensor) in all.iter() {
        if let Some(key) = key.strip_prefix(arguments.prefix.as_str()) {
            chosen.insert(key, tensor.clone());
        }
    }
    if chosen.is_empty() {
        let (path, first) = (arguments.checkpoint.display(), all.keys().next().unwrap_or(""));
        bail!("{path}: no key begins with `{}`; the first key is `{first}`", arguments.prefix);
    }
    export_safetensors(output, &chosen)?;
    println!("{}: {} tensors of the {origin}", output.display(), chosen.len());
    Ok(())
}
