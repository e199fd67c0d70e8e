//! Segments photos or detects their objects: `predict best.safetensors photos/ --out predictions`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use burn::prelude::Device;
use clap::Parser;
use image::RgbImage;
use vision_datasets::image_io::{ExifOrientation, read_photo};
use vmamba::checkpoint::{Checkpoint, LoadReport, Weights};
use vmamba_cli::arguments::share;
use vmamba_cli::evaluation::say_weights;
use vmamba_cli::options::{ComputeOptions, MemoryOption, ModelOptions, PhotoOptions, check_out, reserve_results};
use vmamba_cli::photos::{LABELS, OBJECTS, OVERLAY, ResultNames, find_photos, with_suffix};
use vmamba_cli::segmentation::{InferenceOptions, OPACITY};
use vmamba_cli::{detection, process, segmentation};
use vmamba_files::printable;
use vmamba_recipes::MemoryEstimate;
use vmamba_recipes::detection::{LoadedDetector, TASK, has_detector_keys, load_detector};
use vmamba_recipes::memory::ImageTooLarge;
use vmamba_recipes::segmentation::{LoadedSegmentor, load_segmentor};
use vmamba_report::files::create_folder;
use vmamba_report::{eprintln, println};

/// Predict photos with a trained model.
///
/// A segmentor writes an overlay with a legend and a PNG of class indices for each photo; a detector writes an overlay with boxes, masks,
/// names and scores, and a JSON file with the same objects.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    model: ModelOptions,
    /// Photos, folders, which are read with their subfolders, or patterns such as "photos/*.jpg". Hidden files and pictures that programs of
    /// this toolkit have written are skipped, except where they are named themselves.
    #[arg(required = true, value_name = "PHOTO")]
    inputs: Vec<String>,
    /// Folder for the results.
    #[arg(long, value_name = "DIR", default_value = "predictions")]
    out: PathBuf,
    /// Detector: score from which on objects count, 0 to 1.
    #[arg(long, default_value_t = 0.3, value_parser = share)]
    score: f32,
    #[command(flatten)]
    inference: InferenceOptions,
    /// Segmentor: opacity of the overlay, 0 to 1.
    #[arg(long, default_value_t = OPACITY, value_parser = share)]
    alpha: f32,
    #[command(flatten)]
    limit: PhotoOptions,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    memory: MemoryOption,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments))
}

/// A model of either task.
enum Model {
    Segmentor(Box<LoadedSegmentor>),
    Detector(Box<LoadedDetector>),
}

impl Model {
    fn load(arguments: &Arguments, device: &Device) -> Result<Self> {
        let (path, weights) = (&arguments.model.checkpoint, arguments.model.weights.chosen());
        if is_detector(path, weights)? {
            if arguments.inference.tta || arguments.inference.slide {
                bail!("--tta and --slide are for segmentors; {} is a detector", path.display());
            }
            return Ok(Self::Detector(Box::new(load_detector(path, arguments.model.config()?, weights, device)?)));
        }
        let mut segmentor = load_segmentor(path, arguments.model.config()?, weights, device)?;
        arguments.inference.apply(&mut segmentor);
        Ok(Self::Segmentor(Box::new(segmentor)))
    }

    fn memory(&self) -> MemoryEstimate {
        match self {
            Self::Segmentor(model) => model.memory(),
            Self::Detector(model) => model.memory(),
        }
    }

    fn report(&self) -> &LoadReport {
        match self {
            Self::Segmentor(model) => &model.report,
            Self::Detector(model) => &model.report,
        }
    }

    /// The suffixes of the results of a photo.
    fn suffixes(&self) -> [&'static str; 2] {
        match self {
            Self::Segmentor(_) => [OVERLAY, LABELS],
            Self::Detector(_) => [OVERLAY, OBJECTS],
        }
    }

    /// Whether the training applied the EXIF orientation of photos.
    fn exif(&self) -> ExifOrientation {
        match self {
            Self::Segmentor(model) => model.config.data.source.exif(),
            Self::Detector(model) => model.config.data.source.exif(),
        }
    }

    /// Predicts a photo and writes the results to files whose paths begin with `prefix`.
    fn predict(&self, arguments: &Arguments, device: &Device, photo: &RgbImage, prefix: &Path) -> Result<()> {
        let compute = (device, arguments.compute.precision, arguments.memory.applies(arguments.compute.on_cpu()));
        match self {
            Self::Segmentor(model) => {
                segmentation::predict_photo(model, compute, photo, (arguments.inference.tta, arguments.alpha), prefix)
            }
            Self::Detector(model) => detection::predict_photo(model, compute, photo, arguments.score, prefix),
        }
    }
}

/// Whether a checkpoint is a detector's: by the task it names, or by the keys of its weights.
fn is_detector(path: &Path, weights: Weights) -> Result<bool> {
    let checkpoint = Checkpoint::read(path)?;
    if let Some(task) = checkpoint.metadata().get("task").filter(|_| checkpoint.is_ours()) {
        return Ok(task == TASK);
    }
    Ok(has_detector_keys(checkpoint.model_shapes(weights)?.keys()))
}

/// Predicts all photos; returns whether none failed.
fn run(arguments: &Arguments) -> Result<bool> {
    arguments.limit.apply();
    check_out(&arguments.out)?;
    let (photos, skipped) = find_photos(&arguments.inputs)?;
    let device = arguments.compute.open()?;
    let model = Model::load(arguments, &device)?;
    arguments.memory.check(model.memory(), arguments.compute.on_cpu())?;
    say_weights(&arguments.model.checkpoint, model.report());
    if model.exif() == ExifOrientation::Ignored {
        println!("photos are read without their EXIF orientation, as in the training (data.source.ignore_exif = true)");
    }
    if !skipped.is_empty() {
        println!("{skipped}");
    }
    let mut names = ResultNames::default();
    let prefixes: Vec<PathBuf> = photos.iter().map(|photo| arguments.out.join(names.next(&photo.name))).collect();
    let results = |prefix: &PathBuf| model.suffixes().map(|suffix| with_suffix(prefix, suffix));
    reserve_results(prefixes.iter().flat_map(results))?;
    vmamba_files::check_inputs(photos.iter().map(|photo| photo.path.as_path()))
        .map_err(|(photo, refusal)| anyhow!("the photo {}: {refusal}", photo.display()))?;
    create_folder(&arguments.out)?;
    let mut failed = 0;
    for (photo, prefix) in photos.iter().zip(&prefixes) {
        // A photo of a subfolder has its results in one.
        prefix.parent().map(create_folder).transpose()?;
        // A damaged photo, or one that is too large, must not cost the others.
        match read_photo(&photo.path, model.exif()) {
            Ok(image) => match model.predict(arguments, &device, &image, prefix) {
                Ok(()) => println!("{}", printable(&photo.path.display().to_string())),
                Err(error) if error.is::<ImageTooLarge>() => {
                    eprintln!("error: {}: {error}", photo.path.display());
                    failed += 1;
                }
                Err(error) => return Err(error),
            },
            Err(error) => {
                eprintln!("error: {error}");
                failed += 1;
            }
        }
    }
    println!("{} of {} photos predicted, results in {}", photos.len() - failed, photos.len(), arguments.out.display());
    Ok(failed == 0)
}
