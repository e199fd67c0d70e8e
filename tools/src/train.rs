//! A training program: reads the configuration, trains, draws predictions and prints the results.

use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow};
use burn::prelude::Device;
use clap::Args;
use vision_datasets::memory::bytes;
use vmamba::checkpoint::LoadReport;
use vmamba_recipes::{Configured, Init, RunConfig, config};
use vmamba_report::console::human;
use vmamba_report::run_folder::{BEST, Holds, LAST, NON_FINITE, holds_run};
use vmamba_report::{Console, ReportError, RunFolder, RunPictures, print, println};
use vmamba_train::{DeviceChoice, DeviceGroup, Outcome, TrainError, Trainer};

use crate::options::{ConfigOptions, DeviceOption, MemoryOption, PhotoOptions, check_out};
use crate::present::Present;
use crate::process::{described, interrupted};

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
    let Start { mut config, folder, resumed } = start::<R>(arguments)?;
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

    // Every setting is checked, and the checkpoint of a resumed run is loaded, before a file is touched.
    let text = toml::to_string(&config).context("the configuration cannot be written as TOML")?;
    let mut trainer = builder.build_on(group)?;
    let mut run = match resumed {
        Some(Resumed { mut run, recorded }) => {
            trainer.resume(&run.last())?;
            if let Some(repair) = run.repair_log()? {
                println!("{repair}");
            }
            for difference in config::differences(&recorded, &text)? {
                println!("changed since the run began: {difference}");
            }
            run
        }
        None => new_run(&folder, arguments.overwrite)?,
    };
    run.write_config(&text)?;
    let pictures = run.pictures();
    trainer.observe(run);

    let (params, flops) = (cost.params as f64 / 1e6, cost.flops() as f64 / 1e9);
    println!("{name}: {params:.2} M parameters, {flops:.2} GFLOPs at {height}x{width}");
    if !arguments.resume {
        println!("{}", describe_start(init, report.as_ref()));
    }
    println!("{data}");
    println!("estimated memory: {} ({estimate})", bytes(estimate.total()));
    for note in train.schedule.notes(trainer.length()) {
        println!("note: {note}");
    }
    if devices > 1 {
        println!("training on {devices} devices, {} images a step", devices as u64 * train.step_size());
    }
    if arguments.resume {
        let (done, iterations) = (trainer.iteration(), trainer.length().iterations);
        println!("resumed after iteration {done}");
        if done >= iterations {
            println!("nothing is left to train: the run has done {done} iterations, and the configuration asks for {iterations}");
        }
    }
    let begin = std::time::Instant::now();
    if trainer.run().map_err(|error| with_places(error, &folder))? == Outcome::Interrupted {
        println!("continue it with --resume --out {}", folder.display());
        return Ok(());
    }
    println!("trained for {}", human(begin.elapsed()));
    finish(&trainer, &device, &folder, &pictures, train.pictures)
}

/// Draws predictions and prints the tables of the last validation.
fn finish<R: Present>(trainer: &Trainer<R>, device: &Device, folder: &Path, drawn: &Path, pictures: usize) -> Result<()> {
    let recipe = trainer.recipe();
    let count = recipe.draw(&trainer.evaluated_model()?, &device.clone().inner(), &mut RunPictures::open(drawn)?, pictures)?;
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
    let details = match &error {
        TrainError::NonFinite(_) => format!("details are in {}, ", folder.join(NON_FINITE).display()),
        TrainError::Observer(_) | TrainError::Recipe(_) | TrainError::Save(_) | TrainError::Lost { .. } | TrainError::DataEnded { .. } => {
            String::new()
        }
        _ => return error.into(),
    };
    let last = folder.join(LAST);
    if last.exists() {
        anyhow!("{error}; {details}the newest good checkpoint is {}", last.display())
    } else {
        anyhow!("{error}; {details}no checkpoint has been saved yet: start again with --overwrite")
    }
}

/// How a run starts.
struct Start<R: Configured> {
    config: RunConfig<R::Task>,
    folder: PathBuf,
    resumed: Option<Resumed>,
}

