//! A training program: reads the configuration, trains, draws predictions and prints the results.

use std::path::{Path, PathBuf};

use anstream::{print, println};
use anyhow::{Context, Error, Result, anyhow, bail};
use burn::prelude::Device;
use clap::Args;
use vmamba::checkpoint::LoadReport;
use vmamba_recipes::memory::bytes;
use vmamba_recipes::{Configured, Init, RunConfig, config};
use vmamba_report::console::human;
use vmamba_report::files::create_folder;
use vmamba_report::run_folder::{BEST, CONFIG, LAST, NON_FINITE, holds_run};
use vmamba_report::{Console, RunFolder};
use vmamba_train::{DeviceChoice, DeviceGroup, Outcome, TrainError, Trainer};

use crate::options::{ConfigOptions, DeviceOption, MemoryOption, PhotoOptions};
use crate::present::Present;
use crate::process::interrupted;

/// The options of a training program.
#[derive(Args)]
pub struct TrainArguments {
    #[command(flatten)]
    config: ConfigOptions,
    /// Folder for checkpoints, logs and pictures [default: runs/NAME, after the name of the configuration].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in the folder from its newest checkpoint. Without --config, the run keeps its configuration.
    #[arg(long)]
    resume: bool,
    /// Delete the run in the folder and start a new one.
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    #[command(flatten)]
    limit: PhotoOptions,
    #[command(flatten)]
    device: DeviceOption,
    #[command(flatten)]
    memory: MemoryOption,
    /// Train on several CUDA devices: cuda:0,cuda:1. Every device has batches of train.batch_size images, so a step takes
    /// train.batch_size x train.accumulation x devices images. The gradients are averaged (NCCL); the first device validates and saves.
    #[arg(long, value_name = "DEVICE,...", value_delimiter = ',', conflicts_with = "device")]
    devices: Vec<DeviceChoice>,
    /// Print the weight decay of every parameter, with layer-wise decay also its learning rate, and stop.
    #[arg(long)]
    show_groups: bool,
}

/// Runs a training program.
///
/// # Errors
/// On the first failure. The newest checkpoint is kept.
pub fn train<R: Present>(arguments: &TrainArguments) -> Result<()> {
    arguments.limit.apply();
    let (mut config, folder) = read_config::<R>(arguments)?;
    config.name_task();
    let single = [arguments.device.device];
    let group = DeviceGroup::open(if arguments.devices.is_empty() { &single } else { &arguments.devices })?;
    let (device, devices) = (group.first().clone(), group.count());
    let recipe = R::open(&config)?;
    let estimate = recipe.memory(&config);
    arguments.memory.check(estimate, arguments.devices.is_empty() && arguments.device.on_cpu())?;
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

    // Every setting is checked before a file is touched.
    let text = toml::to_string(&config).context("the configuration cannot be written as TOML")?;
    let mut trainer = builder.build_on(group)?;
    let mut run = open_folder(&folder, arguments)?;
    if arguments.resume {
        for difference in config::differences(&run.config(), &text)? {
            println!("changed since the run began: {difference}");
        }
        trainer.resume(&run.last())?;
    }
    run.write_config(&text)?;
    trainer.observe(run);

    let (params, flops) = (cost.params as f64 / 1e6, cost.flops() as f64 / 1e9);
    println!("{name}: {params:.2} M parameters, {flops:.2} GFLOPs at {height}x{width}");
    if !arguments.resume {
        println!("{}", describe_start(init, report.as_ref()));
    }
    println!("{data}");
    println!("estimated memory: {} ({estimate})", bytes(estimate.total()));
    if devices > 1 {
        println!("training on {devices} devices, {} images a step", devices as u64 * train.step_size());
    }
    if arguments.resume {
        println!("resumed after iteration {}", trainer.iteration());
    }
    let begin = std::time::Instant::now();
    if trainer.run().map_err(|error| with_places(error, &folder))? == Outcome::Interrupted {
        println!("continue it with --resume --out {}", folder.display());
        return Ok(());
    }
    println!("trained for {}", human(begin.elapsed()));
    finish(&trainer, &device, &folder, train.pictures)
}

/// Draws predictions and prints the tables of the last validation.
fn finish<R: Present>(trainer: &Trainer<R>, device: &Device, folder: &Path, pictures: usize) -> Result<()> {
    let drawn = folder.join("pictures");
    create_folder(&drawn)?;
    let recipe = trainer.recipe();
    let count = recipe.draw(&trainer.evaluated_model()?, &device.clone().inner(), &drawn, pictures)?;
    print!("{}", recipe.results(folder)?);
    if let Some((iteration, best)) = trainer.best() {
        let path = folder.join(BEST);
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

/// Adds to a training error where the details and the newest checkpoint are.
fn with_places(error: TrainError, folder: &Path) -> Error {
    let TrainError::NonFinite(_) = error else { return error.into() };
    let (details, last) = (folder.join(NON_FINITE), folder.join(LAST));
    let checkpoint = if last.exists() {
        format!("the newest good checkpoint is {}", last.display())
    } else {
        "no checkpoint has been saved yet".to_owned()
    };
    anyhow!("{error}; details are in {}, {checkpoint}", details.display())
}

/// The configuration and the folder of the run. A run that is resumed by its folder alone keeps its configuration.
fn read_config<R: Configured>(arguments: &TrainArguments) -> Result<(RunConfig<R::Task>, PathBuf)> {
    let overrides = arguments.config.overrides();
    let own = arguments.out.as_ref().filter(|_| arguments.resume).map(|folder| folder.join(CONFIG));
    let config: RunConfig<R::Task> = match (&arguments.config.config, own) {
        (Some(path), _) => config::load(path, &overrides)?,
        (None, Some(own)) if own.exists() => config::load(&own, &overrides)?,
        (None, _) => config::load_text(R::DEMO, &overrides, "the built-in demo configuration")?,
    };
    let folder = arguments.out.clone().unwrap_or_else(|| Path::new("runs").join(&config.name));
    Ok((config, folder))
}

fn open_folder(folder: &Path, arguments: &TrainArguments) -> Result<RunFolder> {
    let opened = if arguments.resume {
        RunFolder::resume(folder)
    } else if arguments.overwrite {
        RunFolder::overwrite(folder)
    } else if holds_run(folder) {
        bail!("{} already holds a run; --resume continues it, --overwrite deletes it", folder.display());
    } else {
        RunFolder::create(folder)
    };
    Ok(opened?)
}
