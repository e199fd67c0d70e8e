//! Segments photos: `predict best.safetensors photos/ --out predictions`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tools::engine::config::{self, SegmentationConfig};
use tools::engine::device::DeviceChoice;
use tools::engine::evaluate::{Predictor, default_slide};
use tools::engine::process;
use tools::engine::segmentation::load_segmentor;
use tools::report::pictures::{self, Classes};
use vision_datasets::image_io::read_rgb;

/// Segment photos with a trained model: for each, an overlay with legend and a PNG of class indices.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Checkpoint: of train_seg, or an official one together with --config.
    checkpoint: PathBuf,
    /// Photos, folders of photos, or patterns such as "photos/*.jpg".
    #[arg(required = true, value_name = "PHOTO")]
    inputs: Vec<String>,
    /// Folder for the results.
    #[arg(long, value_name = "DIR", default_value = "predictions")]
    out: PathBuf,
    /// Configuration, instead of the one in the checkpoint.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Test-time augmentation: six scales, each with and without flip.
    #[arg(long)]
    tta: bool,
    /// Sliding windows of the training crop's size instead of whole images.
    #[arg(long)]
    slide: bool,
    /// Opacity of the overlay, 0 to 1.
    #[arg(long, default_value_t = 0.6, value_parser = opacity)]
    alpha: f32,
    /// cpu, cuda, cuda:N, vulkan or vulkan:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
}

/// Endings of photos that are looked for in folders.
const ENDINGS: [&str; 7] = ["jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp"];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments))
}

/// Whether every photo was segmented.
fn run(arguments: &Arguments) -> Result<bool> {
    let photos = find_photos(&arguments.inputs)?;
    let device = arguments.device.open()?;
    let given: Option<SegmentationConfig> = arguments.config.as_deref().map(|path| config::load(path, &[])).transpose()?;
    let mut segmentor = load_segmentor(&arguments.checkpoint, given, &device)?;
    if arguments.slide {
        segmentor.config.test.mode = default_slide(segmentor.config.data.train.crop.size);
    }
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot write to {}", arguments.out.display()))?;
    let classes = Classes { names: &segmentor.classes.names, palette: &segmentor.classes.palette };
    let SegmentationConfig { data, test, .. } = &segmentor.config;
    let predictor = Predictor { model: &segmentor.model, device: &device, pipeline: &data.test, test, augment: arguments.tta };
    let mut failed = 0;
    for (photo, name) in photos.iter().zip(result_names(&photos)) {
        // One damaged photo must not cost the others.
        let image = match read_rgb(photo) {
            Ok(image) => image,
            Err(error) => {
                eprintln!("error: {error}");
                failed += 1;
                continue;
            }
        };
        let labels = predictor.labels(&image)?;
        let picture = pictures::comparison(&image, None, &labels, classes, arguments.alpha)?;
        pictures::save(&arguments.out.join(format!("{name}_overlay.png")), &picture)?;
        pictures::save_labels(&arguments.out.join(format!("{name}_labels.png")), &labels, image.width(), image.height())?;
        println!("{}", photo.display());
    }
    println!("{} of {} photos segmented, results in {}", photos.len() - failed, photos.len(), arguments.out.display());
    Ok(failed == 0)
}

fn opacity(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|alpha| (0.0..=1.0).contains(alpha)).ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// The names of the results: those of the photos without ending, numbered where two photos share one.
fn result_names(photos: &[PathBuf]) -> Vec<String> {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let unused = |photo: &PathBuf| {
        let stem = photo.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mut name = stem.clone();
        let mut number = 2;
        while !seen.insert(name.clone()) {
            name = format!("{stem}_{number}");
            number += 1;
        }
        name
    };
    photos.iter().map(unused).collect()
}

fn find_photos(inputs: &[String]) -> Result<Vec<PathBuf>> {
    let mut photos = Vec::new();
    for input in inputs {
        let path = Path::new(input);
        let before = photos.len();
        if path.is_dir() {
            let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
            for entry in entries {
                let file = entry.with_context(|| format!("cannot read {}", path.display()))?.path();
                let known = file.extension().and_then(|e| e.to_str()).is_some_and(|e| ENDINGS.iter().any(|x| e.eq_ignore_ascii_case(x)));
                if known {
                    photos.push(file);
                }
            }
            if photos.len() == before {
                bail!("{}: no photo in this folder (looked for {})", path.display(), ENDINGS.join(", "));
            }
        } else if path.exists() {
            photos.push(path.to_owned());
        } else {
            let matches = glob::glob(input).with_context(|| format!("`{input}` is no file and no pattern"))?;
            photos.extend(matches.filter_map(Result::ok));
            if photos.len() == before {
                bail!("{input}: no such file, and no file matches it as a pattern");
            }
        }
    }
    photos.sort();
    photos.dedup();
    Ok(photos)
}
