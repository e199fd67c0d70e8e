//! VMamba in your own pipeline: build it, load published weights, compute features.
//!
//! ```text
//! cargo run --release -p vmamba --example pyramid -- vmamba_tiny_s1l8 [vssm1_tiny_0230s_ckpt_epoch_264.pth]
//! ```
//! Without a checkpoint the weights are random, which is enough to print the shapes.

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

    // Any option can be changed. Here, the backbone returns only the features of strides 8 and 32.
    let mut config = preset.config();
    config.out_indices = vec![1, 3];

    let device = Device::flex();
    let mut backbone = config.try_init(&device)?;
    let cost = config.complexity([512, 512]);
    println!("{preset}: {:.1} M parameters, {:.1} GFLOPs at 512x512", cost.params as f64 / 1e6, cost.flops() as f64 / 1e9);

    if let Some(path) = arguments.next() {
        // The checkpoint of a classifier has a head, which the backbone lacks, and lacks the output norms.
        let options = LoadOptions::new().ignore_unexpected("classifier.").may_be_missing("outnorm");
        let weights = Checkpoint::read(&path)?.state_dict(Weights::Validated)?;
        let (loaded, report) = load_into(backbone, &official_key, &weights, &options)?;
        backbone = loaded;
        println!("{path}: {} weights loaded, {} kept as they were", report.loaded.len(), report.allowed_missing.len());
    }

    // RGB images of any size, divided by 255, minus the ImageNet mean, divided by its standard deviation.
    let image = Tensor::<4>::zeros([1, 3, 512, 512], &device);
    let start = Instant::now();
    for (feature, stride) in backbone.forward_features(image).iter().zip(backbone.strides()) {
        println!("stride {stride:>2}: {:?}", feature.dims());
    }
    println!("{:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}
