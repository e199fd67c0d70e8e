//! Activation maps: `activation photo.jpg --checkpoint runs/camvid --layer 2.1 --query 0.5,0.5 --out runs/activation`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde_json::json;
use vision_datasets::transforms::Normalize;
use vmamba::analysis::{Decay, MapMode, MapOptions, MapRange};
use vmamba_cli::arguments::share;
use vmamba_cli::options::{DeviceOption, MemoryOption, PhotoOptions};
use vmamba_cli::process;
use vmamba_cli::study_options::{self, OutOption, SeedOption, SizeOption};
use vmamba_report::files::write_whole;
use vmamba_report::println;
use vmamba_study::activation::{Figure, Layer, Photo, Query, Viewer, scene, write_figure};

/// Draw the contribution of each patch of a photo to a query patch: by the unrolled scan of VMamba, for each route and all together, or by
/// the attention of DeiT.
///
/// Writes a figure for each query (PNG and SVG), the maps as NumPy arrays and the settings (activation.json). The colours of a map span the
/// range printed below it, from minimum to maximum; patches that its route has not visited are hatched.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A photo.
    #[arg(required_unless_present = "scene")]
    photo: Option<PathBuf>,
    /// A built-in scene, painted from this seed, instead of a photo.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["photo", "whole"])]
    scene: Option<u64>,
    /// Name of a published model, or a TOML file with the options of a model; not needed with a checkpoint of train_seg or train_det.
    #[arg(long, value_name = "NAME|FILE", required_unless_present = "checkpoint")]
    model: Option<String>,
    /// Weights of a classifier, segmentor or detector, or the folder of a run of train_seg or train_det; random weights without this option.
    #[arg(long, value_name = "FILE|RUN")]
    checkpoint: Option<PathBuf>,
    /// Layer, counted from 0: stage.block of VMamba [default: 2.1], block of DeiT [default: 8].
    #[arg(long)]
    layer: Option<Layer>,
    /// Query as x,y: fractions of width and height from 0 to 1, or pixels after resize and crop as 120px,80px (repeatable).
    #[arg(long, value_name = "X,Y", default_value = "0.5,0.5", allow_hyphen_values = true)]
    query: Vec<Query>,
    #[command(flatten)]
    size: SizeOption,
    /// Keep the whole photo instead of the central square.
    #[arg(long)]
    whole: bool,
    /// Entries of the maps of a scan: CB (paper: Q K'), CwBw (paper: (Q w)(K / w)'), the default, ww (paper: w w^-1), or CBdt and CwBdtw,
    /// multiplied by the step size.
    #[arg(long)]
    mode: Option<MapMode>,
    /// Normalise with mean 0.5 and standard deviation 0.25, as for the published figures, instead of the model's normalisation.
    #[arg(long)]
    paper_normalisation: bool,
    /// Compute the decay of a scan as the published code does, which loses patches before an underflow.
    #[arg(long)]
    official_clamp: bool,
    /// Take the ranges of the routes and of their sum over the maps of all queries, as the published code does; this takes the time of
    /// all queries.
    #[arg(long)]
    range_of_all_queries: bool,
    /// Opacity of the maps over the photo, 0 to 1.
    #[arg(long, default_value_t = 0.6, value_parser = share)]
    alpha: f32,
    /// Width of a panel in the figure in pixels, 180 to 2048; narrower panels have no room for the text below.
    #[arg(long, value_name = "PIXELS", default_value_t = 260, value_parser = clap::value_parser!(u32).range(180..=2048))]
    panel: u32,
    #[command(flatten)]
    seed: SeedOption,
    #[command(flatten)]
    limit: PhotoOptions,
    #[command(flatten)]
    device: DeviceOption,
    #[command(flatten)]
    memory: MemoryOption,
    #[command(flatten)]
    out: OutOption,
}

