//! Trains a semantic segmentor: `train_seg --config configs/camvid_nano.toml --out runs/camvid`. Without arguments it trains a small model
//! on the built-in scenes, evaluates it and draws pictures, within minutes on two cores.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tools::engine::config::{self, DataSource, SegmentationConfig};
use tools::engine::device::DeviceChoice;
use tools::engine::evaluate::class_table;
use tools::engine::logging::human;
use tools::engine::process;
use tools::engine::segmentation::{SegmentationTask, initial_model};
use tools::engine::trainer::{BEST, LAST, Outcome, Trainer};
use tools::report::pictures::{self, Classes};
use vision_datasets::sample::SegmentationDataset;

/// The configuration that runs without arguments.
const DEMO: &str = include_str!("../../../configs/demo/scenes_seg.toml");

/// Train a semantic segmentor (UperNet on VMamba).
///
/// Without --config, a small model is trained on the built-in scenes.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change a value of the configuration: key.path=value (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of the data, instead of the configuration's.
    #[arg(long, value_name = "DIR", requires = "config")]
    data: Option<PathBuf>,
    /// Folder for checkpoints, logs and pictures [default: runs/<name of the configuration>].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in the folder from its newest checkpoint.
    #[arg(long)]
    resume: bool,
    /// Begin anew in a folder that holds a run.
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// cpu, cuda[:n] or vulkan[:n].
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Print which parameters have weight decay, and stop.
    #[arg(long)]
    show_groups: bool,
}

fn main() -> ExitCode {
    process::keep_large_blocks();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut overrides = arguments.set.clone();
    if let Some(data) = &arguments.data {
        overrides.push(format!("data.source.root={}", toml::Value::String(data.to_string_lossy().into_owned())));
    }
    let config: SegmentationConfig = match &arguments.config {
        Some(path) => config::load(path, &overrides)?,
        None => config::load_text(DEMO, &overrides, "the built-in demo configuration")?,
    };
    config.validate()?;
    let device = arguments.device.open()?.autodiff();
    let task = SegmentationTask::new(&config)?;
    let (model, report) = initial_model(&task.model_config(), &config.init, config.train.seed, &device)?;
    let folder = arguments.out.clone().unwrap_or_else(|| Path::new("runs").join(&config.name));
    if arguments.show_groups {
        print!("{}", Trainer::new(&task, &config.train, model, device, &folder).describe_groups());
        return Ok(());
    }

    prepare_folder(&folder, arguments)?;
    let text = toml::to_string(&config).context("the configuration cannot be written down")?;
    let snapshot = folder.join("config.toml");
    std::fs::write(&snapshot, text).with_context(|| format!("cannot write {}", snapshot.display()))?;
    announce(&config, &task, report.as_ref().map(ToString::to_string));

    let mut trainer = Trainer::new(&task, &config.train, model, device.clone(), &folder);
    if arguments.resume {
        trainer.resume()?;
        println!("resumed after iteration {}", trainer.iteration());
    }
    let begin = std::time::Instant::now();
    if trainer.run()? == Outcome::Interrupted {
        return Ok(());
    }
    println!("trained for {}", human(begin.elapsed()));
    finish(&config, &task, &trainer, &device.inner(), &folder)
}

/// Makes the folder; one that holds a run is not touched without being asked to.
fn prepare_folder(folder: &Path, arguments: &Arguments) -> Result<()> {
    let context = || format!("cannot write to the folder {}", folder.display());
    let holds_run = folder.join(LAST).exists() || folder.join("config.toml").exists();
    if holds_run && !arguments.resume && !arguments.overwrite {
        bail!("{} holds a run already; --resume continues it, --overwrite begins anew", folder.display());
    }
    if arguments.resume && !folder.join(LAST).exists() {
        bail!("nothing to resume: {} does not exist", folder.join(LAST).display());
    }
    std::fs::create_dir_all(folder).with_context(context)?;
    if arguments.overwrite {
        for name in [LAST, BEST, "metrics.jsonl", "non_finite_loss.json"] {
            match std::fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(context),
                _ => (),
            }
        }
    }
    // Known now rather than after the first hour.
    tempfile::tempfile_in(folder).with_context(context)?;
    Ok(())
}

fn announce(config: &SegmentationConfig, task: &SegmentationTask, loaded: Option<String>) {
    let model = task.model_config();
    let [height, width] = config.data.train.crop.size;
    let cost = model.complexity([height, width]);
    println!(
        "{}: {:.2} M parameters, {:.2} GFLOPs at {height}x{width}, {} classes, {} validation images",
        config.name,
        cost.params as f64 / 1e6,
        cost.flops() as f64 / 1e9,
        model.num_classes,
        task.validation().len()
    );
    let start = match loaded {
        Some(report) => format!("{}: {report}", String::from(config.init.clone())),
        None => "random weights".to_owned(),
    };
    println!("starting from {start}");
    if let DataSource::Folder { root, .. } = &config.data.source {
        println!("data: {}", root.display());
    }
}

/// Evaluates the trained model, prints its table and draws predictions.
fn finish(
    config: &SegmentationConfig,
    task: &SegmentationTask,
    trainer: &Trainer<SegmentationTask>,
    device: &burn::prelude::Device,
    folder: &Path,
) -> Result<()> {
    let model = trainer.evaluated_model()?;
    let data = task.validation();
    let classes = data.classes();
    let drawn = folder.join("pictures");
    std::fs::create_dir_all(&drawn).with_context(|| format!("cannot write to {}", drawn.display()))?;
    let every = (data.len() / config.train.pictures.max(1)).max(1);
    let evaluation = tools::engine::evaluate::evaluate(
        &model,
        device,
        data,
        &config.data.test,
        &config.test,
        false,
        config.data.workers,
        |index, sample, labels| {
            if index % every == 0 && index / every < config.train.pictures {
                let colours = Classes { names: &classes.names, palette: &classes.palette };
                let picture = pictures::comparison(&sample.image, Some(sample.labels.as_slice()), labels, colours, 0.6)?;
                pictures::save(&drawn.join(format!("{}.png", sample.name)), &picture)?;
            }
            Ok(())
        },
    )?;
    print!("{}", class_table(&evaluation.report, classes).text());
    println!("mIoU {:.4}  mAcc {:.4}  aAcc {:.4}", evaluation.report.mean_iou, evaluation.report.mean_accuracy, evaluation.report.all_accuracy);
    if let Some((iteration, best)) = trainer.best() {
        println!("best mIoU {best:.4} after iteration {iteration}: {}", folder.join(BEST).display());
    }
    println!("curves, checkpoints and {} pictures are in {}", config.train.pictures.min(data.len()), folder.display());
    Ok(())
}
