//! Effective receptive fields: `erf --models vmamba_tiny_s1l8,swin_tiny --data data/imagenet/val --out runs/erf`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use vmamba_cli::arguments::{count, positive};
use vmamba_cli::options::{DeviceOption, MemoryOption, PhotoOptions};
use vmamba_cli::process;
use vmamba_cli::study_options::{self, CheckpointsOption, OutOption, SeedOption, SizeOption};
use vmamba_report::heatmap::ColourMap;
use vmamba_report::{eprintln, print, println};
use vmamba_study::ablation::AblationConfig;
use vmamba_study::erf::{self, Field, Images, Look, Settings, State};

/// Draw the effective receptive field of models before and after training: the pixels on which the central unit of the last map depends.
///
/// Writes one figure with one colour bar (erf.png, erf.svg), the squares that hold 20, 30, 50 and 99 % of the contribution (erf.md, erf.csv,
/// erf.json), and the maps, not normalised, as NumPy arrays (MODEL_before.npy, MODEL_after.npy).
///
/// A checkpoint of train_seg or train_det, or the folder of its run, brings its model: --checkpoint mine=runs/scenes.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Models by name (an unknown name lists all), or TOML files with the options of a model.
    #[arg(long, value_delimiter = ',', value_name = "NAME|FILE,...")]
    models: Vec<String>,
    /// Configurations of variants, such as configs/erf/initialisation.toml (repeatable).
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    #[command(flatten)]
    checkpoints: CheckpointsOption,
    /// Leave out random weights, and models without a checkpoint.
    #[arg(long, requires = "checkpoint")]
    trained_only: bool,
    /// Folder with images in any layout; built-in scenes without this option.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    size: SizeOption,
    /// Number of images in the mean.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = count)]
    images: usize,
    #[command(flatten)]
    seed: SeedOption,
    /// Exponent of the contributions in the figure.
    #[arg(long, value_name = "EXPONENT", default_value_t = 0.2, value_parser = positive)]
    power: f64,
    /// Colour map of the figure.
    #[arg(long, value_enum, default_value = "yellow-green")]
    colours: Colours,
    /// Draw the squares of the table.
    #[arg(long)]
    squares: bool,
    /// Title of the figure.
    #[arg(long)]
    title: Option<String>,
    /// Width of a map in the figure in pixels, 160 to 2048; narrower maps have no room for the text below.
    #[arg(long, value_name = "PIXELS", default_value_t = 240, value_parser = clap::value_parser!(u32).range(160..=2048))]
    panel: u32,
    #[command(flatten)]
    limit: PhotoOptions,
    #[command(flatten)]
    device: DeviceOption,
    #[command(flatten)]
    memory: MemoryOption,
    #[command(flatten)]
    out: OutOption,
}

#[derive(Clone, Copy, ValueEnum)]
enum Colours {
    /// The upper half of RdYlGn, as published.
    YellowGreen,
    /// All of RdYlGn.
    RedYellowGreen,
    /// Perceptually uniform.
    Viridis,
    /// Perceptually uniform.
    Inferno,
}

/// The models of the figure in the paper.
const MODELS: [&str; 6] = ["resnet50", "convnext_tiny", "swin_tiny", "deit_small", "hivit_tiny", "vmamba_tiny_s1l8"];

fn main() -> ExitCode {
    let arguments: Arguments = study_options::parse(&[("size", "1024"), ("out", "runs/erf")]);
    process::run_tool(|| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<bool> {
    arguments.limit.apply();
    arguments.out.check(["erf.png".to_owned()])?;
    let configs = arguments.config.iter().map(|path| AblationConfig::read(path)).collect::<Result<Vec<_>, _>>().context("--config")?;
    let nothing_named = arguments.models.is_empty() && configs.is_empty() && arguments.checkpoints.checkpoint.is_empty();
    let models = if nothing_named { MODELS.map(str::to_owned).into() } else { arguments.models.clone() };
    let subjects = erf::subjects(&models, &configs, &arguments.checkpoints.checkpoint)?;
    let (size, seed) = (arguments.size.size, arguments.seed.seed);
    for subject in &subjects {
        subject.check(size)?;
        arguments.memory.check(subject.memory(size), arguments.device.on_cpu())?;
    }
    let mut images = match &arguments.data {
        Some(root) => Images::in_folder(root, size, arguments.images, seed).context("--data")?,
        None => Images::scenes(size, arguments.images, seed)?,
    };
    let settings = Settings { size, images: arguments.images, seed, device: arguments.device.device.open()? };
    let title = match (&arguments.title, configs.as_slice()) {
        (Some(title), _) => title.clone(),
        (None, [config]) => format!("Effective receptive fields: {}", config.title),
        _ => "Effective receptive fields".to_owned(),
    };
    let colours = match arguments.colours {
        Colours::YellowGreen => ColourMap::YellowGreen,
        Colours::RedYellowGreen => ColourMap::RedYellowGreen,
        Colours::Viridis => ColourMap::Viridis,
        Colours::Inferno => ColourMap::Inferno,
    };
    let look = Look { title, power: arguments.power, colours, squares: arguments.squares, panel: arguments.panel };
    let states: &[State] = if arguments.trained_only { &[State::After] } else { &[State::Before, State::After] };
    let out = &arguments.out.out;
    let _lock = arguments.out.create()?;
    let mut fields = Vec::new();
    let outcome = erf::run(&subjects, states, &mut images, &settings, &process::interrupted(), |field| {
        let path = erf::write_field(out, &field, settings.size)?;
        println!("{} {}: {} images, {}", field.model, field.state.words(), field.images.len(), path.display());
        fields.push(field);
        Ok(())
    });
    let complete = matches!(outcome, Ok(true));
    let report = report(out, &fields, complete, &images, &settings, &look);
    match (outcome, report) {
        (Ok(complete), Ok(())) => {
            if !complete {
                eprintln!("interrupted; the results cover the finished models");
            }
            Ok(complete)
        }
        (Ok(_), Err(error)) => Err(error),
        (Err(error), Ok(())) => {
            if !fields.is_empty() {
                eprintln!("stopped by an error; the results cover the finished models");
            }
            Err(error.into())
        }
        (Err(error), Err(report)) => {
            eprintln!("warning: the report of the finished models failed: {report:#}");
            Err(error.into())
        }
    }
}

/// Writes the report of the finished fields, and warns of fields with too few images.
fn report(out: &Path, fields: &[Field], complete: bool, images: &Images, settings: &Settings, look: &Look) -> Result<()> {
    if fields.is_empty() {
        return Ok(());
    }
    print!("{}", erf::write_report(out, fields, complete, images, settings, look)?.text());
    println!("results are in {}", out.display());
    for shortage in fields.iter().filter_map(Field::shortage) {
        eprintln!("warning: {shortage}");
    }
    Ok(())
}
