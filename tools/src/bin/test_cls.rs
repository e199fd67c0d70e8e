//! Evaluates a classifier: `test_cls --model vmamba_tiny_s1l8 --checkpoint FILE --data ROOT --size 384`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anstream::println;
use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use vision_datasets::imagenet::ImageFolder;
use vision_datasets::transforms::ClassificationPipeline;
use vmamba::checkpoint::Weights;
use vmamba_cli::arguments::whole_number;
use vmamba_cli::process;
use vmamba_recipes::classification::linear_tuning::{TuningConfig, TuningReport, extract_features, published_lr, tune_head};
use vmamba_recipes::classification::{
    ClassificationReport, Feed, LoadedClassifier, check_classes, evaluate_classifier, load_classifier, model_config,
};
use vmamba_report::console::progress_bar;
use vmamba_report::console::warn_of_skipped;
use vmamba_report::files::write_whole;
use vmamba_train::DeviceChoice;
use vmamba_train::Precision;

/// Evaluate an image classifier on a folder of images a class, at any size; optionally tune its last layer for that size.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Name of a published model, or a .toml file with the options of one.
    #[arg(long, value_name = "NAME|FILE")]
    model: String,
    /// Checkpoint, .pth or .safetensors; its head says how many classes there are.
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Which weights of the checkpoint.
    #[arg(long, value_enum, default_value_t)]
    weights: WeightSet,
    /// Folder with a folder of images for every class, or with such a folder called val.
    #[arg(long, value_name = "ROOT")]
    data: PathBuf,
    /// Text file with a class a line, in the order of the head: the name of its folder, then a readable name.
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Side of the input in pixels; the shorter side of an image is resized to 256/224 of it, and the middle is cut out.
    #[arg(long, value_name = "PIXELS", default_value_t = 224, value_parser = whole_number)]
    size: usize,
    /// Images of a batch.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = whole_number)]
    batch_size: usize,
    /// Threads that read images; as many as processors, at most 8, when left out. Changes no figure.
    #[arg(long, value_name = "N", value_parser = whole_number)]
    workers: Option<usize>,
    /// cpu, cuda, cuda:N, vulkan or vulkan:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Type of the activations; without speed gain on the CPU.
    #[arg(long, value_name = "TYPE", default_value_t)]
    precision: Precision,
    /// Write the figures as JSON, with those of every class.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    tuning: Tuning,
}

/// Linear tuning: the last layer trained for this size, on features of the frozen rest.
#[derive(clap::Args)]
#[command(next_help_heading = "Linear tuning")]
struct Tuning {
    /// Also train the last layer on the images of this folder (or of train in it), and report the best epoch on --data.
    #[arg(long, value_name = "TRAIN_ROOT")]
    linear_tuning: Option<PathBuf>,
    /// Begin with random weights instead of the trained last layer.
    #[arg(long, requires = "linear_tuning")]
    reinit: bool,
    /// Times that every training image is seen.
    #[arg(long, value_name = "N", default_value_t = 30, requires = "linear_tuning", value_parser = whole_number)]
    epochs: usize,
    /// Training images of a step.
    #[arg(long, value_name = "N", default_value_t = 4096, requires = "linear_tuning", value_parser = whole_number)]
    tuning_batch: usize,
    /// Rate of the first step, instead of the published one for the size (0.05 below 512 pixels, 0.2 below 640, else 0.5).
    #[arg(long, value_name = "RATE", requires = "linear_tuning")]
    lr: Option<f64>,
    /// Seed of order and random weights.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "linear_tuning")]
    seed: u64,
}

