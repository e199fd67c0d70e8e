//! The report of receptive fields: a figure with one colour bar, tables of the squares, and the maps.

use std::path::{Path, PathBuf};

use serde_json::json;
use vmamba_report::files::write_whole;
use vmamba_report::heatmap::{ColourMap, HeatMap, HeatMapGrid, Mark, Panel, Sample};
use vmamba_report::npy::write_npy;
use vmamba_report::tables::{Cell, Table};

use super::subjects::file_name;
use super::{Field, Images, SHARES, Settings, Square, State};
use crate::error::Result;

/// Colours of the squares of [`SHARES`]; distinguishable by colour-blind readers and dark enough for pale backgrounds.
const SQUARE_COLOURS: [[u8; 3]; 4] = [[20, 20, 20], [0, 90, 220], [213, 60, 0], [190, 40, 160]];

/// The look of the figure.
#[derive(Clone, Debug)]
pub struct Look {
    /// Title above the figure.
    pub title: String,
    /// Exponent of the contributions in the figure; 0.2 in the paper.
    pub power: f64,
    /// Colour map.
    pub colours: ColourMap,
    /// Whether to draw the squares of the table.
    pub squares: bool,
    /// Width of a panel in pixels.
    pub panel: u32,
}

/// Writes the map of a field, float32 `[height, width]`, not normalised, into `folder`. Returns the path.
///
/// # Errors
/// When it cannot be written.
pub fn write_field(folder: &Path, field: &Field, size: usize) -> Result<PathBuf> {
    let state = if field.state == State::Before { "before" } else { "after" };
    let path = folder.join(format!("{}_{state}.npy", file_name(&field.model)));
    write_npy(&path, &field.map, &[size, size])?;
    Ok(path)
}

/// Writes `erf.png`, `erf.svg`, `erf.md`, `erf.csv` and `erf.json` into `folder` and returns the table. `complete`: whether every possible
/// field is present, so that an empty panel means a missing checkpoint.
///
/// # Errors
/// When there is no field, or a file cannot be written.
pub fn write_report(folder: &Path, fields: &[Field], complete: bool, images: &Images, settings: &Settings, look: &Look) -> Result<Table> {
    figure(fields, complete, settings, look)?.write(Some(&folder.join("erf.png")), Some(&folder.join("erf.svg")))?;
    let table = table(fields);
    let shortages: String = fields.iter().filter_map(Field::shortage).map(|shortage| format!("* {shortage}\n")).collect();
    let shortages = if shortages.is_empty() { shortages } else { format!("\n{shortages}") };
    let markdown = format!(
        "# {}\n\nThe smallest square around the centre that holds a share of the contribution: its side in pixels, and its area over that of \
         the image. Contributions are not normalised. {} x {} pixels, {} images requested from {}, seed {}; {} could not be \
         read.\n{shortages}\n{}\n![Effective receptive fields](erf.png)\n\nThe figure shows contributions to the power {}, each map divided by its largest value.\n",
        look.title,
        settings.size,
        settings.size,
        settings.images,
        images.describe(),
        settings.seed,
        images.unreadable().len(),
        table.markdown(),
        look.power,
    );
    write_whole(&folder.join("erf.md"), markdown.as_bytes())?;
    write_whole(&folder.join("erf.csv"), table.csv().as_bytes())?;
    let document = json!({
        "size": settings.size, "images_wanted": settings.images, "seed": settings.seed, "power": look.power, "source": images.describe(),
        "unreadable": images.unreadable(), "fields": fields,
    });
    write_whole(&folder.join("erf.json"), format!("{document:#}\n").as_bytes())?;
    Ok(table)
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 100.0).round())
}

