//! Draws the scan routes of SS2D: `routes --grid 8x12 --pattern all --query 4,6 --out runs/routes`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use image::RgbImage;
use serde_json::{Map, Value, json};
use vision_datasets::image_io::read_rgb;
use vision_datasets::scenes::{SceneConfig, SceneDataset};
use vmamba::vmamba::ScanPattern;
use vmamba_cli::options::PhotoOptions;
use vmamba_cli::process;
use vmamba_cli::study_options::{self, OutOption};
use vmamba_report::files::write_whole;
use vmamba_report::println;
use vmamba_study::routes::figure::RouteFigure;
use vmamba_study::routes::{RouteError, pattern_name, place};

/// Longer side of a built-in scene in pixels.
const SCENE: usize = 512;

/// Draw the four scans of SS2D over the patches of an image, and the patches that the result of a query depends on.
///
/// Writes PATTERN.png and PATTERN.svg, the animated PATTERN_context.png, and routes.json with the order of every scan.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Patches down and across, at most 64 each.
    #[arg(long, value_name = "HEIGHTxWIDTH", default_value = "8x12", value_parser = grid)]
    grid: [usize; 2],
    /// Scan pattern.
    #[arg(long, value_enum, default_value_t)]
    pattern: Pattern,
    /// The query patch, counted from 0; the central patch without this option.
    #[arg(long, value_name = "ROW,COLUMN", value_parser = query, allow_hyphen_values = true)]
    query: Option<[i64; 2]>,
    /// A photo under the patches, cropped around its centre to the shape of the grid.
    #[arg(long, value_name = "FILE")]
    photo: Option<PathBuf>,
    /// A built-in scene under the patches, painted from this seed.
    #[arg(long, value_name = "SEED", conflicts_with = "photo")]
    scene: Option<u64>,
    #[command(flatten)]
    limit: PhotoOptions,
    #[command(flatten)]
    out: OutOption,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Pattern {
    /// Rows, columns, and both reversed, as in VMamba.
    #[default]
    Cross,
    /// Rows four times.
    Unidirectional,
    /// Rows twice, and reversed rows twice.
    Bidirectional,
    /// Each row separately in both directions, then each column.
    Cascade,
    /// All patterns.
    All,
}

impl Pattern {
    fn patterns(self) -> Vec<ScanPattern> {
        match self {
            Self::Cross => vec![ScanPattern::Cross],
            Self::Unidirectional => vec![ScanPattern::Unidirectional],
            Self::Bidirectional => vec![ScanPattern::Bidirectional],
            Self::Cascade => vec![ScanPattern::Cascade],
            Self::All => vec![ScanPattern::Cross, ScanPattern::Unidirectional, ScanPattern::Bidirectional, ScanPattern::Cascade],
        }
    }
}

fn grid(text: &str) -> Result<[usize; 2], String> {
    pair(text, 'x', "HEIGHTxWIDTH, such as 8x12")
}

fn query(text: &str) -> Result<[i64; 2], String> {
    pair(text, ',', "ROW,COLUMN, such as 4,6")
}

fn pair<N: FromStr>(text: &str, between: char, form: &str) -> Result<[N; 2], String> {
    let numbers = text.split_once(between).and_then(|(first, second)| Some([first.trim().parse().ok()?, second.trim().parse().ok()?]));
    numbers.ok_or_else(|| format!("must be two whole numbers as {form}"))
}

fn main() -> ExitCode {
    let arguments: Arguments = study_options::parse(&[("out", "runs/routes")]);
    let query = arguments.query.unwrap_or(arguments.grid.map(|side| (side / 2) as i64));
    // A query outside the grid is wrong usage, but shows only once both are parsed.
    let query = place(arguments.grid, query).unwrap_or_else(|error| {
        let [[height, width], [row, column]] = [arguments.grid.map(|side| side as i64), query];
        let option = match error {
            RouteError::Grid(..) => format!("--grid {height}x{width}"),
            RouteError::Query { .. } => format!("--query {row},{column} with --grid {height}x{width}"),
        };
        Arguments::command().bin_name("routes").error(ErrorKind::ValueValidation, format!("{option}: {error}")).exit()
    });
    process::run_tool(|| run(&arguments, query).map(|()| true))
}

fn run(arguments: &Arguments, query: [usize; 2]) -> Result<()> {
    arguments.limit.apply();
    arguments.out.check(
        arguments
            .pattern
            .patterns()
            .into_iter()
            .map(pattern_name)
            .flat_map(|name| [".png", "_context.png"].map(|end| format!("{name}{end}"))),
    )?;
    let photo = photo(arguments)?;
    let out = &arguments.out.out;
    let _lock = arguments.out.create()?;
    let mut patterns = Map::new();
    for pattern in arguments.pattern.patterns() {
        let figure = RouteFigure::new(pattern, arguments.grid, query, photo.clone())?;
        let name = pattern_name(pattern);
        let file = |end: &str| out.join(format!("{name}{end}"));
        figure.write(&file(".png"), &file(".svg"))?;
        figure.write_animation(&file("_context.png"))?;
        println!("{name}: the result of the query depends on {} of {} patches", figure.read(), figure.patches());
        patterns.insert(name.to_owned(), figure.json());
    }
    let under = match (&arguments.photo, arguments.scene) {
        (Some(path), _) => json!({ "photo": path }),
        (None, Some(seed)) => json!({ "scene": seed }),
        (None, None) => Value::Null,
    };
    let document = json!({ "grid": arguments.grid, "query": query, "under": under, "patterns": patterns });
    write_whole(&out.join("routes.json"), format!("{document:#}\n").as_bytes())?;
    println!("results are in {}", out.display());
    Ok(())
}

fn photo(arguments: &Arguments) -> Result<Option<RgbImage>> {
    if let Some(path) = &arguments.photo {
        return Ok(Some(read_photo(path)?));
    }
    let Some(seed) = arguments.scene else { return Ok(None) };
    let longer = arguments.grid[0].max(arguments.grid[1]);
    let [height, width] = arguments.grid.map(|side| (side * SCENE / longer).max(16));
    let scenes = SceneDataset::new(SceneConfig { seed, height, width, ..SceneConfig::default() })?;
    Ok(Some(scenes.scene(0).image))
}

fn read_photo(path: &Path) -> Result<RgbImage> {
    if path.is_dir() {
        bail!("--photo: {} is a folder", path.display());
    }
    read_rgb(path).context("--photo")
}
