//! The backbone in one's own pipeline: build it, load published weights, take the features.
//!
//! ```text
//! cargo run --release -p vmamba --example pyramid -- vmamba_tiny_s1l8 [vssm1_tiny_0230s_ckpt_epoch_264.pth]
//! ```
//! Without a checkpoint the weights are random, which is enough to see the shapes.

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use burn::prelude::*;
use vmamba::checkpoint::{Checkpoint, LoadOptions, Weights, load_into};
use vmamba::{FeaturePyramid, Preset, official_key};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let preset: Preset = arguments.next().as_deref().unwrap_or("vmamba_tiny_s1l8").parse()?;

    // Any field can be changed before the weights are made; here the features of stride 8 and 32 only.
    let mut config = preset.config();
    config.out_indices = vec![1, 3];

    let device = Device::flex();
    let mut backbone = config.try_init(&device)?;
    let cost = config.complexity([512, 512]);
    println!("{preset}: {:.1} M parameters, {:.1} GFLOPs at 512x512", cost.params as f64 / 1e6, cost.flops() as f64 / 1e9);

    if let Some(path) = arguments.next() {
        // A classification checkpoint has a head the backbone lacks, and lacks the output norms the backbone has.
        let options = LoadOptions::new().ignore_unexpected("classifier.").may_be_missing("outnorm");
        let weights = Checkpoint::read(&path)?.state_dict(Weights::Auto)?;
        let (loaded, report) = load_into(backbone, &official_key, &weights, &options)?;
        backbone = loaded;
        println!("{path}: {} weights loaded, {} kept as they were", report.loaded.len(), report.allowed_missing.len());
    }

    // RGB, divided by 255, minus the ImageNet mean, over its deviation; any size.
    let image = Tensor::<4>::zeros([1, 3, 512, 512], &device);
    let start = Instant::now();
    for (feature, stride) in backbone.forward_features(image).iter().zip(backbone.strides()) {
        println!("stride {stride:>2}: {:?}", feature.dims());
    }
    println!("{:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}
