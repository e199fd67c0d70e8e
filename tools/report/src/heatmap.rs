//! Heat maps side by side: one colour map, one range and one colour bar for all of them, as PNG and SVG.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use image::{RgbImage, imageops};

pub use super::colours::ColourMap;
use super::pictures::{TEXT, shorten, text_width};
use super::sheet::{Anchor, Sheet};

/// Letters of titles above the whole figure.
const TITLE: f32 = 19.0;
/// Height of a line of words in pixels.
const LINE: u32 = 22;
/// Free space between panels.
const GAP: u32 = 12;
/// Width of the colour bar.
const BAR: u32 = 18;
/// Most lines of a column's title.
const TITLE_LINES: usize = 3;
/// Width of a sample in the legend.
const SAMPLE: u32 = 26;
/// The lines over blank cells and how far they are apart.
const HATCH: [u8; 3] = [205; 3];
const HATCH_STEP: u32 = 7;
/// What blank cells are without a picture beneath them.
const BLANK: [u8; 3] = [120; 3];
/// Dark inside and light outside, to be seen on every colour.
pub const DARK: [u8; 3] = [20; 3];
const LIGHT: [u8; 3] = [255; 3];

/// Numbers over a plane.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMap {
    values: Vec<f32>,
    size: [usize; 2],
}

/// Something drawn upon a map, in cells of the map: row and column 0 are the upper left edge, so that the middle of the first cell is at
/// 0.5.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mark {
    /// A cross whose middle is at `[row, column]`.
    Cross([f32; 2]),
    /// A dot whose middle is at `[row, column]`.
    Dot([f32; 2]),
    /// The outline of a rectangle.
    Outline {
        /// Its upper left corner, `[row, column]`.
        at: [f32; 2],
        /// `[height, width]`.
        size: [f32; 2],
        /// Its colour.
        colour: [u8; 3],
    },
}

/// What a line of the legend stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// Cells that are blank.
    Blank,
    /// Outlines of a colour.
    Outline([u8; 3]),
}

/// One map of a figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What is shown.
    pub map: HeatMap,
    /// Cells that have no value, row by row, or empty for none: they are hatched, over the picture darkened and grey, and do not count in
    /// the range of a figure.
    pub blank: Vec<bool>,
    /// A picture beneath the map, stretched to the panel.
    pub photo: Option<RgbImage>,
    /// How much of the map covers the picture: 0 shows the picture alone, 1 the map alone.
    pub alpha: f32,
    /// Drawn upon the map.
    pub marks: Vec<Mark>,
    /// Words beneath the panel; may be empty or have several lines.
    pub note: String,
}

/// A figure of heat maps in rows and columns.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMapGrid {
    /// Above the figure; may be empty.
    pub title: String,
    /// Titles of the columns; as many as the longest row, or none.
    pub columns: Vec<String>,
    /// Labels of the rows; as many as rows, or none.
    pub rows: Vec<String>,
    /// The panels, a list a row; a place may be empty.
    pub panels: Vec<Vec<Option<Panel>>>,
    /// Words in the middle of empty places; may be empty.
    pub empty: String,
    /// From numbers to colours.
    pub colours: ColourMap,
    /// The numbers at both ends of the colour map; without, the smallest and the largest finite number of all maps.
    pub range: Option<[f32; 2]>,
    /// Words at the lower and the upper end of the colour bar in place of numbers along it.
    pub bar_ends: Option<[String; 2]>,
    /// Words beside the colour bar; may be empty.
    pub bar_label: String,
    /// Explained beneath the figure.
    pub legend: Vec<(Sample, String)>,
    /// Width of a panel in pixels; its height follows from its map.
    pub panel_width: u32,
}

impl HeatMap {
    /// `values` row by row, of `[height, width]`.
    ///
    /// # Errors
    /// When the size is empty or not that of as many values.
    pub fn new(values: Vec<f32>, size: [usize; 2]) -> Result<Self> {
        let [height, width] = size;
        ensure!(!values.is_empty() && height * width == values.len(), "{} values are no map of {height} x {width}", values.len());
        Ok(Self { values, size })
    }

    /// Height and width.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The map with another number of cells: each is the mean of those it touches, so that a small map stays made of squares and a large one
    /// loses nothing between two pixels.
    pub fn resampled(&self, size: [usize; 2]) -> Self {
        self.resampled_without(size, &|_| false)
    }