fn main() -> ExitCode {
    let arguments: Arguments = study_options::parse(&[("size", "512"), ("out", "runs/activation")]);
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    arguments.limit.apply();
    arguments.out.check((0..arguments.query.len()).map(|number| format!("query_{number}.png")))?;
    let (size, seed) = (arguments.size.size, arguments.seed.seed);
    let device = arguments.device.device.open()?;
    let mut viewer = Viewer::load(arguments.model.as_deref(), arguments.checkpoint.as_deref(), seed, &device)?;
    let fits = |height: usize, width: usize| arguments.memory.check(viewer.memory([height, width]), arguments.device.on_cpu());
    if !arguments.whole {
        fits(size, size).context("--size")?;
    }
    let (picture, source) = match (&arguments.photo, arguments.scene) {
        (Some(path), _) => {
            let (photo, place) = (Photo::read(path, size, arguments.whole)?, path.display().to_string());
            let [height, width] = photo.size();
            fits(height, width)
                .with_context(|| format!("{place}: a picture of {width}x{height} pixels (width x height) with --size {size}"))?;
            (photo.picture(), place)
        }
        (None, seed) => (scene(seed.unwrap_or_default(), size)?, format!("scene {}", seed.unwrap_or_default())),
    };
    let dimensions = [picture.width(), picture.height()];
    let queries = arguments.query.iter().map(|query| query.within(dimensions)).collect::<Result<Vec<_>, _>>()?;
    if arguments.paper_normalisation {
        // In levels from 0 to 255.
        viewer.set_normalize(Normalize { mean: [127.5; 3], std: [63.75; 3] });
    }
    let mode = arguments.mode.unwrap_or_default();
    if let Some(conflict) = conflict(arguments, mode, &viewer) {
        Arguments::command().bin_name("activation").error(ErrorKind::ArgumentConflict, conflict).exit();
    }
    let layer = arguments.layer.unwrap_or_else(|| viewer.default_layer());
    if let Err(error) = viewer.check_size(&picture) {
        let hint = if arguments.whole { "; without --whole it is the central square of --size" } else { "; change --size" };
        bail!("{}{hint}", error.line());
    }
    let view = viewer.look(&picture, layer, &device)?;
    let options = MapOptions {
        mode,
        decay: if arguments.official_clamp { Decay::OfficialClamp } else { Decay::Exact },
        range: if arguments.range_of_all_queries { MapRange::AllQueries } else { MapRange::Query },
    };
    let out = &arguments.out.out;
    let _lock = arguments.out.create()?;
    let mut written = Vec::new();
    let maps = viewer.maps(&view, &queries, options)?;
    for (number, (given, maps)) in arguments.query.iter().zip(&maps).enumerate() {
        let figure = Figure {
            title: format!("{}, layer {layer}, {}", viewer.name, maps.describe(mode)),
            alpha: arguments.alpha,
            panel: arguments.panel,
        };
        let files = write_figure(out, &format!("query_{number}"), &picture, maps, &figure)?;
        let (patch, grid) = maps.place();
        println!(
            "query {given}: patch row {}, column {} of {} x {}, {}",
            patch[0],
            patch[1],
            grid[0],
            grid[1],
            out.join(&files[0]).display()
        );
        written.push(json!({"query": given.to_string(), "patch": patch, "grid": grid, "files": files}));
    }
    let Normalize { mean, std } = viewer.normalize();
    // Attention has no options.
    let scan = !viewer.has_attention();
    let settings = json!({
        "picture": source, "size": size, "whole": arguments.whole, "width": dimensions[0], "height": dimensions[1],
        "model": viewer.name, "checkpoint": arguments.checkpoint, "seed": arguments.checkpoint.is_none().then_some(seed),
        "layer": layer.to_string(), "mode": scan.then(|| mode.name()), "official_clamp": scan.then_some(arguments.official_clamp),
        "range_of_all_queries": scan.then_some(arguments.range_of_all_queries), "mean": mean, "std": std, "queries": written,
    });
    write_whole(&out.join("activation.json"), format!("{settings:#}\n").as_bytes())?;
    Ok(())
}

/// An error for options that have no effect on this model.
fn conflict(arguments: &Arguments, mode: MapMode, viewer: &Viewer) -> Option<String> {
    let of_scans = [
        ("--mode", arguments.mode.is_some()),
        ("--official-clamp", arguments.official_clamp),
        ("--range-of-all-queries", arguments.range_of_all_queries),
    ];
    if viewer.has_attention() {
        let given: Vec<&str> = of_scans.into_iter().filter(|(_, given)| *given).map(|(option, _)| option).collect();
        return (!given.is_empty()).then(|| format!("{}: only for scans of VMamba; {} has attention", given.join(", "), viewer.name));
    }
    (arguments.official_clamp && !mode.has_decay()).then(|| format!("--official-clamp: the maps of --mode {} have no decay", mode.name()))
}
