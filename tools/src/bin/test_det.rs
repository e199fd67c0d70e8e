//! Evaluates a detector: `test_det best.safetensors`. A checkpoint of these tools and the data are all it needs; an official checkpoint also
//! needs `--config`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstream::{print, println};
use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::ProgressBar;
use serde_json::json;
use vision_datasets::coco::{EvalReport, IouType, write_results};
use vmamba_cli::process;
use vmamba_recipes::config;
use vmamba_recipes::detection::Predictor;
use vmamba_recipes::detection::config::{CocoSource, DetectionConfig, DetectionSource};
use vmamba_recipes::detection::load_detector;
use vmamba_report::curves::precision_recall;
use vmamba_report::detection::{STATISTICS, category_table, statistics_table, summary};
use vmamba_report::files::write_whole;
use vmamba_report::{objects, pictures};
use vmamba_study::published::detection_row;
use vmamba_train::DeviceChoice;
use vmamba_train::Precision;

/// Evaluate a detector on its validation data: AP of boxes and masks.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Checkpoint: of train_det, or an official .pth or .safetensors together with --config.
    checkpoint: PathBuf,
    /// Configuration, instead of the one in the checkpoint.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change a value of the configuration given by --config (repeatable).
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Folder of the data, instead of the configuration's.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Annotations to evaluate on, instead of the configuration's; relative to the folder of the data.
    #[arg(long, value_name = "FILE", requires = "images")]
    annotations: Option<PathBuf>,
    /// Folder of their images.
    #[arg(long, value_name = "DIR", requires = "annotations")]
    images: Option<PathBuf>,
    /// Write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Folder for results in COCO's format, precision-recall curves and pictures of image, ground truth and prediction.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Probability from which on an object is drawn.
    #[arg(long, default_value_t = 0.3)]
    score: f32,
    /// cpu, cuda, cuda:N, vulkan or vulkan:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Type of the activations; without speed gain on the CPU.
    #[arg(long, value_name = "TYPE", default_value_t)]
    precision: Precision,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    let device = arguments.device.open()?;
    arguments.precision.adopt(&device).context("--precision")?;
    let given: Option<DetectionConfig> = match &arguments.config {
        Some(path) => Some(config::load(path, &arguments.set)?),
        None => None,
    };
    let mut detector = load_detector(&arguments.checkpoint, given, &device)?;
    detector.config.data.source = source(&detector.config.data.source, arguments)?;
    let data = detector.open_data()?;
    let config = &detector.config;
    let drawn = arguments.out.as_ref().map(|out| out.join("pictures"));
    if let Some(folder) = &drawn {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot write to {}", folder.display()))?;
    }

    let predictor = Predictor { model: &detector.model, device: &device, pipeline: &config.data.test, precision: arguments.precision };
    let bar = ProgressBar::new(data.len() as u64);
    let found = predictor.evaluate(&data, config.data.workers, |_, sample, detections| {
        if let Some(folder) = &drawn {
            let picture = objects::comparison(&sample.image, Some(&sample.instances), detections, &detector.classes, arguments.score);
            pictures::save(&folder.join(format!("{}.png", sample.name)), &picture)?;
        }
        bar.inc(1);
        Ok(())
    })?;
    bar.finish_and_clear();

    let (boxes, masks) = (&found.boxes, &found.masks);
    let ids: Vec<i64> = data.truth()?.categories.iter().map(|category| category.id).collect();
    print!("{}", category_table(boxes, masks, &detector.classes, &ids).text());
    print!("{}", statistics_table(boxes, masks).text());
    println!(
        "{}  ({} images, {:.2} images/s, evaluation {:.1} s)",
        summary(boxes, masks),
        found.images,
        found.images_per_second,
        found.evaluation_seconds
    );
    if let Some(row) = detection_row(&config.name)? {
        let percent = |report: &EvalReport| [0, 1, 2].map(|index| report.stats[index] * 100.0);
        print!("{}", row.compare(percent(boxes), percent(masks)).text());
        println!("source: {}", row.source);
    }
    if let Some(out) = &arguments.out {
        write_results(&out.join("results.bbox.json"), &found.results, IouType::Bbox)?;
        write_results(&out.join("results.segm.json"), &found.results, IouType::Segm)?;
        precision_recall(out, boxes, "bbox")?;
        precision_recall(out, masks, "segm")?;
        println!("results, curves and pictures are in {}", out.display());
    }
    if let Some(path) = &arguments.json {
        let figures =
            |report: &EvalReport| STATISTICS.iter().zip(report.stats).map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let of = |report: &EvalReport| serde_json::Value::Object(figures(report));
        let document = json!({
            "checkpoint": arguments.checkpoint, "config": config.name, "iteration": detector.iteration, "precision": arguments.precision, "images": found.images,
            "max_detections": [100, 300, 1000], "classes": detector.classes.names, "bbox": of(boxes), "segm": of(masks),
            "classes_bbox": category_table(boxes, masks, &detector.classes, &ids).json_rows(), "configuration": config,
        });
        write_whole(path, format!("{document:#}\n").as_bytes())?;
    }
    Ok(())
}

/// The data to evaluate on.
fn source(configured: &DetectionSource, arguments: &Arguments) -> Result<DetectionSource> {
    let mut source = configured.clone();
    if let DetectionSource::Coco(CocoSource { root, val_annotations, val_images, .. }) = &mut source {
        let replace = |target: &mut PathBuf, given: &Option<PathBuf>| {
            if let Some(given) = given {
                target.clone_from(given);
            }
        };
        replace(root, &arguments.data);
        replace(val_annotations, &arguments.annotations);
        replace(val_images, &arguments.images);
        return Ok(source);
    }
    match (&arguments.annotations, &arguments.images) {
        (Some(annotations), Some(images)) => Ok(DetectionSource::Coco(CocoSource {
            root: arguments.data.clone().unwrap_or_else(|| Path::new(".").to_owned()),
            train_annotations: annotations.clone(),
            train_images: images.clone(),
            val_annotations: annotations.clone(),
            val_images: images.clone(),
        })),
        _ if arguments.data.is_some() => bail!("--data needs --annotations and --images: this model was trained on the built-in scenes"),
        _ => Ok(source),
    }
}
