//! Finds objects in a photo: `cargo run --release --example detect_photo [CHECKPOINT PHOTO]`.
//!
//! Without arguments it takes what `finetune_detector` has trained, and a built-in scene.

use std::path::PathBuf;

use burn::prelude::*;
use vision_datasets::image_io::read_rgb;
use vision_datasets::sample::DetectionDataset;
use vision_datasets::scenes::{SceneConfig, SceneObjects};
use vmamba::checkpoint::Weights;
use vmamba_recipes::detection::{LoadedDetector, Predictor, load_detector};
use vmamba_report::{objects, pictures};
use vmamba_train::Precision;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let checkpoint = arguments.next().unwrap_or_else(|| "runs/finetune_detector/best.safetensors".into());
    let photo = match arguments.next() {
        Some(path) => read_rgb(&path)?,
        None => SceneObjects::new(SceneConfig { first: 9_000, ..SceneConfig::default() })?.get(0)?.image,
    };

    let device = Device::flex();
    let LoadedDetector { model, config, classes, .. } = load_detector(&checkpoint, None, Weights::Validated, &device)?;
    let predictor = Predictor { model: &model, device: &device, pipeline: &config.data.test, precision: Precision::Float32, memory: None };
    let found = predictor.predict(&photo)?;
    for object in found.iter().filter(|object| object.score >= 0.3) {
        let [x0, y0, x1, y1] = object.bbox;
        let pixels = object.mask.as_ref().map_or(0, vmamba_types::Rle::area);
        let name = classes.names.get(object.category).map_or("?", String::as_str);
        println!("{:.2} {name} at {x0:.0},{y0:.0} to {x1:.0},{y1:.0}, {pixels} pixels", object.score);
    }
    pictures::save("detections.png".as_ref(), &objects::overlay(&photo, &found, &classes, 0.3))?;
    Ok(())
}