/// Which weights of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum WeightSet {
    /// The trained ones, or, without those, the averaged ones.
    #[default]
    Auto,
    /// The trained ones.
    Model,
    /// The exponential moving average.
    Ema,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    let config = model_config(&arguments.model).context("--model")?;
    config.check_image([arguments.size; 2]).context("--size")?;
    if let Some(list) = &arguments.classes
        && !list.is_file()
    {
        bail!("--classes: {} is no file", list.display());
    }
    let open = |root: &Path, split: &str| ImageFolder::open(root, split, arguments.classes.as_deref());
    let data = Arc::new(open(&arguments.data, "val").context("--data")?);
    let train = match &arguments.tuning.linear_tuning {
        Some(root) => Some(Arc::new(open(root, "train").context("--linear-tuning")?)),
        None => None,
    };
    let device = arguments.device.open()?;
    arguments.precision.adopt(&device).context("--precision")?;
    let weights = match arguments.weights {
        WeightSet::Auto => Weights::Auto,
        WeightSet::Model => Weights::Model,
        WeightSet::Ema => Weights::Ema,
    };
    let classifier = load_classifier(&arguments.checkpoint, &config, weights, &device)?;
    check_classes(&data, classifier.num_classes).context("--data")?;
    if let Some(train) = &train {
        check_classes(train, classifier.num_classes).context("--linear-tuning")?;
        if let Some((own, other)) = train.classes().iter().zip(data.classes()).find(|(own, other)| own.folder != other.folder) {
            bail!(
                "the classes of {} and {} are not the same: {} and {} have one number",
                train.root().display(),
                data.root().display(),
                own.folder,
                other.folder
            );
        }
    }
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let feed = Feed {
        pipeline: ClassificationPipeline::new(arguments.size),
        batch_size: arguments.batch_size,
        workers: arguments.workers.unwrap_or(processors.min(8)),
        precision: arguments.precision,
        device,
        stop: None,
    };
    let bar = progress_bar(data.len() as u64);
    let report = evaluate_classifier(&classifier.model, &data, &feed, &|images| bar.inc(images))?;
    bar.finish_and_clear();
    warn_of_skipped(report.skipped.iter().map(|image| image.reason.as_str()), "--data");
    println!(
        "{}  ({} images, {} skipped, {:.2} images/s)",
        report.summary(),
        report.images,
        report.skipped.len(),
        report.images_per_second
    );
    let tuned = match &train {
        Some(train) => Some(tune(arguments, &classifier, train, &data, &feed)?),
        None => None,
    };
    match &arguments.json {
        Some(path) => write_json(path, arguments, &classifier, &report, tuned.as_ref()),
        None => Ok(()),
    }
}

fn tune(
    arguments: &Arguments,
    classifier: &LoadedClassifier,
    train: &Arc<ImageFolder>,
    val: &Arc<ImageFolder>,
    feed: &Feed,
) -> Result<TuningReport> {
    let options = &arguments.tuning;
    let extract = |data: &Arc<ImageFolder>, message: &'static str| {
        let bar = progress_bar(data.len() as u64).with_message(message);
        let table = extract_features(&classifier.model, data, feed, &|images| bar.inc(images));
        bar.finish_and_clear();
        table
    };
    let val = extract(val, "validation features")?;
    let train = extract(train, "training features")?;
    warn_of_skipped(train.skipped.iter().map(|image| image.reason.as_str()), "--linear-tuning");
    let config = TuningConfig {
        epochs: options.epochs,
        batch_size: options.tuning_batch,
        lr: options.lr.unwrap_or_else(|| published_lr(arguments.size)),
        reinit: options.reinit,
        seed: options.seed,
    };
    let bar = progress_bar(config.epochs as u64).with_message("epochs");
    let report = tune_head(&classifier.model, train, &val, &config, |epoch| {
        bar.set_message(format!("epochs, top-1 {:.3}", epoch.top1 * 100.0));
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    for (name, epoch) in [("best", &report.best), ("last", &report.last)] {
        println!(
            "linear tuning, {name} epoch {}: top-1 {:.3}  top-5 {:.3}  ({} training images)",
            epoch.epoch,
            epoch.top1 * 100.0,
            epoch.top5 * 100.0,
            report.train_images
        );
    }
    Ok(report)
}

fn write_json(
    path: &Path,
    arguments: &Arguments,
    classifier: &LoadedClassifier,
    report: &ClassificationReport,
    tuned: Option<&TuningReport>,
) -> Result<()> {
    let pipeline = ClassificationPipeline::new(arguments.size);
    let document: Value = json!({
        "model": arguments.model, "checkpoint": arguments.checkpoint, "weights": classifier.weights, "data": arguments.data,
        "size": arguments.size, "resized_side": pipeline.resized_side(), "batch_size": arguments.batch_size,
        "precision": arguments.precision, "device": arguments.device.to_string(), "metrics": report, "linear_tuning": tuned,
    });
    write_whole(path, format!("{document:#}\n").as_bytes())
}
