//! Evaluates a segmentor: `test_seg best.safetensors`. A checkpoint of these tools and the data are all it needs; an official checkpoint
//! also needs `--config`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstream::{print, println};
use anyhow::{Context, Result};
use clap::Parser;
use indicatif::ProgressBar;
use serde_json::json;
use vmamba_cli::process;
use vmamba_recipes::segmentation::Predictor;
use vmamba_recipes::segmentation::config::{FolderSource, SegmentationConfig, SegmentationSource, default_slide};
use vmamba_recipes::segmentation::load_segmentor;
use vmamba_recipes::{Split, config};
use vmamba_report::files::write_whole;
use vmamba_report::pictures::{self, Classes};
use vmamba_report::segmentation::{class_table, summary};
use vmamba_study::published::{Measured, segmentation_row};
use vmamba_train::DeviceChoice;
use vmamba_train::Precision;

/// Evaluate a semantic segmentor on its validation data.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Checkpoint: of train_seg, or an official .pth or .safetensors together with --config.
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
    /// Name of the split to evaluate, instead of the configuration's validation split.
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Test-time augmentation: six scales, each with and without flip.
    #[arg(long)]
    tta: bool,
    /// Sliding windows of the training crop's size, two thirds apart, instead of whole images.
    #[arg(long)]
    slide: bool,
    /// Write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Folder for pictures of image, ground truth and prediction, and label PNGs.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
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
    let given: Option<SegmentationConfig> = match &arguments.config {
        Some(path) => Some(config::load(path, &arguments.set)?),
        None => None,
    };
    let mut segmentor = load_segmentor(&arguments.checkpoint, given, &device)?;
    let config = &mut segmentor.config;
    if let SegmentationSource::Folder(FolderSource { root, val_split, .. }) = &mut config.data.source {
        if let Some(data) = &arguments.data {
            root.clone_from(data);
        }
        if let Some(split) = &arguments.split {
            val_split.clone_from(split);
        }
    } else if arguments.data.is_some() || arguments.split.is_some() {
        anyhow::bail!("--data and --split need a model that was trained on a folder; this one was trained on the built-in scenes");
    }
    if arguments.slide {
        config.test.mode = default_slide(config.data.train.crop.size);
    }
    let data = config.data.source.open(Split::Val)?;
    if data.classes().len() != segmentor.classes.len() {
        anyhow::bail!("the model knows {} classes, the data have {}", segmentor.classes.len(), data.classes().len());
    }
    let folders = arguments.out.as_deref().map(output_folders).transpose()?;
    let classes = Classes { names: &segmentor.classes.names, palette: &segmentor.classes.palette };
    let predictor = Predictor {
        model: &segmentor.model,
        device: &device,
        pipeline: &config.data.test,
        test: &config.test,
        augment: arguments.tta,
        precision: arguments.precision,
    };
    let bar = ProgressBar::new(data.len() as u64);
    let evaluation = predictor.evaluate(&data, config.data.workers, |_, sample, labels| {
        if let Some((drawn, maps)) = &folders {
            let picture = pictures::comparison(&sample.image, Some(sample.labels.as_slice()), labels, classes, 0.6)?;
            pictures::save(&drawn.join(format!("{}.png", sample.name)), &picture)?;
            pictures::save_labels(&maps.join(format!("{}.png", sample.name)), labels, sample.image.width(), sample.image.height())?;
        }
        bar.inc(1);
        Ok(())
    })?;
    bar.finish_and_clear();

    let report = &evaluation.report;
    print!("{}", class_table(report, &segmentor.classes).text());
    println!("{}  ({} images, {:.2} images/s)", summary(report), evaluation.images, evaluation.images_per_second);
    if let Some(row) = segmentation_row(&config.name)? {
        let own = Some(report.mean_iou * 100.0);
        let measured =
            if arguments.tta { Measured { miou_ms: own, ..Measured::default() } } else { Measured { miou_ss: own, ..Measured::default() } };
        print!("{}", row.compare(measured).text());
        println!("source: {}", row.source);
    }
    if let Some(path) = &arguments.json {
        let document = json!({
            "checkpoint": arguments.checkpoint, "config": config.name, "iteration": segmentor.iteration, "tta": arguments.tta,
            "mode": config.test.mode, "precision": arguments.precision, "images": evaluation.images, "classes": segmentor.classes.names, "metrics": report, "configuration": config,
        });
        write_whole(path, format!("{document:#}\n").as_bytes())?;
    }
    Ok(())
}

fn output_folders(out: &Path) -> Result<(PathBuf, PathBuf)> {
    let folders = (out.join("pictures"), out.join("labels"));
    for folder in [&folders.0, &folders.1] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot write to {}", folder.display()))?;
    }
    Ok(folders)
}