    /// As [`HeatMap::resampled`], with no part of the cells that `left_out` names; 0 where there are no others.
    fn resampled_without(&self, [height, width]: [usize; 2], left_out: &dyn Fn(usize) -> bool) -> Self {
        let cells = |place: usize, from: usize, to: usize| {
            let begin = place * from / to;
            begin..((place + 1) * from).div_ceil(to).max(begin + 1)
        };
        let mut values = Vec::with_capacity(height * width);
        for row in 0..height {
            let rows = cells(row, self.size[0], height);
            for column in 0..width {
                let columns = cells(column, self.size[1], width);
                let touched = rows.clone().flat_map(|y| columns.clone().map(move |x| y * self.size[1] + x));
                let (mut sum, mut count) = (0.0, 0_usize);
                for cell in touched.filter(|cell| !left_out(*cell)) {
                    sum += f64::from(self.values[cell]);
                    count += 1;
                }
                values.push((sum / count.max(1) as f64) as f32);
            }
        }
        Self { values, size: [height, width] }
    }
}

impl Panel {
    /// A map without blank cells, picture, marks and note.
    pub fn new(map: HeatMap) -> Self {
        Self { map, blank: Vec::new(), photo: None, alpha: 1.0, marks: Vec::new(), note: String::new() }
    }

    /// The least and the greatest finite number that is shown.
    fn range(&self) -> Option<[f32; 2]> {
        let shown = self.map.values.iter().enumerate().filter(|(cell, value)| !self.is_blank(*cell) && value.is_finite());
        shown.fold(None, |range, (_, value)| {
            let [low, high] = range.unwrap_or([*value; 2]);
            Some([f32::min(low, *value), f32::max(high, *value)])
        })
    }

    fn is_blank(&self, cell: usize) -> bool {
        self.blank.get(cell).copied().unwrap_or(false)
    }

    fn note_lines(&self) -> u32 {
        self.note.lines().count() as u32
    }

    fn height(&self, width: u32) -> u32 {
        let [rows, columns] = self.map.size;
        ((f64::from(width) * rows as f64 / columns as f64).round() as u32).max(1)
    }

    fn picture(&self, width: u32, colour: &dyn Fn(f32) -> [u8; 3]) -> RgbImage {
        let height = self.height(width);
        let map = self.map.resampled_without([height as usize, width as usize], &|cell| self.is_blank(cell));
        let beneath = self.photo.as_ref().map(|photo| imageops::resize(photo, width, height, imageops::FilterType::Triangle));
        let alpha = self.alpha.clamp(0.0, 1.0);
        let [rows, columns] = self.map.size;
        let cell = |x: u32, y: u32| y as usize * rows / height as usize * columns + x as usize * columns / width as usize;
        RgbImage::from_fn(width, height, |x, y| {
            if self.is_blank(cell(x, y)) {
                return blank_pixel([x, y], beneath.as_ref().map(|photo| photo.get_pixel(x, y).0));
            }
            let above = colour(map.values[(y * width + x) as usize]);
            let Some(beneath) = &beneath else { return image::Rgb(above) };
            let mut mixed = beneath.get_pixel(x, y).0;
            for (out, above) in mixed.iter_mut().zip(above) {
                *out = (f32::from(*out) * (1.0 - alpha) + f32::from(above) * alpha).round() as u8;
            }
            image::Rgb(mixed)
        })
    }
}

impl HeatMapGrid {
    /// Draws the figure into `png` and `svg` (either may be left out). Each file is there completely or not at all.
    ///
    /// # Errors
    /// When there is no panel with a finite number, when titles and panels do not fit, and when a file cannot be written.
    pub fn write(&self, png: Option<&Path>, svg: Option<&Path>) -> Result<()> {
        self.sheet()?.write(png, svg)
    }

    /// The figure as pixels.
    ///
    /// # Errors
    /// As [`HeatMapGrid::write`], but for files.
    pub fn pixels(&self) -> Result<RgbImage> {
        Ok(self.sheet()?.pixels())
    }

    /// The ends of the colour bar.
    fn ends(&self) -> Result<[f32; 2]> {
        let ranges = self.panels.iter().flatten().flatten().filter_map(Panel::range);
        let all = ranges.reduce(|[low, high], [other_low, other_high]| [low.min(other_low), high.max(other_high)]);
        let Some(all) = all else { bail!("no map of the figure has a finite number") };
        let [low, high] = self.range.unwrap_or(all);
        // A constant map has the colour of the middle.
        Ok(if high > low { [low, high] } else { [low - 0.5, low + 0.5] })
    }

