//! Segments photos or finds their objects: `predict best.safetensors photos/ --out predictions`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstream::{eprintln, println};
use anyhow::{Context, Result, bail};
use burn::prelude::Device;
use clap::Parser;
use image::RgbImage;
use serde_json::json;
use vision_datasets::image_io::read_rgb;
use vmamba::checkpoint::{Checkpoint, Weights};
use vmamba_cli::arguments::share;
use vmamba_cli::process;
use vmamba_recipes::config;
use vmamba_recipes::detection::{self, LoadedDetector, load_detector};
use vmamba_recipes::segmentation;
use vmamba_recipes::segmentation::config::{SegmentationConfig, default_slide};
use vmamba_recipes::segmentation::{LoadedSegmentor, load_segmentor};
use vmamba_report::files::write_whole;
use vmamba_report::objects;
use vmamba_report::pictures::{self, Classes};
use vmamba_train::DeviceChoice;
use vmamba_train::Precision;
use vmamba_types::Detection;

/// Predict photos with a trained model. Of a segmentor: an overlay with legend and a PNG of class indices for each photo. Of a detector: an
/// overlay with boxes, masks, names and scores, and a JSON file with the same.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Checkpoint: of train_seg or train_det, or an official one together with --config.
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
    /// Detector: probability from which on an object counts.
    #[arg(long, default_value_t = 0.3, value_parser = share)]
    score: f32,
    /// Segmentor: test-time augmentation, six scales, each with and without flip.
    #[arg(long)]
    tta: bool,
    /// Segmentor: sliding windows of the training crop's size instead of whole images.
    #[arg(long)]
    slide: bool,
    /// Segmentor: opacity of the overlay, 0 to 1.
    #[arg(long, default_value_t = 0.6, value_parser = share)]
    alpha: f32,
    /// cpu, cuda, cuda:N, vulkan or vulkan:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Type of the activations; without speed gain on the CPU.
    #[arg(long, value_name = "TYPE", default_value_t)]
    precision: Precision,
}

/// Endings of photos that are looked for in folders.
const ENDINGS: [&str; 7] = ["jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp"];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments))
}

/// A model of either kind.
enum Model {
    Segmentor(Box<LoadedSegmentor>),
    Detector(Box<LoadedDetector>),
}

impl Model {
    /// Loads what the checkpoint holds.
    fn load(arguments: &Arguments, device: &Device) -> Result<Self> {
        let (path, given) = (&arguments.checkpoint, arguments.config.as_deref());
        if is_detector(path)? {
            if arguments.tta || arguments.slide {
                bail!("--tta and --slide are for segmentors; {} is a detector", path.display());
            }
            let given = given.map(|path| config::load(path, &[])).transpose()?;
            return Ok(Self::Detector(Box::new(load_detector(path, given, device)?)));
        }
        let given: Option<SegmentationConfig> = given.map(|path| config::load(path, &[])).transpose()?;
        let mut segmentor = load_segmentor(path, given, device)?;
        if arguments.slide {
            segmentor.config.test.mode = default_slide(segmentor.config.data.train.crop.size);
        }
        Ok(Self::Segmentor(Box::new(segmentor)))
    }

    /// Writes what there is to say about a photo.
    fn predict(&self, arguments: &Arguments, device: &Device, image: &RgbImage, name: &str) -> Result<()> {
        let file = |ending: &str| arguments.out.join(format!("{name}_{ending}"));
        match self {
            Self::Segmentor(segmentor) => {
                let LoadedSegmentor { model, config, classes, .. } = &**segmentor;
                let (pipeline, test, precision) = (&config.data.test, &config.test, arguments.precision);
                let predictor = segmentation::Predictor { model, device, pipeline, test, augment: arguments.tta, precision };
                let labels = predictor.predict(image)?;
                let classes = Classes { names: &classes.names, palette: &classes.palette };
                pictures::save(&file("overlay.png"), &pictures::comparison(image, None, &labels, classes, arguments.alpha)?)?;
                pictures::save_labels(&file("labels.png"), &labels, image.width(), image.height())
            }
            Self::Detector(loaded) => {
                let LoadedDetector { model, config, classes, .. } = &**loaded;
                let detector = detection::Predictor { model, device, pipeline: &config.data.test, precision: arguments.precision };
                let mut found = detector.predict(image);
                found.retain(|detection| detection.score >= arguments.score);
                pictures::save(&file("overlay.png"), &objects::overlay(image, &found, classes, arguments.score))?;
                let objects: Vec<_> = found.iter().map(|detection| described(detection, &classes.names)).collect();
                let path = file("objects.json");
                let document = json!({"width": image.width(), "height": image.height(), "objects": objects});
                write_whole(&path, format!("{document:#}\n").as_bytes())
            }
        }
    }
}

/// Whether a checkpoint is one of detection: by its own word, or by the names of its weights.
fn is_detector(path: &Path) -> Result<bool> {
    let checkpoint = Checkpoint::read(path)?;
    if let Some(task) = checkpoint.metadata().get("task").filter(|_| checkpoint.is_ours()) {
        return Ok(task == detection::TASK);
    }
    Ok(mask_rcnn::is_checkpoint(checkpoint.keys(Weights::Auto)?))
}

/// An object in COCO's terms, with the name of its class.
fn described(detection: &Detection, names: &[String]) -> serde_json::Value {
    let [x0, y0, x1, y1] = detection.bbox;
    json!({
        "class": names.get(detection.category),
        "score": detection.score,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "segmentation": detection.mask.as_ref().map(|mask| json!({"size": mask.size, "counts": mask.to_compressed()})),
    })
}

/// Whether every photo was predicted.
fn run(arguments: &Arguments) -> Result<bool> {
    let photos = find_photos(&arguments.inputs)?;
    let device = arguments.device.open()?;
    arguments.precision.adopt(&device).context("--precision")?;
    let model = Model::load(arguments, &device)?;
    std::fs::create_dir_all(&arguments.out).with_context(|| format!("cannot write to {}", arguments.out.display()))?;
    let mut failed = 0;
    for (photo, name) in photos.iter().zip(result_names(&photos)) {
        // One damaged photo must not cost the others.
        match read_rgb(photo) {
            Ok(image) => {
                model.predict(arguments, &device, &image, &name)?;
                println!("{}", photo.display());
            }
            Err(error) => {
                eprintln!("error: {error}");
                failed += 1;
            }
        }
    }
    println!("{} of {} photos predicted, results in {}", photos.len() - failed, photos.len(), arguments.out.display());
    Ok(failed == 0)
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
