//! Evaluates a classifier: `test_cls --model vmamba_tiny_s1l8 --checkpoint FILE --data ROOT --size 384`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use clap::Parser;
use serde_json::{Value, json};
use vision_datasets::imagenet::ImageFolder;
use vision_datasets::transforms::ClassificationPipeline;
use vmamba::zoo::{LoadedClassifier, load_classifier};
use vmamba_cli::arguments::{batch, count, pixels, positive, threads};
use vmamba_cli::evaluation::say_weights;
use vmamba_cli::options::{ComputeOptions, JsonOption, MemoryOption, PhotoOptions, WeightsOptions};
use vmamba_cli::process;
use vmamba_recipes::MemoryEstimate;
use vmamba_recipes::classification::linear_tuning::{TuningConfig, TuningReport, extract_features, published_lr, tune_head};
use vmamba_recipes::classification::{ClassificationReport, Feed, check_classes, evaluate_classifier, model_config};
use vmamba_report::console::{progress_bar, warn_of_skipped};
use vmamba_report::println;

/// Evaluate an image classifier on folders of images, one folder a class, at any input size; optionally tune its last layer for that size.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Name of a published model, or a .toml file with the options of one.
    #[arg(long, value_name = "NAME|FILE")]
    model: String,
    /// Checkpoint, .pth or .safetensors; its head gives the number of classes.
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    weights: WeightsOptions,
    /// Folder with a folder of images for each class, or with a folder `val` of that kind.
    #[arg(long, value_name = "ROOT")]
    data: PathBuf,
    /// Text file with a line for each class, in the order of the head: the name of its folder, then a readable name.
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Side of the input in pixels. The shorter side of an image is resized to 256/224 of it, then the centre is cropped.
    #[arg(long, value_name = "PIXELS", default_value_t = 224, value_parser = pixels)]
    size: usize,
    /// Images of a batch.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = batch)]
    batch_size: usize,
    /// Threads that read images [default: number of processors, at most 8]. It does not change the figures.
    #[arg(long, value_name = "N", value_parser = threads)]
    workers: Option<usize>,
    #[command(flatten)]
    limit: PhotoOptions,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    memory: MemoryOption,
    #[command(flatten)]
    json: JsonOption,
    #[command(flatten)]
    tuning: Tuning,
}

/// Linear tuning: trains the last layer for this size on features of the frozen backbone.
#[derive(clap::Args)]
#[command(next_help_heading = "Linear tuning")]
struct Tuning {
    /// Also train the last layer on the images of this folder (or of train in it), and report the best epoch on --data.
    #[arg(long, value_name = "TRAIN_ROOT")]
    linear_tuning: Option<PathBuf>,
    /// Start from random weights instead of the trained last layer.
    #[arg(long, requires = "linear_tuning")]
    reinit: bool,
    /// Epochs of linear tuning.
    #[arg(long, value_name = "N", default_value_t = 30, requires = "linear_tuning", value_parser = count)]
    epochs: usize,
    /// Batch size of linear tuning.
    #[arg(long, value_name = "N", default_value_t = 4096, requires = "linear_tuning", value_parser = batch)]
    tuning_batch: usize,
    /// Initial learning rate [default: the published one for the size: 0.05 below 512 pixels, 0.2 below 640, else 0.5].
    #[arg(long, value_name = "RATE", requires = "linear_tuning", value_parser = positive)]
    lr: Option<f64>,
    /// Seed of the order of the images and of random weights.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "linear_tuning")]
    seed: u64,
}

/// Classes of the largest published heads, for the estimate of the memory before the checkpoint is read.
const IMAGENET_CLASSES: usize = 1000;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    arguments.limit.apply();
    arguments.json.reserve()?;
    let config = model_config(&arguments.model).context("--model")?;
    let image = [arguments.size; 2];
    config.check_photo(image).context("--size")?;
    let cost = config.classifier_complexity(IMAGENET_CLASSES, image);
    arguments.memory.check(MemoryEstimate::prediction(&cost, image, arguments.batch_size), arguments.compute.on_cpu())?;
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
    for data in [Some(&data), train.as_ref()].into_iter().flatten() {
        data.skipped().note(data.root().display()).into_iter().for_each(|note| println!("{note}"));
    }
    let device = arguments.compute.open()?;
    let mut classifier = load_classifier(&config, &arguments.checkpoint, arguments.weights.chosen(), &device)?;
    say_weights(&arguments.checkpoint, &classifier.report);
    classifier.model = classifier.model.valid();
    check_classes(&data, classifier.num_classes).context("--data")?;
    if let Some(train) = &train {
        check_classes(train, classifier.num_classes).context("--linear-tuning")?;
        if let Some((own, other)) = train.classes().iter().zip(data.classes()).find(|(own, other)| own.folder != other.folder) {
            bail!(
                "the classes of {} and {} differ: {} and {} have the same index",
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
        precision: arguments.compute.precision,
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
    arguments.json.write(|| figures(arguments, &classifier, &report, tuned.as_ref()))
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

/// The figures as JSON.
fn figures(arguments: &Arguments, classifier: &LoadedClassifier, report: &ClassificationReport, tuned: Option<&TuningReport>) -> Value {
    json!({
        "model": arguments.model, "checkpoint": arguments.checkpoint, "weights": classifier.report.origin.as_ref().map(|origin| &origin.set), "data": arguments.data,
        "size": arguments.size, "resized_side": ClassificationPipeline::new(arguments.size).resized_side(),
        "batch_size": arguments.batch_size, "precision": arguments.compute.precision, "device": arguments.compute.device_name(),
        "metrics": report, "linear_tuning": tuned,
    })
}