    fn sheet(&self) -> Result<Sheet> {
        let columns = self.panels.iter().map(Vec::len).max().unwrap_or_default();
        ensure!(self.columns.is_empty() || self.columns.len() == columns, "{} titles for {columns} columns", self.columns.len());
        ensure!(self.rows.is_empty() || self.rows.len() == self.panels.len(), "{} labels for {} rows", self.rows.len(), self.panels.len());
        let [low, high] = self.ends()?;
        let colour = |value: f32| self.colours.colour((value - low) / (high - low));

        let layout = Layout::new(self, columns, &self.bar_words([low, high]));
        let mut sheet = Sheet::new(layout.width, layout.height);
        let title = shorten(&self.title, layout.width - 2 * GAP, TITLE);
        sheet.words([layout.width / 2, GAP + LINE - 6], title, TITLE, Anchor::Middle);
        for (column, lines) in layout.titles.iter().enumerate() {
            let middle = layout.left(column) + self.panel_width / 2;
            // The last lines of all titles are on one level.
            for (number, line) in lines.iter().rev().enumerate() {
                sheet.words([middle, layout.top - 8 - number as u32 * LINE], line.clone(), TEXT, Anchor::Middle);
            }
        }
        for ((row, panels), (top, height)) in self.panels.iter().enumerate().zip(&layout.rows) {
            if let Some(label) = self.rows.get(row) {
                sheet.turned_words([GAP + 16, top + height / 2], shorten(label, *height, TEXT), TEXT);
            }
            for (column, panel) in panels.iter().enumerate() {
                let left = layout.left(column);
                let Some(panel) = panel else {
                    let words = shorten(&self.empty, self.panel_width, TEXT);
                    sheet.words([left + self.panel_width / 2, top + height / 2 + 5], words, TEXT, Anchor::Middle);
                    continue;
                };
                let picture = panel.picture(self.panel_width, &colour);
                let size = [picture.width(), picture.height()];
                sheet.picture([left, *top], picture);
                panel.marks.iter().for_each(|mark| draw_mark(&mut sheet, [left, *top], size, panel.map.size, *mark));
                for (number, line) in panel.note.lines().enumerate() {
                    let note = shorten(line, self.panel_width, TEXT);
                    let baseline = top + size[1] + (number as u32 + 1) * LINE - 5;
                    sheet.words([left + self.panel_width / 2, baseline], note, TEXT, Anchor::Middle);
                }
            }
        }
        for ((sample, words), [left, baseline]) in self.legend.iter().zip(&layout.legend) {
            draw_sample(&mut sheet, [*left, baseline - 13], *sample);
            let words = shorten(words, layout.width.saturating_sub(left + SAMPLE + 8 + GAP), TEXT);
            sheet.words([left + SAMPLE + 8, *baseline], words, TEXT, Anchor::Start);
        }
        self.draw_bar(&mut sheet, &layout, [low, high]);
        Ok(sheet)
    }

    /// The words along the bar with the values they stand at.
    fn bar_words(&self, [low, high]: [f32; 2]) -> Vec<(f32, String)> {
        match &self.bar_ends {
            Some([least, greatest]) => vec![(low, least.clone()), (high, greatest.clone())],
            None => ticks(low, high),
        }
    }

    fn draw_bar(&self, sheet: &mut Sheet, layout: &Layout, [low, high]: [f32; 2]) {
        let [left, top, height] = layout.bar;
        let share = |y: u32| 1.0 - (y as f32 + 0.5) / height as f32;
        let bar = RgbImage::from_fn(BAR, height, |_, y| image::Rgb(self.colours.colour(share(y))));
        sheet.picture([left, top], bar);
        sheet.outline([left as i32, top as i32], [BAR, height], [90; 3]);
        for (value, text) in self.bar_words([low, high]) {
            let y = top + ((high - value) / (high - low) * (height - 1) as f32).round() as u32;
            sheet.filled([(left + BAR) as i32, y as i32], [5, 1], [90; 3]);
            sheet.words([left + BAR + 8, y + 5], text, TEXT, Anchor::Start);
        }
        // A low figure leaves the words more room than its bar.
        let label = shorten(&self.bar_label, layout.height - 2 * GAP, TEXT);
        let half = text_width(&label, TEXT).div_ceil(2);
        let middle = (top + height / 2).min(layout.height - GAP - half).max(GAP + half);
        sheet.turned_words([layout.width - GAP, middle], label, TEXT);
    }
}

