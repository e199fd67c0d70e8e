//! The figure and the arrays of one query.

use std::path::Path;

use image::RgbImage;
use vision_ops::Route;
use vmamba::analysis::RouteMap;
use vmamba_report::heatmap::{ColourMap, DARK, HeatMap, HeatMapGrid, Mark, Panel, Sample};
use vmamba_report::npy::write_npy;

use super::Maps;
use crate::error::Result;

/// Panels in a row.
const COLUMNS: usize = 4;

/// The look of a figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Title above the figure.
    pub title: String,
    /// Opacity of the maps over the picture.
    pub alpha: f32,
    /// Width of a panel in pixels.
    pub panel: u32,
}

/// Writes `<stem>.png` and `<stem>.svg` with all maps over the picture, and the arrays as `<stem>_<name>.npy`. Returns the file names.
///
/// The colours of a panel span a range of values, which is printed below it: minimum and maximum of the visited patches or, for routes and
/// `all` with [`vmamba::analysis::MapRange::AllQueries`], of the maps of all queries. Unvisited patches have no colour.
///
/// # Errors
/// When a file cannot be written.
pub fn write_figure(folder: &Path, stem: &str, picture: &RgbImage, maps: &Maps, figure: &Figure) -> Result<Vec<String>> {
    let (_, size) = maps.place();
    let panels = panels(maps);
    let legend = if panels.iter().flatten().any(|panel| panel.visited.contains(&false)) {
        vec![(Sample::Blank, "hatched: not visited before the query".to_owned())]
    } else {
        Vec::new()
    };
    let mut drawn = vec![Some(query_panel(picture, maps)?)];
    for panel in &panels {
        drawn.push(panel.as_ref().map(|panel| panel.draw(picture, maps, figure.alpha)).transpose()?);
    }
    let grid = HeatMapGrid {
        title: figure.title.clone(),
        columns: Vec::new(),
        rows: Vec::new(),
        panels: drawn.chunks(COLUMNS).map(<[_]>::to_vec).collect(),
        empty: String::new(),
        colours: ColourMap::Inferno,
        range: Some([0.0, 1.0]),
        bar_ends: Some(["lower", "higher"].map(str::to_owned)),
        bar_label: "between the numbers beneath each panel".to_owned(),
        legend,
        panel_width: figure.panel,
    };
    let mut files = ["png", "svg"].map(|ending| format!("{stem}.{ending}")).to_vec();
    grid.write(Some(&folder.join(&files[0])), Some(&folder.join(&files[1])))?;
    for (name, values, leading) in arrays(maps) {
        let file = format!("{stem}_{name}.npy");
        let shape: Vec<usize> = leading.into_iter().chain(size).collect();
        write_npy(&folder.join(&file), &values, &shape)?;
        files.push(file);
    }
    Ok(files)
}

/// A panel with a map.
struct MapPanel<'a> {
    name: String,
    /// The values of the array.
    values: &'a [f32],
    /// Which patches have a value; all when empty.
    visited: &'a [bool],
    /// The values at both ends of the colour map.
    range: [f32; 2],
}

/// The panels after the picture; `None` leaves a place empty.
fn panels(maps: &Maps) -> Vec<Option<MapPanel<'_>>> {
    match maps {
        Maps::Scan(maps) => {
            let all = MapPanel { name: "all: sum of routes".to_owned(), values: &maps.sum, visited: &maps.visited, range: maps.sum_range };
            let nall = MapPanel::of("nall: mean of scaled routes", &maps.nall, &maps.visited);
            let routes = maps.routes.iter().map(|route| {
                let name = route_name(route.route).to_owned();
                Some(MapPanel { name, values: &route.raw, visited: &route.visited, range: route.range })
            });
            [Some(all), Some(nall), None].into_iter().chain(routes).collect()
        }
        Maps::Attention(row) => {
            let mean = MapPanel::of("mean of heads", &row.mean, &[]);
            let normalised = MapPanel::of("normalised: scaled heads", &row.normalised, &[]);
            let heads = row.heads.iter().enumerate().map(|(number, head)| Some(MapPanel::of(&format!("head {number}"), head, &[])));
            [Some(mean), Some(normalised), None].into_iter().chain(heads).collect()
        }
    }
}

