//! A training program from its arguments to its last picture.

use std::path::{Path, PathBuf};

use anstream::{print, println};
use anyhow::{Context, Error, Result};
use clap::Args;
use vmamba::checkpoint::LoadReport;
use vmamba_recipes::{Configured, Init, RunConfig, config};
use vmamba_report::console::human;
use vmamba_report::run_folder::{CONFIG, LAST, NON_FINITE};
use vmamba_report::{Console, RunFolder};
use vmamba_train::{DeviceChoice, DeviceGroup, Outcome, TrainError, Trainer};

use crate::present::Present;
use crate::process::interrupted;

/// The arguments of a training program.
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
    /// Folder for checkpoints, logs and pictures [default: runs/NAME, after the name of the configuration].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in the folder from its newest checkpoint. Without --config, the run keeps its configuration.
    #[arg(long)]
    resume: bool,
    /// Delete the run in the folder and begin anew.
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// cpu, cuda, cuda:N, vulkan or vulkan:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Train on several CUDA devices: cuda:0,cuda:1. Each has its own batches of train.batch_size images, so a step takes
    /// train.batch_size x train.accumulation x devices images. The gradients are averaged (NCCL); the first device validates and saves.
    #[arg(long, value_name = "DEVICE,...", value_delimiter = ',', conflicts_with = "device")]
    devices: Vec<DeviceChoice>,
    /// Print the weight decay of every parameter and stop.
    #[arg(long)]
    show_groups: bool,
}

/// Runs a training program.
///
/// # Errors
/// On the first failure. The newest checkpoint stays as it is.
pub fn train<R: Present>(arguments: &TrainArguments) -> Result<()> {
    let (mut config, folder) = read_config::<R>(arguments)?;
    config.validate()?;
    config.name_task();
    let single = [arguments.device];
    let group = DeviceGroup::open(if arguments.devices.is_empty() { &single } else { &arguments.devices })?;
    let (device, devices) = (group.first().clone(), group.count());
    let recipe = R::open(&config)?;
    let RunConfig { name, init, train, .. } = &config;
    train.precision.adopt(&device).context("train.precision")?;
    let (model, report) = match init {
        Init::Checkpoint(path) if !arguments.resume => {
            let (model, report) =
                recipe.pretrained_model(&config, path, &device).with_context(|| format!("init = \"{}\"", path.display()))?;
            (model, Some(report))
        }
        // A resumed run takes its weights from its own checkpoint.
        Init::Random | Init::Checkpoint(_) => (recipe.random_model(&config, &device)?, None),
    };
    let (cost, [height, width]) = recipe.complexity(&config);
    let data = recipe.describe_data();
    let builder = Trainer::builder(recipe, model).config(train.clone()).stop_flag(interrupted()).observe(Console::default());
    if arguments.show_groups {
        print!("{}", builder.build_on(group)?.describe_groups());
        return Ok(());
    }

    let run = open_folder(&folder, arguments)?;
    let text = toml::to_string(&config).context("the configuration cannot be written down")?;
    if arguments.resume {
        for difference in config::differences(&run.config(), &text)? {
            println!("changed since the run began: {difference}");
        }
    }
    run.write_config(&text)?;
    let last = run.last();
    let mut trainer = builder.observe(run).build_on(group)?;

    let (params, flops) = (cost.params as f64 / 1e6, cost.flops() as f64 / 1e9);
    println!("{name}: {params:.2} M parameters, {flops:.2} GFLOPs at {height}x{width}");
    if !arguments.resume {
        println!("{}", describe_start(init, report.as_ref()));
    }
    println!("{data}");
    if devices > 1 {
        println!("training on {devices} devices, {} images a step", devices as u64 * train.step_size());
    }
    if arguments.resume {
        trainer.resume(&last)?;
        println!("resumed after iteration {}", trainer.iteration());
    }
    let begin = std::time::Instant::now();
    if trainer.run().map_err(|error| with_places(error, &folder))? == Outcome::Interrupted {
        return Ok(());
    }
    println!("trained for {}", human(begin.elapsed()));
    finish(&trainer, &device, &folder, train.pictures)
}

/// Draws predictions, and prints the tables of the last validation.
fn finish<R: Present>(trainer: &Trainer<R>, device: &burn::prelude::Device, folder: &Path, pictures: usize) -> Result<()> {
    let drawn = folder.join("pictures");
    std::fs::create_dir_all(&drawn).with_context(|| format!("cannot write to {}", drawn.display()))?;
    let recipe = trainer.recipe();
    let count = recipe.draw(&trainer.evaluated_model()?, &device.clone().inner(), &drawn, pictures)?;
    recipe.print_figures(folder)?;
    if let Some((iteration, best)) = trainer.best() {
        let path = folder.join(vmamba_report::run_folder::BEST);
        println!("best {} {:.2} after iteration {iteration}: {}", recipe.metric(), best * 100.0, path.display());
    }
    println!("curves, checkpoints and {count} pictures are in {}", folder.display());
    Ok(())
}

/// Where training starts from, in one line.
fn describe_start(init: &Init, report: Option<&LoadReport>) -> String {
    match report {
        Some(report) => format!("starting from {}: {report}", String::from(init.clone())),
        None => "starting from random weights".to_owned(),
    }
}

/// Adds to an error of the training where its details are.
fn with_places(error: TrainError, folder: &Path) -> Error {
    let TrainError::NonFinite(_) = error else { return error.into() };
    let (details, last) = (folder.join(NON_FINITE), folder.join(LAST));
    let checkpoint = if last.exists() {
        format!("the newest good checkpoint is {}", last.display())
    } else {
        "no checkpoint has been saved yet".to_owned()
    };
    anyhow::anyhow!("{error}; details are in {}, {checkpoint}", details.display())
}

/// The configuration and the folder of the run. A run that is resumed by its folder alone keeps its configuration.
fn read_config<R: Configured>(arguments: &TrainArguments) -> Result<(RunConfig<R::Task>, PathBuf)> {
    let mut overrides = arguments.set.clone();
    if let Some(data) = &arguments.data {
        overrides.push(format!("data.source.root={}", toml::Value::String(data.to_string_lossy().into_owned())));
    }
    let own = arguments.out.as_ref().filter(|_| arguments.resume).map(|folder| folder.join(CONFIG));
    let config: RunConfig<R::Task> = match (&arguments.config, own) {
        (Some(path), _) => config::load(path, &overrides)?,
        (None, Some(own)) if own.exists() => config::load(&own, &overrides)?,
        (None, _) => config::load_text(R::DEMO, &overrides, "the built-in demo configuration")?,
    };
    let folder = arguments.out.clone().unwrap_or_else(|| Path::new("runs").join(&config.name));
    Ok((config, folder))
}

fn open_folder(folder: &Path, arguments: &TrainArguments) -> Result<RunFolder> {
    if arguments.resume {
        return RunFolder::resume(folder);
    }
    if arguments.overwrite {
        return RunFolder::overwrite(folder);
    }
    if vmamba_report::run_folder::holds_run(folder) {
        anyhow::bail!("{} holds a run already; --resume continues it, --overwrite begins anew", folder.display());
    }
    RunFolder::create(folder)
}
