//! Where the parts of a figure lie, in pixels.

use super::grid::HeatMapGrid;
use super::panel::Panel;
use crate::pictures::{TEXT, shorten, text_width};

/// Height of a line of text.
pub(super) const LINE: u32 = 22;
/// Free space between panels.
pub(super) const GAP: u32 = 12;
/// Width of the colour bar.
pub(super) const BAR: u32 = 18;
/// Width of a sample in the legend.
pub(super) const SAMPLE: u32 = 26;
/// Maximum number of lines of a column's title.
const TITLE_LINES: usize = 3;

/// Where the parts of a figure lie, in pixels.
pub(super) struct Layout {
    pub(super) width: u32,
    pub(super) height: u32,
    /// The left edge of the first column and the distance to the next.
    pub(super) columns: [u32; 2],
    /// The upper edge of the first row.
    pub(super) top: u32,
    /// Upper edge and height of every row of panels.
    pub(super) rows: Vec<(u32, u32)>,
    /// The titles, wrapped into lines.
    pub(super) titles: Vec<Vec<String>>,
    /// Left edge, upper edge and height of the colour bar.
    pub(super) bar: [u32; 3],
    /// Left edge and baseline of every entry of the legend.
    pub(super) legend: Vec<[u32; 2]>,
}

impl Layout {
    pub(super) fn new(grid: &HeatMapGrid, columns: usize, ticks: &[(f32, String)]) -> Self {
        let titles: Vec<Vec<String>> = grid.columns.iter().map(|title| wrapped(title, grid.panel_width)).collect();
        let title_lines = titles.iter().map(Vec::len).max().unwrap_or_default() as u32;
        let heading = if grid.title.is_empty() { 0 } else { LINE + 10 };
        let top = GAP + heading + title_lines * LINE;
        let mut y = top;
        let mut rows = Vec::new();
        for panels in &grid.panels {
            let height = panels.iter().flatten().map(|panel| panel.height(grid.panel_width)).max().unwrap_or(LINE);
            rows.push((y, height));
            let notes = panels.iter().flatten().map(Panel::note_lines).max().unwrap_or_default();
            y += height + GAP + notes * LINE;
        }
        let left = GAP + if grid.rows.is_empty() { 0 } else { LINE + 4 };
        let right = left + columns as u32 * (grid.panel_width + GAP);
        let label = if grid.bar_label.is_empty() { 0 } else { LINE };
        let tick = ticks.iter().map(|(_, text)| text_width(text, TEXT)).max().unwrap_or_default();
        let bottom = rows.last().map_or(top, |(top, height)| top + height);
        let width = right + BAR + 12 + tick + label + GAP;
        let mut legend = Vec::new();
        let mut x = left;
        for (_, words) in &grid.legend {
            let long = SAMPLE + 8 + text_width(words, TEXT);
            if !legend.is_empty() && x + long + GAP > width {
                (x, y) = (left, y + LINE);
            }
            legend.push([x, y + LINE - 6]);
            x += long + 2 * GAP;
        }
        if !legend.is_empty() {
            y += LINE + GAP;
        }
        Self { width, height: y, legend, columns: [left, grid.panel_width + GAP], top, bar: [right, top, bottom - top], rows, titles }
    }

    pub(super) fn left(&self, column: usize) -> u32 {
        self.columns[0] + column as u32 * self.columns[1]
    }
}

/// Wraps a text at `width` pixels after blanks and underscores. The last of [`TITLE_LINES`] lines is truncated with an ellipsis.
fn wrapped(text: &str, width: u32) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for piece in text.split_inclusive([' ', '_']) {
        let last = lines.len() - 1;
        let longer = format!("{}{piece}", lines[last]);
        let fits = text_width(longer.trim_end(), TEXT) <= width;
        if fits || lines[last].is_empty() || lines.len() == TITLE_LINES {
            lines[last] = longer;
        } else {
            lines.push(piece.to_owned());
        }
    }
    lines.iter().map(|line| shorten(line.trim(), width, TEXT)).collect()
}

/// Ticks of an axis: round values from `low` to `high` and their labels, with as many decimals as the step needs.
pub(super) fn ticks(low: f32, high: f32) -> Vec<(f32, String)> {
    let rough = f64::from(high - low) / 5.0;
    let power = 10.0_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough * 0.999).unwrap_or(rough);
    let decimals = (0..7).find(|decimals| {
        let scaled = step * 10.0_f64.powi(*decimals);
        (scaled - scaled.round()).abs() < 1e-6 * scaled
    });
    let text = |value: f64| match decimals {
        Some(decimals) if value.abs() < 1e6 => format!("{value:.*}", decimals as usize),
        _ => format!("{value:.1e}"),
    };
    let (first, last) = ((f64::from(low) / step - 1e-4).ceil() as i64, (f64::from(high) / step + 1e-4).floor() as i64);
    (first..=last).map(|number| number as f64 * step).map(|value| (value as f32, text(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_range() {
        let words = |low, high| ticks(low, high).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(words(0.0, 1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(words(-0.3, 0.95), ["-0.25", "0.00", "0.25", "0.50", "0.75"]);
        assert_eq!(words(0.0, 3e-9), ["0.0e0", "1.0e-9", "2.0e-9", "3.0e-9"]);
        assert_eq!(words(0.0, 999.0), ["0", "200", "400", "600", "800"]);
    }
}