/// Name, values, and the dimension before height and width, of every array.
fn arrays(maps: &Maps) -> Vec<(&'static str, Vec<f32>, Option<usize>)> {
    match maps {
        Maps::Scan(maps) => {
            let of_routes = |values: &dyn Fn(&RouteMap) -> Vec<f32>| maps.routes.iter().flat_map(values).collect::<Vec<f32>>();
            let visited = |route: &RouteMap| route.visited.iter().map(|visited| f32::from(u8::from(*visited))).collect();
            vec![
                ("routes", of_routes(&|route| route.raw.clone()), Some(maps.routes.len())),
                ("visited", of_routes(&visited), Some(maps.routes.len())),
                ("sum", maps.sum.clone(), None),
                ("all", maps.all.clone(), None),
                ("nall", maps.nall.clone(), None),
            ]
        }
        Maps::Attention(row) => vec![
            ("heads", row.heads.concat(), Some(row.heads.len())),
            ("mean", row.mean.clone(), None),
            ("normalised", row.normalised.clone(), None),
        ],
    }
}

impl<'a> MapPanel<'a> {
    /// A panel whose colours span minimum and maximum.
    fn of(name: &str, values: &'a [f32], visited: &'a [bool]) -> Self {
        let shown = values.iter().enumerate().filter(|(patch, _)| visited.get(*patch).is_none_or(|visited| *visited));
        let range =
            shown.fold([f32::INFINITY, f32::NEG_INFINITY], |[least, greatest], (_, value)| [least.min(*value), greatest.max(*value)]);
        Self { name: name.to_owned(), values, visited, range }
    }

    fn draw(&self, picture: &RgbImage, maps: &Maps, alpha: f32) -> Result<Panel> {
        let [least, greatest] = self.range;
        let scaled = |value: &f32| match greatest > least {
            true => (value - least) / (greatest - least),
            // Equal values get the middle colour.
            false if value.is_finite() => 0.5,
            false => f32::NAN,
        };
        let (_, size) = maps.place();
        let note = match [least, greatest].map(three_digits) {
            [least, greatest] if least == greatest => format!("{}\n{least}", self.name),
            [least, greatest] => format!("{}\n{least} to {greatest}", self.name),
        };
        Ok(Panel {
            map: HeatMap::new(self.values.iter().map(scaled).collect(), size)?,
            blank: self.visited.iter().map(|visited| !visited).collect(),
            photo: Some(picture.clone()),
            alpha,
            marks: marks(maps),
            note,
        })
    }
}

/// The picture without a map.
fn query_panel(picture: &RgbImage, maps: &Maps) -> Result<Panel> {
    let (_, size) = maps.place();
    let map = HeatMap::new(vec![0.0; size[0] * size[1]], size)?;
    let note = "picture and query".to_owned();
    Ok(Panel { photo: Some(picture.clone()), alpha: 0.0, marks: marks(maps), note, ..Panel::new(map) })
}

/// The outline of the query.
fn marks(maps: &Maps) -> Vec<Mark> {
    let ([row, column], _) = maps.place();
    let [row, column] = [row as f32, column as f32];
    vec![Mark::Outline { at: [row, column], size: [1.0, 1.0], colour: DARK }, Mark::Cross([row + 0.5, column + 0.5])]
}

/// Three significant digits, with an exponent for large and small values.
fn three_digits(value: f32) -> String {
    let power = f64::from(value.abs()).log10().floor();
    match power {
        _ if value == 0.0 => "0".to_owned(),
        -3.0..=3.0 => format!("{value:.*}", (2.0 - power).max(0.0) as usize),
        _ => format!("{value:.2e}"),
    }
}

