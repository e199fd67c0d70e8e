//! Effective receptive fields: `erf --models vmamba_tiny_s1l8,swin_tiny --data data/imagenet/val --out runs/erf`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstream::{eprintln, print, println};
use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use vmamba_cli::arguments::{model_and_file, whole_number};
use vmamba_cli::process;
use vmamba_report::heatmap::ColourMap;
use vmamba_study::ablation::AblationConfig;
use vmamba_study::erf::{self, Field, Images, Look, Settings, State};
use vmamba_train::DeviceChoice;

/// Draw the effective receptive field of models, before and after training: which pixels the unit in the middle of the last map depends on.
///
/// Writes one figure with one colour bar (erf.png, erf.svg), the areas that hold 20, 30, 50 and 99 % of the contribution (erf.md, erf.csv,
/// erf.json), and the maps themselves, not normalised, for NumPy (MODEL_before.npy, MODEL_after.npy).
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Models by name (a wrong one lists all), or .toml files with the options of one.
    #[arg(long, value_delimiter = ',', value_name = "NAME|FILE")]
    models: Vec<String>,
    /// Figures of variants, such as configs/erf/initialisation.toml.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Weights of a model, as `swin_tiny=FILE`; may be given several times. A run folder of train_seg or train_det, or a checkpoint of
    /// theirs, may have a name of its own, as `mine=runs/scenes`: it brings its model. The name of a published model must be of that model.
    #[arg(long, value_parser = model_and_file, value_name = "MODEL=FILE")]
    checkpoint: Vec<(String, PathBuf)>,
    /// Only the weights of checkpoints, no random ones; models without a checkpoint are left out.
    #[arg(long, requires = "checkpoint")]
    trained_only: bool,
    /// Folder with images in any layout; built-in scenes without it.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Side in pixels: the shorter side of an image is resized to it, and the middle is cut out.
    #[arg(long, default_value_t = 1024, value_parser = whole_number)]
    size: usize,
    /// Images to take the mean of; a warning tells when fewer could be used.
    #[arg(long, default_value_t = 50, value_parser = whole_number)]
    images: usize,
    /// Seed of the choice of images and of random weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Power that contributions are raised to in the figure.
    #[arg(long, default_value_t = 0.2, value_parser = positive)]
    power: f64,
    /// Colours of the figure.
    #[arg(long, value_enum, default_value = "yellow-green")]
    colours: Colours,
    /// Draw the squares of the table into the figure.
    #[arg(long)]
    squares: bool,
    /// Title of the figure.
    #[arg(long)]
    title: Option<String>,
    /// Width of a map in the figure in pixels, 160 to 2048: the words beneath it need as much.
    #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u32).range(160..=2048))]
    panel: u32,
    /// Device: `cpu`, `cuda[:n]` or `vulkan[:n]`.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Folder for the results.
    #[arg(long, default_value = "runs/erf")]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Colours {
    /// As published: the upper half of RdYlGn.
    YellowGreen,
    /// All of RdYlGn.
    RedYellowGreen,
    /// Even to the eye.
    Viridis,
    /// Even to the eye.
    Inferno,
}

/// The models of the paper's figure.
const MODELS: [&str; 6] = ["resnet50", "convnext_tiny", "swin_tiny", "deit_small", "hivit_tiny", "vmamba_tiny_s1l8"];

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| *number > 0.0 && number.is_finite()).ok_or_else(|| format!("`{text}` is no number above 0"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<bool> {
    let configs = arguments.config.iter().map(|path| AblationConfig::read(path)).collect::<Result<Vec<_>>>().context("--config")?;
    let nothing_named = arguments.models.is_empty() && configs.is_empty() && arguments.checkpoint.is_empty();
    let models = if nothing_named { MODELS.map(str::to_owned).into() } else { arguments.models.clone() };
    let subjects = erf::subjects(&models, &configs, &arguments.checkpoint)?;
    let mut images = match &arguments.data {
        Some(root) => Images::in_folder(root, arguments.size, arguments.images, arguments.seed).context("--data")?,
        None => Images::scenes(arguments.size, arguments.images, arguments.seed)?,
    };
    let settings = Settings { size: arguments.size, images: arguments.images, seed: arguments.seed, device: arguments.device.open()? };
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
    let out = &arguments.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot write to {}", out.display()))?;
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
                eprintln!("interrupted; the results are of what was finished before");
            }
            Ok(complete)
        }
        (Ok(_), Err(error)) => Err(error),
        (Err(error), Ok(())) => {
            if !fields.is_empty() {
                eprintln!("stopped by an error; the results are of what was finished before");
            }
            Err(error)
        }
        (Err(error), Err(report)) => {
            eprintln!("warning: no report of what was finished before: {report:#}");
            Err(error)
        }
    }
}

/// Writes what is finished, and says which fields are of fewer images than asked for.
fn report(out: &Path, fields: &[Field], complete: bool, images: &Images, settings: &Settings, look: &Look) -> Result<()> {
    if fields.is_empty() {
        return Ok(());
    }
    print!("{}", erf::write_report(out, fields, complete, images, settings, look)?.text());
    println!("written to {}", out.display());
    for shortage in fields.iter().filter_map(Field::shortage) {
        eprintln!("warning: {shortage}");
    }
    Ok(())
}
