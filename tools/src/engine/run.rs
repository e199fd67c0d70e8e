//! A training tool from its arguments to its last picture; what differs between tasks is behind [`Training`].

use std::path::{Path, PathBuf};

use anstream::{print, println};
use anyhow::{Context, Result, bail};
use burn::prelude::Device;
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vmamba::checkpoint::LoadReport;
use vmamba::complexity::Complexity;

use super::config::{self, Init, TrainConfig};
use super::data_parallel::DeviceGroup;
use super::device::DeviceChoice;
use super::guard::REPORT_FILE;
use super::logging::{METRICS_FILE, human};
use super::trainer::{BEST, LAST, Outcome, Task, Trainer};

/// Where a run writes down its configuration.
pub const SNAPSHOT: &str = "config.toml";

/// The arguments of a training tool.
#[derive(Args)]
pub struct TrainArguments {
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
    /// Train on several CUDA devices: cuda:0,cuda:1. Each has batches of train.batch_size images of its own, so a step takes
    /// train.batch_size x train.accumulation x devices images; the gradients are averaged (NCCL), the first device validates and saves.
    #[arg(long, value_name = "DEVICE,...", value_delimiter = ',', conflicts_with = "device")]
    devices: Vec<DeviceChoice>,
    /// Print which parameters have weight decay, and stop.
    #[arg(long)]
    show_groups: bool,
}

/// What distinguishes one training tool from another.
pub trait Training {
    /// Its configuration.
    type Config: DeserializeOwned + Serialize;
    /// Its task.
    type Task: Task;

    /// The configuration that runs without arguments.
    const DEMO: &'static str;

    /// Checks what the types of the configuration alone do not say.
    ///
    /// # Errors
    /// Names the field.
    fn validate(config: &Self::Config) -> Result<()>;

    /// Name of the configuration.
    fn name(config: &Self::Config) -> &str;

    /// Where training starts from.
    fn init(config: &Self::Config) -> &Init;

    /// How it trains.
    fn train(config: &Self::Config) -> &TrainConfig;

    /// Opens the data.
    ///
    /// # Errors
    /// When they are missing or wrong.
    fn open(config: &Self::Config) -> Result<Self::Task>;

    /// The model with the weights it starts from.
    ///
    /// # Errors
    /// When a checkpoint is missing or does not fit.
    fn initial_model(
        task: &Self::Task,
        config: &Self::Config,
        device: &Device,
    ) -> Result<(<Self::Task as Task>::Model, Option<LoadReport>)>;

    /// Cost of the model, and the size `[height, width]` it is counted for.
    fn complexity(task: &Self::Task, config: &Self::Config) -> (Complexity, [usize; 2]);

    /// What the data are, in one line.
    fn describe_data(task: &Self::Task, config: &Self::Config) -> String;

    /// Prints the tables of the last validation, and draws predictions into `folder`; returns how many.
    ///
    /// # Errors
    /// When a sample cannot be read or a file not written.
    fn finish(task: &Self::Task, model: &<Self::Task as Task>::Model, device: &Device, folder: &Path, count: usize) -> Result<usize>;
}

/// Runs a training tool.
///
/// # Errors
/// On the first thing that goes wrong; the newest checkpoint is intact.
pub fn train<T: Training>(arguments: &TrainArguments) -> Result<()> {
    let (config, folder) = read_config::<T>(arguments)?;
    T::validate(&config)?;
    let single = [arguments.device];
    let group = DeviceGroup::open(if arguments.devices.is_empty() { &single } else { &arguments.devices })?;
    let device = group.first().clone();
    let task = T::open(&config)?;
    let (model, report) = T::initial_model(&task, &config, &device)?;
    let mut trainer = Trainer::new(&task, T::train(&config), model, &group, &folder)?;
    if arguments.show_groups {
        print!("{}", trainer.describe_groups());
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

    let (cost, [height, width]) = T::complexity(&task, &config);
    let (params, flops) = (cost.params as f64 / 1e6, cost.flops() as f64 / 1e9);
    println!("{}: {params:.2} M parameters, {flops:.2} GFLOPs at {height}x{width}", T::name(&config));
    match report {
        Some(report) => println!("starting from {}: {report}", String::from(T::init(&config).clone())),
        None => println!("starting from random weights"),
    }
    println!("{}", T::describe_data(&task, &config));
    if group.count() > 1 {
        println!("training on {} devices, {} images a step", group.count(), group.count() as u64 * T::train(&config).step_size());
    }

    if arguments.resume {
        trainer.resume()?;
        println!("resumed after iteration {}", trainer.iteration());
    }
    let begin = std::time::Instant::now();
    if trainer.run()? == Outcome::Interrupted {
        return Ok(());
    }
    println!("trained for {}", human(begin.elapsed()));
    let drawn = folder.join("pictures");
    std::fs::create_dir_all(&drawn).with_context(|| format!("cannot write to {}", drawn.display()))?;
    let count = T::finish(&task, &trainer.evaluated_model()?, &device.inner(), &drawn, T::train(&config).pictures)?;
    if let Some((iteration, best)) = trainer.best() {
        println!("best {} {:.2} after iteration {iteration}: {}", task.metric(), best * 100.0, folder.join(BEST).display());
    }
    println!("curves, checkpoints and {count} pictures are in {}", folder.display());
    Ok(())
}

/// The configuration and the folder of the run. One that is resumed by its folder alone goes on with its own configuration.
fn read_config<T: Training>(arguments: &TrainArguments) -> Result<(T::Config, PathBuf)> {
    let mut overrides = arguments.set.clone();
    if let Some(data) = &arguments.data {
        overrides.push(format!("data.source.root={}", toml::Value::String(data.to_string_lossy().into_owned())));
    }
    let own = arguments.out.as_ref().filter(|_| arguments.resume).map(|folder| folder.join(SNAPSHOT));
    let config = match (&arguments.config, own) {
        (Some(path), _) => config::load(path, &overrides)?,
        (None, Some(own)) if own.exists() => config::load(&own, &overrides)?,
        (None, _) => config::load_text(T::DEMO, &overrides, "the built-in demo configuration")?,
    };
    let folder = arguments.out.clone().unwrap_or_else(|| Path::new("runs").join(T::name(&config)));
    Ok((config, folder))
}

/// Makes the folder; one that holds a run is not touched without being asked to.
fn prepare_folder(folder: &Path, arguments: &TrainArguments) -> Result<()> {
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
        let files = [LAST, BEST, METRICS_FILE, REPORT_FILE].into_iter().map(|name| folder.join(name));
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