/// Where everything lies.
struct Layout {
    width: u32,
    height: u32,
    /// The left edge of the first column and the distance to the next.
    columns: [u32; 2],
    /// The upper edge of the first row.
    top: u32,
    /// Upper edge and height of every row of panels.
    rows: Vec<(u32, u32)>,
    /// The titles, cut into lines.
    titles: Vec<Vec<String>>,
    /// Left edge, upper edge and height of the colour bar.
    bar: [u32; 3],
    /// Left edge and baseline of every entry of the legend.
    legend: Vec<[u32; 2]>,
}

impl Layout {
    fn new(grid: &HeatMapGrid, columns: usize, ticks: &[(f32, String)]) -> Self {
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

    fn left(&self, column: usize) -> u32 {
        self.columns[0] + column as u32 * self.columns[1]
    }
}

/// The text in lines that fit into `width` pixels, cut at blanks and behind underscores; what does not fit into the last line is left out.
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

/// Round numbers between both ends, with the digits that tell them apart.
fn ticks(low: f32, high: f32) -> Vec<(f32, String)> {
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

/// A pixel of a blank cell at `[x, y]` of its panel, over a pixel of the picture.
fn blank_pixel([x, y]: [u32; 2], beneath: Option<[u8; 3]>) -> image::Rgb<u8> {
    let grey = beneath.map(|pixel| {
        let [red, green, blue] = pixel.map(f32::from);
        [((0.299 * red + 0.587 * green + 0.114 * blue) * 0.5).round() as u8; 3]
    });
    image::Rgb(if (x + y) % HATCH_STEP == 0 { HATCH } else { grey.unwrap_or(BLANK) })
}

fn draw_sample(sheet: &mut Sheet, [left, top]: [u32; 2], sample: Sample) {
    match sample {
        Sample::Blank => sheet.picture([left, top], RgbImage::from_fn(SAMPLE, 15, |x, y| blank_pixel([x, y], None))),
        Sample::Outline(colour) => draw_outline(sheet, [left as i32 + 5, top as i32], [15, 15], colour),
    }
}

/// Two pixels wide, inwards.
fn draw_outline(sheet: &mut Sheet, [left, top]: [i32; 2], [width, height]: [u32; 2], colour: [u8; 3]) {
    sheet.outline([left, top], [width, height], colour);
    if width > 4 && height > 4 {
        sheet.outline([left + 1, top + 1], [width - 2, height - 2], colour);
    }
}

fn draw_mark(sheet: &mut Sheet, [left, top]: [u32; 2], [width, height]: [u32; 2], [rows, columns]: [usize; 2], mark: Mark) {
    let (left, top) = (left as i32, top as i32);
    let place = |[row, column]: [f32; 2]| {
        let (x, y) = (column / columns as f32 * width as f32, row / rows as f32 * height as f32);
        let inside = |value: f32, end: u32| value.round().clamp(0.0, end as f32) as i32;
        [left + inside(x, width), top + inside(y, height)]
    };
    match mark {
        Mark::Cross(at) => {
            let [x, y] = place(at);
            for (grow, colour) in [(1, LIGHT), (0, DARK)] {
                let (long, thick) = (13 + 2 * grow, 2 + 2 * grow);
                sheet.filled([x - 6 - grow, y - 1 - grow], [long as u32, thick as u32], colour);
                sheet.filled([x - 1 - grow, y - 6 - grow], [thick as u32, long as u32], colour);
            }
        }
        Mark::Dot(at) => {
            let [x, y] = place(at);
            sheet.filled([x - 4, y - 4], [8, 8], LIGHT);
            sheet.filled([x - 3, y - 3], [6, 6], DARK);
        }
        Mark::Outline { at, size: [high, wide], colour } => {
            let ([x, y], [right, bottom]) = (place(at), place([at[0] + high, at[1] + wide]));
            draw_outline(sheet, [x, y], [(right - x).max(1) as u32, (bottom - y).max(1) as u32], colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(height: usize, width: usize) -> HeatMap {
        HeatMap::new((0..height * width).map(|i| i as f32).collect(), [height, width]).unwrap()
    }

    fn grid(panels: Vec<Vec<Option<Panel>>>) -> HeatMapGrid {
        HeatMapGrid {
            title: "Maps".to_owned(),
            columns: vec!["vmamba_tiny_s1l8 with a long name".to_owned(), "second".to_owned()],
            rows: Vec::new(),
            panels,
            empty: "nothing here".to_owned(),
            colours: ColourMap::Viridis,
            range: None,
            bar_ends: None,
            bar_label: "gradient".to_owned(),
            legend: Vec::new(),
            panel_width: 120,
        }
    }

    #[test]
    fn a_map_keeps_its_mean_when_it_shrinks_and_its_squares_when_it_grows() {
        let small = ramp(4, 6).resampled([2, 3]);
        assert_eq!(small.values(), [3.5, 5.5, 7.5, 15.5, 17.5, 19.5]);
        let large = HeatMap::new(vec![1.0, 2.0, 3.0, 4.0], [2, 2]).unwrap().resampled([4, 4]);
        assert_eq!(large.values(), [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0, 3.0, 3.0, 4.0, 4.0]);
        assert_eq!(ramp(5, 7).resampled([5, 7]), ramp(5, 7));
    }

    #[test]
    fn all_panels_and_the_bar_share_one_range() {
        let flat = |value: f32| Some(Panel::new(HeatMap::new(vec![value; 4], [2, 2]).unwrap()));
        let figure = grid(vec![vec![flat(0.0), flat(10.0)]]);
        let layout = Layout::new(&figure, 2, &ticks(0.0, 10.0));
        let pixels = figure.pixels().unwrap();
        let at = |column: usize| pixels.get_pixel(layout.left(column) + 60, layout.rows[0].0 + 60).0;
        assert_eq!((at(0), at(1)), (ColourMap::Viridis.colour(0.0), ColourMap::Viridis.colour(1.0)));
        let [left, top, height] = layout.bar;
        assert_eq!(pixels.get_pixel(left + 5, top + height / 2).0[1], ColourMap::Viridis.colour(0.5 - 0.5 / height as f32)[1]);
        let fixed = HeatMapGrid { range: Some([0.0, 20.0]), ..figure }.pixels().unwrap();
        assert_eq!(fixed.get_pixel(layout.left(1) + 60, layout.rows[0].0 + 60).0, ColourMap::Viridis.colour(0.5));
    }

    #[test]
    fn a_picture_shines_through_and_marks_are_seen() {
        let mut panel = Panel::new(HeatMap::new(vec![0.0, 1.0, 1.0, 1.0], [2, 2]).unwrap());
        (panel.photo, panel.alpha) = (Some(RgbImage::from_pixel(3, 3, image::Rgb([200, 100, 0]))), 0.5);
        panel.marks = vec![Mark::Cross([1.0, 1.0]), Mark::Outline { at: [0.5, 0.5], size: [1.0, 1.0], colour: DARK }];
        let figure = HeatMapGrid { columns: Vec::new(), ..grid(vec![vec![Some(panel)]]) };
        let layout = Layout::new(&figure, 1, &ticks(0.0, 1.0));
        let pixels = figure.pixels().unwrap();
        let at = |x: u32, y: u32| pixels.get_pixel(layout.left(0) + x, layout.rows[0].0 + y).0;
        assert_eq!(at(10, 10), [134, 51, 42]);
        assert_eq!((at(60, 60), at(30, 45), at(89, 45)), ([20; 3], [20; 3], [20; 3]));
    }

    /// A blank cell of the value that would be brightest: it is grey and hatched over the picture, and no end of the range.
    #[test]
    fn blank_cells_show_the_picture_without_colour_and_do_not_count() {
        let mut panel = Panel::new(HeatMap::new(vec![-3.0, -1.0, -2.0, 0.0], [2, 2]).unwrap());
        (panel.photo, panel.alpha) = (Some(RgbImage::from_pixel(3, 3, image::Rgb([200, 100, 0]))), 0.5);
        panel.blank = vec![false, false, false, true];
        assert_eq!(panel.range(), Some([-3.0, -1.0]));
        let figure = HeatMapGrid { columns: Vec::new(), ..grid(vec![vec![Some(panel)]]) };
        let layout = Layout::new(&figure, 1, &ticks(-3.0, -1.0));
        let pixels = figure.pixels().unwrap();
        let inside = |row: u32, column: u32| {
            let places = (0..58).flat_map(move |y| (0..58).map(move |x| [column * 60 + 1 + x, row * 60 + 1 + y]));
            let colours = places.map(|[x, y]| pixels.get_pixel(layout.left(0) + x, layout.rows[0].0 + y).0);
            colours.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(inside(1, 1), [[59; 3], HATCH].into(), "grey and hatched");
        let brightest = ColourMap::Viridis.colour(1.0);
        let mixed =
            [[200, brightest[0]], [100, brightest[1]], [0, brightest[2]]].map(|[a, b]| ((f32::from(a) + f32::from(b)) / 2.0).round());
        assert_eq!(inside(0, 1), [mixed.map(|part| part as u8)].into(), "the greatest that is shown");
    }

    #[test]
    fn a_legend_and_notes_of_two_lines_have_room_in_the_figure() {
        let folder = tempfile::tempdir().unwrap();
        let svg = folder.path().join("maps.svg");
        let mut panel = Panel::new(ramp(4, 4));
        panel.note = "rows\n-1 to 2".to_owned();
        let legend =
            vec![(Sample::Blank, "not visited".to_owned()), (Sample::Outline([200, 0, 0]), "a square with longer words".to_owned())];
        let ends = Some(["least", "greatest"].map(str::to_owned));
        let figure = HeatMapGrid { columns: Vec::new(), legend, bar_ends: ends, ..grid(vec![vec![Some(panel)]]) };
        figure.write(None, Some(&svg)).unwrap();
        let text = std::fs::read_to_string(&svg).unwrap();
        for words in ["rows", "-1 to 2", "not visited", "a square with longer words", "least", "greatest"] {
            assert!(text.contains(&format!(">{words}<")), "{words}");
        }
        let number =
            |line: &str, name: &str| line.split(&format!(" {name}=\"")).nth(1).and_then(|rest| rest.split('"').next()?.parse().ok());
        let height: f32 = number(text.lines().next().unwrap(), "height").unwrap();
        let baselines: Vec<f32> = text.lines().filter(|line| line.starts_with("<text")).filter_map(|line| number(line, "y")).collect();
        assert!(!baselines.is_empty() && baselines.iter().all(|y| *y < height - 4.0), "{baselines:?} in {height}");
        assert!(!text.contains(">0<"), "words in place of numbers");
    }

    #[test]
    fn a_figure_is_written_as_png_and_svg_with_its_words_and_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let (png, svg) = (folder.path().join("maps.png"), folder.path().join("maps.svg"));
        let mut panel = Panel::new(ramp(512, 512));
        panel.note = "half of it".to_owned();
        let figure = grid(vec![vec![Some(panel), None], vec![None, Some(Panel::new(ramp(20, 10)))]]);
        let figure = HeatMapGrid { rows: vec!["before".to_owned(), "after".to_owned()], ..figure };
        figure.write(Some(&png), Some(&svg)).unwrap();
        assert_eq!(image::open(&png).unwrap().to_rgb8(), figure.pixels().unwrap());
        let text = std::fs::read_to_string(&svg).unwrap();
        for word in ["Maps", "second", "before", "after", "gradient", "half of it", "200000", ">nothing here<"] {
            assert!(text.contains(word), "{word}");
        }
        assert!(text.len() < 150_000, "{}", text.len());
    }

    #[test]
    fn figures_without_numbers_or_with_wrong_titles_are_errors() {
        let nothing = Some(Panel::new(HeatMap::new(vec![f32::NAN], [1, 1]).unwrap()));
        assert!(grid(vec![vec![nothing, None]]).pixels().unwrap_err().to_string().contains("finite"));
        let one = grid(vec![vec![Some(Panel::new(ramp(2, 2)))]]);
        assert!(one.pixels().unwrap_err().to_string().contains("2 titles for 1 columns"));
        assert!(HeatMap::new(vec![0.0; 5], [2, 3]).is_err());
    }

    #[test]
    fn ticks_are_round_and_within_the_range() {
        let words = |low, high| ticks(low, high).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(words(0.0, 1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(words(-0.3, 0.95), ["-0.25", "0.00", "0.25", "0.50", "0.75"]);
        assert_eq!(words(0.0, 3e-9), ["0.0e0", "1.0e-9", "2.0e-9", "3.0e-9"]);
        assert_eq!(words(0.0, 999.0), ["0", "200", "400", "600", "800"]);
    }
}
