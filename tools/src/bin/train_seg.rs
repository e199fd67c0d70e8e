//! Trains a semantic segmentor: `train_seg --config configs/camvid_nano.toml --out runs/camvid`. Without arguments it trains a small model
//! on the built-in scenes, evaluates it and draws pictures, within minutes on two cores.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use burn::prelude::Device;
use clap::Parser;
use tools::engine::config::{self, DataSource, SegmentationConfig};
use tools::engine::device::DeviceChoice;
use tools::engine::evaluate::{class_table, summary};
use tools::engine::logging::{METRICS_FILE, human};
use tools::engine::process;
use tools::engine::segmentation::{SegmentationTask, initial_model};
use tools::engine::trainer::{BEST, LAST, Outcome, Trainer};
use tools::report::pictures::{self, Classes};

/// The configuration that runs without arguments.
const DEMO: &str = include_str!("../../../configs/demo/scenes_seg.toml");

/// Where a run writes down its configuration.
const SNAPSHOT: &str = "config.toml";

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
    /// Folder for checkpoints, logs and pictures; without it runs/NAME, after the name of the configuration.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in the folder from its newest checkpoint; without --config, with the configuration it was started with.
    #[arg(long)]
    resume: bool,
    /// Begin anew in a folder that holds a run.
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// cpu, cuda, cuda:N, vulkan or vulkan:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Print which parameters have weight decay, and stop.
    #[arg(long)]
    show_groups: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut overrides = arguments.set.clone();
    if let Some(data) = &arguments.data {
        overrides.push(format!("data.source.root={}", toml::Value::String(data.to_string_lossy().into_owned())));
    }
    let (config, folder) = read_config(arguments, &overrides)?;
    config.validate()?;
    let device = arguments.device.open()?.autodiff();
    let task = SegmentationTask::new(&config)?;
    let (model, report) = initial_model(&task.model_config(), &config.init, config.train.seed, &device)?;
    if arguments.show_groups {
        print!("{}", Trainer::new(&task, &config.train, model, device, &folder).describe_groups());
        return Ok(());
    }

    prepare_folder(&folder, arguments)?;
    let text = toml::to_string(&config).context("the configuration cannot be written down")?;
    let snapshot = folder.join(SNAPSHOT);
    if arguments.resume {
        for difference in config::differences(&snapshot, &text)? {
            println!("changed since the run began: {difference}");
        }
    }
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
    finish(&task, &trainer, &device.inner(), &folder, config.train.pictures)
}

/// The configuration and the folder of the run. One that is resumed by its folder alone goes on with its own configuration.
fn read_config(arguments: &Arguments, overrides: &[String]) -> Result<(SegmentationConfig, PathBuf)> {
    let own = arguments.out.as_ref().filter(|_| arguments.resume).map(|folder| folder.join(SNAPSHOT));
    let config: SegmentationConfig = match (&arguments.config, own) {
        (Some(path), _) => config::load(path, overrides)?,
        (None, Some(own)) if own.exists() => config::load(&own, overrides)?,
        (None, _) => config::load_text(DEMO, overrides, "the built-in demo configuration")?,
    };
    let folder = arguments.out.clone().unwrap_or_else(|| Path::new("runs").join(&config.name));
    Ok((config, folder))
}

/// Makes the folder; one that holds a run is not touched without being asked to.
fn prepare_folder(folder: &Path, arguments: &Arguments) -> Result<()> {
    let context = || format!("cannot write to the folder {}", folder.display());
    let holds_run = folder.join(LAST).exists() || folder.join(SNAPSHOT).exists();
    if holds_run && !arguments.resume && !arguments.overwrite {
        bail!("{} holds a run already; --resume continues it, --overwrite begins anew", folder.display());
    }
    if arguments.resume && !folder.join(LAST).exists() {
        bail!("nothing to resume: {} does not exist", folder.join(LAST).display());
    }
    std::fs::create_dir_all(folder).with_context(context)?;
    if arguments.overwrite {
        let events = glob::glob(&folder.join("tensorboard/events.out.tfevents.*").to_string_lossy()).with_context(context)?;
        let files = [LAST, BEST, METRICS_FILE, "non_finite_loss.json"].into_iter().map(|name| folder.join(name));
        for file in files.chain(events.filter_map(Result::ok)) {
            match std::fs::remove_file(file) {
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

/// Prints the table of the last validation and draws predictions.
fn finish(task: &SegmentationTask, trainer: &Trainer<SegmentationTask>, device: &Device, folder: &Path, count: usize) -> Result<()> {
    let data = task.validation();
    let classes = data.classes();
    let drawn = folder.join("pictures");
    std::fs::create_dir_all(&drawn).with_context(|| format!("cannot write to {}", drawn.display()))?;
    let model = trainer.evaluated_model()?;
    let predictor = task.predictor(&model, device);
    let count = count.min(data.len());
    for position in 0..count {
        let sample = data.get(position * data.len() / count)?;
        let labels = predictor.labels(&sample.image)?;
        let colours = Classes { names: &classes.names, palette: &classes.palette };
        let picture = pictures::comparison(&sample.image, Some(sample.labels.as_slice()), &labels, colours, 0.6)?;
        pictures::save(&drawn.join(format!("{}.png", sample.name)), &picture)?;
    }
    if let Some(report) = task.newest_report() {
        print!("{}", class_table(&report, classes).text());
        println!("{}", summary(&report));
    }
    if let Some((iteration, best)) = trainer.best() {
        println!("best mIoU {:.2} after iteration {iteration}: {}", best * 100.0, folder.join(BEST).display());
    }
    println!("curves, checkpoints and {count} pictures are in {}", folder.display());
    Ok(())
}
