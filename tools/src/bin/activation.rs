//! Activation maps: `activation photo.jpg --checkpoint runs/camvid --layer 2.1 --query 0.5,0.5 --out runs/activation`.

use std::path::PathBuf;
use std::process::ExitCode;

use anstream::println;
use anyhow::{Context, Result, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde_json::json;
use vision_datasets::transforms::Normalize;
use vmamba::analysis::{Decay, MapMode, MapOptions, MapRange};
use vmamba_cli::arguments::{share, whole_number};
use vmamba_cli::process;
use vmamba_report::files::write_whole;
use vmamba_study::activation::{Figure, Layer, Query, Viewer, photo, scene, write_figure};
use vmamba_train::DeviceChoice;

/// Draw which patches of a photo contribute to a query patch: the scan of VMamba unrolled, for every route and together; the attention of
/// DeiT.
///
/// Writes a figure a query (PNG and SVG), the maps for NumPy (.npy) and the settings (activation.json). In a figure the colours of every
/// map go from the first to the second number beneath it, its least and greatest value; patches that its route has not visited are hatched.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A photo.
    #[arg(required_unless_present = "scene")]
    photo: Option<PathBuf>,
    /// A built-in scene from this seed instead of a photo.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["photo", "whole"])]
    scene: Option<u64>,
    /// Name of a published model, or a .toml file with the options of one; a checkpoint of train_seg or train_det needs none.
    #[arg(long, value_name = "NAME|FILE", required_unless_present = "checkpoint")]
    model: Option<String>,
    /// Weights: of a classifier, segmentor or detector, or the folder of a run of train_seg or train_det. Random ones without it.
    #[arg(long, value_name = "FILE|RUN")]
    checkpoint: Option<PathBuf>,
    /// Layer, counted from 0: stage.block of VMamba (2.1 when left out), block of DeiT (8 when left out).
    #[arg(long)]
    layer: Option<Layer>,
    /// Query as x,y: parts of width and height from 0 to 1, or pixels after resize and crop as 120px,80px; may be given several times.
    #[arg(long, value_name = "X,Y", default_value = "0.5,0.5", allow_hyphen_values = true)]
    query: Vec<Query>,
    /// The shorter side is resized to this, and the middle square cut out.
    #[arg(long, value_name = "PIXELS", default_value_t = 512, value_parser = whole_number)]
    size: usize,
    /// Keep all of the photo.
    #[arg(long)]
    whole: bool,
    /// What entries of a scan are made of: CB (paper: Q K'), CwBw (paper: (Q w)(K / w)', when left out), ww (paper: w w^-1), or CBdt and
    /// CwBdtw, times the step size.
    #[arg(long)]
    mode: Option<MapMode>,
    /// Normalise with mean 0.5 and standard deviation 0.25, as the published figures, instead of the model's own numbers.
    #[arg(long)]
    paper_normalisation: bool,
    /// Compute the decay of a scan as the published code, which loses what lies behind an underflow.
    #[arg(long)]
    official_clamp: bool,
    /// Take least and greatest value of the routes and of their sum over the maps of all queries of a scan, as the published code; takes
    /// as long as that many queries.
    #[arg(long)]
    range_of_all_queries: bool,
    /// Opacity of the maps over the photo, 0 to 1.
    #[arg(long, default_value_t = 0.6, value_parser = share)]
    alpha: f32,
    /// Width of a panel in the figure in pixels, 180 to 2048: the words beneath it need as much.
    #[arg(long, default_value_t = 260, value_parser = clap::value_parser!(u32).range(180..=2048))]
    panel: u32,
    /// Seed of random weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Device: `cpu`, `cuda[:n]` or `vulkan[:n]`.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
    /// Folder for the results.
    #[arg(long, value_name = "DIR", default_value = "runs/activation")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments).map(|()| true))
}

fn run(arguments: &Arguments) -> Result<()> {
    let (picture, source) = match (&arguments.photo, arguments.scene) {
        (Some(path), _) => (photo(path, arguments.size, arguments.whole)?, path.display().to_string()),
        (None, seed) => (scene(seed.unwrap_or_default(), arguments.size)?, format!("scene {}", seed.unwrap_or_default())),
    };
    let dimensions = [picture.width(), picture.height()];
    let queries = arguments.query.iter().map(|query| query.within(dimensions)).collect::<Result<Vec<_>>>()?;
    let device = arguments.device.open()?;
    let mut viewer = Viewer::load(arguments.model.as_deref(), arguments.checkpoint.as_deref(), arguments.seed, &device)?;
    if arguments.paper_normalisation {
        // Levels of 0 to 255.
        viewer.set_normalize(Normalize { mean: [127.5; 3], std: [63.75; 3] });
    }
    let mode = arguments.mode.unwrap_or_default();
    if let Some(meaningless) = meaningless(arguments, mode, &viewer) {
        Arguments::command().bin_name("activation").error(ErrorKind::ArgumentConflict, meaningless).exit();
    }
    let layer = arguments.layer.unwrap_or_else(|| viewer.default_layer());
    if let Err(error) = viewer.check_size(&picture) {
        let hint = if arguments.whole { "; without --whole it is the middle square of --size" } else { "; change --size" };
        bail!("{error:#}{hint}");
    }
    let view = viewer.look(&picture, layer, &device)?;
    let options = MapOptions {
        mode,
        decay: if arguments.official_clamp { Decay::OfficialClamp } else { Decay::Exact },
        range: if arguments.range_of_all_queries { MapRange::AllQueries } else { MapRange::Query },
    };
    let out = &arguments.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot write to {}", out.display()))?;
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
    // Of attention there is nothing to choose.
    let scan = !viewer.has_attention();
    let settings = json!({
        "picture": source, "size": arguments.size, "whole": arguments.whole, "width": dimensions[0], "height": dimensions[1],
        "model": viewer.name, "checkpoint": arguments.checkpoint, "seed": arguments.checkpoint.is_none().then_some(arguments.seed),
        "layer": layer.to_string(), "mode": scan.then(|| mode.name()), "official_clamp": scan.then_some(arguments.official_clamp),
        "range_of_all_queries": scan.then_some(arguments.range_of_all_queries), "mean": mean, "std": std, "queries": written,
    });
    Ok(write_whole(&out.join("activation.json"), format!("{settings:#}\n").as_bytes())?)
}

/// Says which of the options changes nothing for this model.
fn meaningless(arguments: &Arguments, mode: MapMode, viewer: &Viewer) -> Option<String> {
    let of_scans = [
        ("--mode", arguments.mode.is_some()),
        ("--official-clamp", arguments.official_clamp),
        ("--range-of-all-queries", arguments.range_of_all_queries),
    ];
    if viewer.has_attention() {
        let given: Vec<&str> = of_scans.into_iter().filter(|(_, given)| *given).map(|(option, _)| option).collect();
        return (!given.is_empty()).then(|| format!("{}: for the scan of VMamba, and {} has attention", given.join(", "), viewer.name));
    }
    (arguments.official_clamp && !mode.has_decay())
        .then(|| format!("--official-clamp: how the decay is computed, which --mode {} leaves out", mode.name()))
}