fn table(fields: &[Field]) -> Table {
    let mut columns: Vec<String> = ["model", "weights", "images", "not finite"].map(str::to_owned).into();
    columns.extend(SHARES.iter().flat_map(|share| [format!("side for {}", percent(*share)), format!("area for {} in %", percent(*share))]));
    columns.push("remark".to_owned());
    let mut table = Table::new(columns);
    for field in fields {
        let weights = match &field.checkpoint {
            Some(path) => path.display().to_string(),
            None => "random".to_owned(),
        };
        let mut row: Vec<Cell> =
            vec![field.model.as_str().into(), weights.into(), field.images.len().into(), field.not_finite.len().into()];
        for square in &field.squares {
            row.push(square.side.into());
            row.push(square.area.map_or(Cell::Missing, |area| Cell::Number(area * 100.0, 3)));
        }
        row.push(field.remark.as_str().into());
        table.push(row);
    }
    table
}

/// The figure: a column for each model, a row for each state.
fn figure(fields: &[Field], complete: bool, settings: &Settings, look: &Look) -> Result<HeatMapGrid> {
    let mut models: Vec<&str> = Vec::new();
    for field in fields {
        if !models.contains(&field.model.as_str()) {
            models.push(&field.model);
        }
    }
    let states: Vec<State> =
        [State::Before, State::After].into_iter().filter(|state| fields.iter().any(|field| field.state == *state)).collect();
    let of = |model: &str, state: State| fields.iter().find(|field| field.model == model && field.state == state);
    let panel = |model: &&str, state: State| of(model, state).map(|field| panel(field, settings, look)).transpose();
    let row = |state: &State| models.iter().map(|model| panel(model, *state)).collect::<Result<Vec<_>>>();
    let remark = |model: &&str| {
        let remark = fields.iter().find(|field| field.model == **model).map_or("", |field| &field.remark);
        if remark.is_empty() { (*model).to_owned() } else { format!("{model}, {remark}") }
    };
    Ok(HeatMapGrid {
        title: look.title.clone(),
        columns: models.iter().map(remark).collect(),
        rows: states.iter().map(|state| state.words().to_owned()).collect(),
        panels: states.iter().map(row).collect::<Result<Vec<_>>>()?,
        empty: if complete { "no checkpoint" } else { "no result" }.to_owned(),
        colours: look.colours,
        range: Some([0.0, 1.0]),
        bar_ends: None,
        bar_label: format!("(contribution / largest)^{}", look.power),
        legend: if look.squares { legend() } else { Vec::new() },
        panel_width: look.panel,
    })
}

fn panel(field: &Field, settings: &Settings, look: &Look) -> Result<Panel> {
    let powered: Vec<f32> = field.map.iter().map(|value| value.powf(look.power as f32)).collect();
    let largest = powered.iter().copied().fold(0.0, f32::max);
    // A field without a positive value is all zeros.
    let scale = if largest > 0.0 { largest.recip() } else { 0.0 };
    let map = HeatMap::new(powered.iter().map(|value| value * scale).collect(), [settings.size; 2])?;
    let mut panel = Panel::new(map);
    let half = field.squares.iter().find(|square| square.share == 0.5).and_then(|square| square.area);
    panel.note = half.map(|area| format!("50 %: {:.2} % of area", area * 100.0)).unwrap_or_default();
    if field.images_used < field.images_wanted {
        panel.note.push_str(&format!("\nonly {} of {} images", field.images_used, field.images_wanted));
    }
    if look.squares {
        let middle = (settings.size / 2) as f32;
        let outline = |(square, colour): (&Square, [u8; 3])| {
            let side = square.side?;
            Some(Mark::Outline { at: [middle - (side / 2) as f32; 2], size: [side as f32; 2], colour })
        };
        panel.marks = field.squares.iter().zip(SQUARE_COLOURS).filter_map(outline).collect();
    }
    Ok(panel)
}

/// The legend of the squares.
fn legend() -> Vec<(Sample, String)> {
    let words = |share: f64| format!("{} of the contribution", percent(share));
    SHARES.into_iter().zip(SQUARE_COLOURS).map(|(share, colour)| (Sample::Outline(colour), words(share))).collect()
}
