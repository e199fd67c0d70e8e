//! The backbone in one's own pipeline: build it, give it an image, take the features.
//!
//! ```text
//! cargo run --release -p vmamba --example pyramid -- vmamba_tiny_s1l8
//! ```

use std::error::Error;
use std::time::Instant;

use burn::prelude::*;
use vmamba::{FeaturePyramid, Preset};

fn main() -> Result<(), Box<dyn Error>> {
    let preset: Preset = std::env::args().nth(1).as_deref().unwrap_or("vmamba_tiny_s1l8").parse()?;

    // Any field can be changed before `init`; here the features of stride 8 and 32 only.
    let mut config = preset.config();
    config.out_indices = vec![1, 3];

    let device = Device::flex();
    let backbone = config.try_init(&device)?;
    let cost = config.complexity([512, 512]);
    println!("{preset}: {:.1} M parameters, {:.1} GFLOPs at 512x512", cost.params as f64 / 1e6, cost.flops() as f64 / 1e9);

    // RGB, divided by 255, minus the ImageNet mean, over its deviation; any size.
    let image = Tensor::<4>::zeros([1, 3, 512, 512], &device);
    let start = Instant::now();
    for (feature, stride) in backbone.forward_features(image).iter().zip(backbone.strides()) {
        println!("stride {stride:>2}: {:?}", feature.dims());
    }
    println!("{:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}
