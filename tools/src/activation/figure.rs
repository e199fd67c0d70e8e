//! The figure of a query, and its arrays.

use std::path::Path;

use anyhow::Result;
use image::RgbImage;
use vision_ops::Route;

use super::Maps;
use crate::report::heatmap::{ColourMap, HeatMap, HeatMapGrid, Mark, Panel};
use crate::report::npy::write_npy;

/// Panels of a row.
const COLUMNS: usize = 4;

/// What a figure says besides its maps.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Above the figure.
    pub title: String,
    /// Opacity of the maps over the picture.
    pub alpha: f32,
    /// Width of a panel in pixels.
    pub panel: u32,
}

/// Writes `<stem>.png` and `<stem>.svg` with the picture and all maps over it, each between 0 and 1, and the arrays as `<stem>_<name>.npy`.
/// Returns the names of the files.
///
/// # Errors
/// When a file cannot be written.
pub fn write_figure(folder: &Path, stem: &str, picture: &RgbImage, maps: &Maps, figure: &Figure) -> Result<Vec<String>> {
    let (query, size) = maps.place();
    let marks = || {
        let [row, column] = query.map(|place| place as f32);
        vec![Mark::Outline([row, column], [1.0, 1.0]), Mark::Cross([row + 0.5, column + 0.5])]
    };
    let panel = |values: &[f32], note: &str, alpha: f32| -> Result<Option<Panel>> {
        let map = HeatMap::new(values.to_vec(), size)?;
        Ok(Some(Panel { map, photo: Some(picture.clone()), alpha, marks: marks(), note: note.to_owned() }))
    };
    let plain = vec![0.0; size[0] * size[1]];
    let mut panels = vec![panel(&plain, "picture and query", 0.0)?];
    let mut arrays: Vec<(&str, Vec<f32>, Vec<usize>)> = Vec::new();
    let plane = size.to_vec();
    match maps {
        Maps::Scan(maps) => {
            panels.push(panel(&maps.all, "all: sum of routes", figure.alpha)?);
            panels.push(panel(&maps.nall, "nall: mean of routes", figure.alpha)?);
            panels.push(None);
            for route in &maps.routes {
                panels.push(panel(&route.normalised, route_name(route.route), figure.alpha)?);
            }
            let raw: Vec<f32> = maps.routes.iter().flat_map(|route| route.raw.iter().copied()).collect();
            arrays.push(("routes", raw, [&[maps.routes.len()], &size[..]].concat()));
            arrays.push(("sum", maps.sum.clone(), plane.clone()));
            arrays.push(("all", maps.all.clone(), plane.clone()));
            arrays.push(("nall", maps.nall.clone(), plane));
        }
        Maps::Attention(row) => {
            panels.push(panel(&between(&row.mean), "mean of heads", figure.alpha)?);
            panels.push(panel(&between(&row.normalised), "mean of heads from 0 to 1", figure.alpha)?);
            panels.push(None);
            for (number, head) in row.heads.iter().enumerate() {
                panels.push(panel(&between(head), &format!("head {number}"), figure.alpha)?);
            }
            arrays.push(("heads", row.heads.concat(), [&[row.heads.len()], &size[..]].concat()));
            arrays.push(("mean", row.mean.clone(), plane.clone()));
            arrays.push(("normalised", row.normalised.clone(), plane));
        }
    }
    let grid = HeatMapGrid {
        title: figure.title.clone(),
        columns: Vec::new(),
        rows: Vec::new(),
        panels: panels.chunks(COLUMNS).map(<[_]>::to_vec).collect(),
        colours: ColourMap::Inferno,
        range: Some([0.0, 1.0]),
        bar_label: "contribution, from least to greatest of each map".to_owned(),
        panel_width: figure.panel,
    };
    let mut files = ["png", "svg"].map(|ending| format!("{stem}.{ending}")).to_vec();
    grid.write(Some(&folder.join(&files[0])), Some(&folder.join(&files[1])))?;
    for (name, values, shape) in arrays {
        let file = format!("{stem}_{name}.npy");
        write_npy(&folder.join(&file), &values, &shape)?;
        files.push(file);
    }
    Ok(files)
}

/// A route in words.
pub fn route_name(route: Route) -> &'static str {
    match route {
        Route::Rows => "rows",
        Route::Columns => "columns",
        Route::RowsReversed => "rows backwards",
        Route::ColumnsReversed => "columns backwards",
    }
}

/// Values between 0 and 1; 0 where all are the same.
fn between(values: &[f32]) -> Vec<f32> {
    let [least, greatest] = values.iter().fold([f32::INFINITY, f32::NEG_INFINITY], |[l, g], value| [l.min(*value), g.max(*value)]);
    values.iter().map(|value| if greatest > least { (value - least) / (greatest - least) } else { 0.0 }).collect()
}