/// The name of a route in a figure.
pub fn route_name(route: Route) -> &'static str {
    match route {
        Route::Rows => "rows",
        Route::Columns => "columns",
        Route::RowsReversed => "rows backwards",
        Route::ColumnsReversed => "columns backwards",
    }
}

#[cfg(test)]
mod tests {
    use vmamba::analysis::{ActivationMaps, AttentionRow};

    use super::*;

    /// Two routes over three patches; no route visits the last patch, and every contribution is negative.
    fn scan() -> Maps {
        let route = |route, visited: [bool; 3], raw: [f32; 3], range| RouteMap {
            route,
            visited: visited.into(),
            raw: raw.into(),
            range,
            normalised: vec![0.0; 3],
        };
        Maps::Scan(ActivationMaps {
            size: [1, 3],
            query: [0, 1],
            routes: vec![
                route(Route::Rows, [true, true, false], [-3.0, -1.0, 0.0], [-3.0, -1.0]),
                route(Route::Columns, [false, true, false], [0.0, -2.0, 0.0], [-2.0, -2.0]),
            ],
            visited: vec![true, true, false],
            sum: vec![-3.0, -3.5, 0.0],
            sum_range: [-3.5, -3.0],
            all: vec![1.0, 0.0, 0.0],
            nall: vec![0.0, 0.5, 0.0],
        })
    }

    #[test]
    fn unvisited_patches_are_blank_and_do_not_count_for_the_range() {
        let (maps, photo) = (scan(), RgbImage::new(6, 2));
        let drawn: Vec<Panel> = panels(&maps).iter().flatten().map(|panel| panel.draw(&photo, &maps, 0.5).unwrap()).collect();
        let facts: Vec<(&str, &[bool], &[f32])> =
            drawn.iter().map(|panel| (panel.note.as_str(), panel.blank.as_slice(), &panel.map.values()[..2])).collect();
        let last = [false, false, true];
        assert_eq!(
            facts,
            [
                ("all: sum of routes\n-3.50 to -3.00", &last[..], &[1.0, 0.0][..]),
                ("nall: mean of scaled routes\n0 to 0.500", &last, &[0.0, 1.0]),
                ("rows\n-3.00 to -1.00", &last, &[0.0, 1.0]),
                ("columns\n-2.00", &[true, false, true], &[0.5, 0.5]),
            ]
        );
    }

    #[test]
    fn panels_of_attention_show_their_arrays_and_print_their_ranges() {
        let row = AttentionRow {
            size: [1, 2],
            query: [0, 0],
            heads: vec![vec![0.25, 0.5], vec![0.0, 0.002]],
            class: vec![0.25, 0.998],
            mean: vec![0.125, 0.251],
            normalised: vec![0.0, 1.0],
        };
        let maps = Maps::Attention(row);
        let notes: Vec<String> =
            panels(&maps).iter().flatten().map(|panel| panel.draw(&RgbImage::new(2, 2), &maps, 0.5).unwrap().note).collect();
        assert_eq!(
            notes,
            ["mean of heads\n0.125 to 0.251", "normalised: scaled heads\n0 to 1.00", "head 0\n0.250 to 0.500", "head 1\n0 to 0.00200"]
        );
        let arrays = arrays(&maps);
        for (panel, (_, values, _)) in panels(&maps).iter().flatten().zip(arrays.iter().skip(1)) {
            assert_eq!(panel.values, values, "{}", panel.name);
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        let words = [0.0, -0.0, 1.0, -12.34, 0.001_234, 0.000_123_4, 99_999.0, 1234.5, f32::NAN].map(three_digits);
        assert_eq!(words, ["0", "0", "1.00", "-12.3", "0.00123", "1.23e-4", "1.00e5", "1234", "NaN"]);
    }
}