/// A run that is resumed.
struct Resumed {
    run: RunFolder,
    /// The configuration of the run so far.
    recorded: String,
}

/// Reads the configuration. A resumed run is locked, and without --config it keeps its own configuration. The folder is checked before
/// the data are opened.
fn start<R: Configured>(arguments: &TrainArguments) -> Result<Start<R>> {
    let start = find::<R>(arguments)?;
    if start.resumed.is_none() && !arguments.show_groups {
        check_out(&start.folder)?;
    }
    vmamba_files::reserve_all_in("--out", &RunFolder::pictures_in(&start.folder));
    Ok(start)
}

/// Reads the configuration and finds the folder.
fn find<R: Configured>(arguments: &TrainArguments) -> Result<Start<R>> {
    let overrides = arguments.config.overrides();
    let demo = || config::load_text(R::DEMO, &overrides, "the built-in demo configuration");
    let given: Option<RunConfig<R::Task>> = arguments.config.config.as_ref().map(|path| config::load(path, &overrides)).transpose()?;
    let folder_of = |config: &RunConfig<R::Task>| arguments.out.clone().unwrap_or_else(|| Path::new("runs").join(&config.name));
    if !arguments.resume {
        let config = given.map_or_else(demo, Ok)?;
        return Ok(Start { folder: folder_of(&config), config, resumed: None });
    }
    let folder = match (&arguments.out, &given) {
        (Some(out), _) => out.clone(),
        (None, Some(config)) => folder_of(config),
        (None, None) => folder_of(&config::load_text(R::DEMO, &[], "the built-in demo configuration")?),
    };
    let run = RunFolder::resume(&folder).map_err(with_advice)?;
    let recorded = recorded_config::<R>(&run)?;
    let config = given.map_or_else(|| config::load_text(&recorded, &overrides, &run.config().display().to_string()), Ok)?;
    Ok(Start { config, folder, resumed: Some(Resumed { run, recorded }) })
}

/// The configuration of a run: that of its folder, or where this is missing or damaged, that of its checkpoint.
fn recorded_config<R: Configured>(run: &RunFolder) -> Result<String> {
    let (path, last) = (run.config(), run.last());
    let recorded = || -> Result<String> {
        let text = vmamba_files::read_text(&path).with_context(|| format!("cannot read {}", path.display()))?;
        config::load_text::<RunConfig<R::Task>>(&text, &[], &path.display().to_string())?;
        Ok(text)
    };
    let reason = match recorded() {
        Ok(text) => return Ok(text),
        Err(reason) => reason,
    };
    let stored = RunConfig::<R::Task>::of_checkpoint(&last).with_context(|| format!("{reason:#}, and the checkpoint does not help"))?;
    let reason = described(&reason).lines().map(str::trim).collect::<Vec<_>>().join(" ");
    println!("the run keeps the configuration in {}: {reason}", last.display());
    toml::to_string(&stored).context("the configuration cannot be written as TOML")
}

/// The folder of a run that is not resumed.
fn new_run(folder: &Path, overwrite: bool) -> Result<RunFolder> {
    let opened = if overwrite { RunFolder::overwrite(folder) } else { RunFolder::create(folder) };
    opened.map_err(with_advice)
}

/// Names the options that help.
fn with_advice(error: ReportError) -> Error {
    match &error {
        ReportError::HoldsRun { path } if holds_run(path) == Holds::Checkpoint => {
            anyhow!("{} already holds a run; --resume continues it, --overwrite deletes it", path.display())
        }
        ReportError::HoldsRun { path } => anyhow!(
            "{} holds a run that ended before its first checkpoint, so there is nothing to resume; --overwrite deletes it",
            path.display()
        ),
        ReportError::EndedTooEarly { path } => {
            anyhow!("nothing to resume: the run in {} ended before its first checkpoint; start again with --overwrite", path.display())
        }
        ReportError::NothingToResume { .. } => anyhow!("{error}; start without --resume, or name the folder of a run with --out"),
        _ => error.into(),
    }
}
