//! Draws a figure.

use std::path::Path;

use image::RgbImage;

use super::grid::{HeatMapGrid, Sample};
use super::layout::{BAR, GAP, LINE, Layout, SAMPLE, ticks};
use super::panel::{DARK, Mark, Panel, blank_pixel};
use crate::error::ReportError;
use crate::pictures::{TEXT, shorten, text_width};
use crate::sheet::{Anchor, Sheet};

/// Font size of the title above the figure, in pixels.
const TITLE: f32 = 19.0;
/// Colour around marks, so that they stand out on every colour.
const LIGHT: [u8; 3] = [255; 3];

impl HeatMapGrid {
    /// Draws the figure into `png` and `svg`, either of which may be none.
    ///
    /// # Errors
    /// When no panel has a finite value, when the number of titles or labels is wrong, or when a file cannot be written.
    pub fn write(&self, png: Option<&Path>, svg: Option<&Path>) -> Result<(), ReportError> {
        self.sheet()?.write(png, svg)
    }

    /// The figure as pixels.
    ///
    /// # Errors
    /// When no panel has a finite value, or the number of titles or labels is wrong.
    pub fn pixels(&self) -> Result<RgbImage, ReportError> {
        Ok(self.sheet()?.pixels())
    }

    /// The ends of the colour bar.
    fn ends(&self) -> Result<[f32; 2], ReportError> {
        let ranges = self.panels.iter().flatten().flatten().filter_map(Panel::range);
        let all = ranges.reduce(|[low, high], [other_low, other_high]| [low.min(other_low), high.max(other_high)]);
        let all = all.ok_or(ReportError::EmptyFigure)?;
        let [low, high] = self.range.unwrap_or(all);
        // A constant map has the middle colour.
        Ok(if high > low { [low, high] } else { [low - 0.5, low + 0.5] })
    }

    fn sheet(&self) -> Result<Sheet, ReportError> {
        let columns = self.panels.iter().map(Vec::len).max().unwrap_or_default();
        for (labels, count, axis) in [(&self.columns, columns, "columns"), (&self.rows, self.panels.len(), "rows")] {
            if !labels.is_empty() && labels.len() != count {
                return Err(ReportError::Labels { labels: labels.len(), count, axis });
            }
        }
        let [low, high] = self.ends()?;
        let colour = |value: f32| self.colours.colour((value - low) / (high - low));

        let layout = Layout::new(self, columns, &self.bar_words([low, high]));
        let mut sheet = Sheet::new(layout.width, layout.height);
        let title = shorten(&self.title, layout.width - 2 * GAP, TITLE);
        sheet.words([layout.width / 2, GAP + LINE - 6], title, TITLE, Anchor::Middle);
        for (column, lines) in layout.titles.iter().enumerate() {
            let middle = layout.left(column) + self.panel_width / 2;
            // Titles are aligned at their last lines.
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
                panel.marks.iter().for_each(|mark| draw_mark(&mut sheet, [left, *top], size, panel.map.size(), *mark));
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

    /// Labels of the colour bar and their values.
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
        // In a low figure the label may be longer than the bar.
        let label = shorten(&self.bar_label, layout.height - 2 * GAP, TEXT);
        let half = text_width(&label, TEXT).div_ceil(2);
        let middle = (top + height / 2).min(layout.height - GAP - half).max(GAP + half);
        sheet.turned_words([layout.width - GAP, middle], label, TEXT);
    }
}

fn draw_sample(sheet: &mut Sheet, [left, top]: [u32; 2], sample: Sample) {
    match sample {
        Sample::Blank => sheet.picture([left, top], RgbImage::from_fn(SAMPLE, 15, |x, y| blank_pixel([x, y], None))),
        Sample::Outline(colour) => draw_outline(sheet, [left as i32 + 5, top as i32], [15, 15], colour),
    }
}

/// An outline two pixels wide, inside the rectangle.
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
