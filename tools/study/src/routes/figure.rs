//! The scan routes drawn over the patches of an image, with the patches that the query has read.

use std::path::Path;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use vision_datasets::transforms::{Window, resize_bicubic};
use vmamba::vmamba::ScanPattern;
use vmamba_report::pictures::{INK, PAPER, shorten};
use vmamba_report::sheet::{Anchor, Sheet};

use super::{Trail, pattern_name, readers, trails};
use crate::error::{Result, invalid};

/// Approximate longest side of a panel in pixels.
const PANEL: u32 = 320;
const GAP: u32 = 24;
const TITLE: f32 = 19.0;
const TEXT: f32 = 15.0;
const LINE: u32 = 22;
/// Least distance of panels; leaves room for the words above narrow panels.
const COLUMN: u32 = 280;

/// Lines of the legend.
const LEGEND_LINES: u32 = 6;

/// A colour for each walk, distinguishable by colour-blind readers (Okabe and Ito).
const COLOURS: [[u8; 3]; 4] = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [170, 68, 153]];
/// Patches read by any walk.
const UNION: [u8; 3] = [90, 75, 140];
const GRID_LINES: [u8; 3] = [205; 3];
/// Jumps from the end of a line to the beginning of the next.
const JUMPS: [u8; 3] = [140; 3];
const QUERY: [u8; 3] = [200, 0, 0];

/// A figure of scan routes.
#[derive(Clone, Debug)]
pub struct RouteFigure {
    pattern: ScanPattern,
    grid: [usize; 2],
    query: [usize; 2],
    trails: [Trail; 4],
    photo: Option<RgbImage>,
}

impl RouteFigure {
    /// The routes of `pattern` on a grid of `[height, width]` patches with the query `[row, column]`. A photo is cropped around its centre to
    /// the shape of the grid; without a photo the patches are white.
    ///
    /// # Errors
    /// When the grid or the query does not exist, or the photo has no pixels.
    pub fn new(pattern: ScanPattern, grid: [usize; 2], query: [usize; 2], photo: Option<RgbImage>) -> Result<Self> {
        if photo.as_ref().is_some_and(|photo| photo.width() == 0 || photo.height() == 0) {
            return Err(invalid!("the photo has no pixels"));
        }
        Ok(Self { pattern, grid, query, trails: trails(pattern, grid, query)?, photo })
    }

    /// The trails of the four walks.
    pub fn trails(&self) -> &[Trail; 4] {
        &self.trails
    }

    /// The grid, `[height, width]` in patches.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }

    /// The query, `[row, column]`.
    pub fn query(&self) -> [usize; 2] {
        self.query
    }

    /// Number of patches.
    pub fn patches(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// Number of patches that any walk has read.
    pub fn read(&self) -> usize {
        readers(&self.trails, self.patches()).iter().filter(|readers| **readers > 0).count()
    }

    /// The order of every walk, the patches visited up to the query, and the patches read; patches in raster order.
    pub fn json(&self) -> Value {
        let walk = |trail: &Trail| {
            let reached = trail.reached_after(trail.visited.len(), self.patches());
            let read: Vec<usize> = reached.iter().enumerate().filter(|(_, reached)| **reached).map(|(patch, _)| patch).collect();
            json!({ "name": trail.walk.name(), "sequences": trail.walk.sequences(self.grid), "visited": trail.visited, "read": read })
        };
        let walks: Vec<Value> = self.trails.iter().map(walk).collect();
        json!({ "walks": walks, "readers": readers(&self.trails, self.patches()) })
    }

    /// Pattern, grid and query in words.
    pub(super) fn title(&self) -> String {
        let ([height, width], [row, column]) = (self.grid, self.query);
        format!("{} scan, {height} x {width} patches, query at row {row}, column {column}", pattern_name(self.pattern))
    }

    /// Steps of the longest trail of each stage. The walks of a stage run at the same time.
    pub(super) fn stages(&self) -> [usize; 2] {
        [0, 1].map(|stage| {
            let steps = self.trails.iter().filter(|trail| trail.walk.stage() == stage).map(|trail| trail.visited.len());
            steps.max().unwrap_or_default()
        })
    }

    /// Writes four panels with routes, and one with the patches read by all, as PNG and SVG.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, png: &Path, svg: &Path) -> Result<()> {
        Ok(self.sheet().write(Some(png), Some(svg))?)
    }

    fn sheet(&self) -> Sheet {
        let cell = cell(self.grid, PANEL);
        let [width, height] = panel_size(self.grid, cell);
        let (pitch, top) = (width.max(COLUMN) + GAP, GAP + LINE + 14);
        let row_height = LINE + height + GAP;
        // The legend stands beside the last panel; it is taller than the panels of a low grid.
        let mut sheet = Sheet::new(3 * pitch + GAP, top + row_height + row_height.max((1 + LEGEND_LINES) * LINE + GAP));
        sheet.words([(3 * pitch + GAP) / 2, GAP + LINE - 6], self.title(), TITLE, Anchor::Middle);
        let base = self.base(cell);
        let place = |number: usize| [GAP + number as u32 % 3 * pitch, top + number as u32 / 3 * row_height];
        for (number, (trail, colour)) in self.trails.iter().zip(COLOURS).enumerate() {
            let [left, top] = place(number);
            let reached = trail.reached_after(trail.visited.len(), self.patches());
            let count = reached.iter().filter(|reached| **reached).count();
            let words = format!("{}: {}, {count} read", number + 1, trail.walk.name());
            sheet.words([left, top + LINE - 7], shorten(&words, pitch - GAP, TEXT), TEXT, Anchor::Start);
            let shares: Vec<f32> = reached.iter().map(|reached| if *reached { 0.3 } else { 0.0 }).collect();
            let at = [left, top + LINE];
            sheet.picture(at, self.tinted(&base, cell, &shares, colour));
            for sequence in trail.walk.sequences(self.grid) {
                self.draw_sequence(&mut sheet, at, cell, &sequence, colour);
            }
            self.draw_query(&mut sheet, at, cell);
        }
        let [left, top] = place(4);
        let words = format!("together: {} of {} read", self.read(), self.patches());
        sheet.words([left, top + LINE - 7], words, TEXT, Anchor::Start);
        let shares: Vec<f32> = readers(&self.trails, self.patches()).iter().map(|readers| *readers as f32 * 0.19).collect();
        sheet.picture([left, top + LINE], self.tinted(&base, cell, &shares, UNION));
        self.draw_query(&mut sheet, [left, top + LINE], cell);
        draw_legend(&mut sheet, place(5));
        sheet
    }

    /// The patches without colours: the photo in pale grey, and lines between patches.
    pub(super) fn base(&self, cell: u32) -> RgbImage {
        let [width, height] = panel_size(self.grid, cell);
        let photo = self.photo.as_ref().map(|photo| covering(photo, [height, width]));
        RgbImage::from_fn(width, height, |x, y| {
            if x % cell == 0 || y % cell == 0 || x == width - 1 || y == height - 1 {
                return Rgb(GRID_LINES);
            }
            let Some(photo) = &photo else { return PAPER };
            let [red, green, blue] = photo.get_pixel(x, y).0.map(f32::from);
            let grey = 0.299 * red + 0.587 * green + 0.114 * blue;
            // Multiples of 8 make the animation small, without a visible difference.
            Rgb([((110.0 + grey * 0.56) / 8.0).round().min(31.0) as u8 * 8; 3])
        })
    }

    /// Blends a colour into every patch of `base`; the opacity of each patch is its share from 0 to 1.
    pub(super) fn tinted(&self, base: &RgbImage, cell: u32, shares: &[f32], colour: [u8; 3]) -> RgbImage {
        let mut out = base.clone();
        for (x, y, pixel) in out.enumerate_pixels_mut() {
            let row = ((y / cell) as usize).min(self.grid[0] - 1);
            let column = ((x / cell) as usize).min(self.grid[1] - 1);
            let share = shares[row * self.grid[1] + column];
            for (below, above) in pixel.0.iter_mut().zip(colour) {
                *below = (f32::from(*below) * (1.0 - share) + f32::from(above) * share).round() as u8;
            }
        }
        out
    }

    fn draw_query(&self, sheet: &mut Sheet, [left, top]: [u32; 2], cell: u32) {
        let [row, column] = self.query.map(|place| place as u32);
        for inset in 0..(cell / 8).clamp(1, 3) {
            let at = [left + column * cell + inset, top + row * cell + inset];
            sheet.outline(at.map(|place| place as i32), [cell + 1 - 2 * inset; 2], QUERY);
        }
    }

    /// Draws a sequence as straight runs with arrowheads, a dot at its start, and thin lines for jumps to patches that are not adjacent.
    fn draw_sequence(&self, sheet: &mut Sheet, [left, top]: [u32; 2], cell: u32, sequence: &[usize], colour: [u8; 3]) {
        let side = cell as f32;
        let middle =
            |[row, column]: [usize; 2]| [left as f32 + (column as f32 + 0.5) * side + 0.5, top as f32 + (row as f32 + 0.5) * side + 0.5];
        let runs = straight_runs(sequence, self.grid[1]);
        for pair in runs.windows(2) {
            sheet.line(middle(pair[0][1]), middle(pair[1][0]), 1.0, JUMPS);
        }
        let stroke = (side / 12.0).clamp(1.0, 2.5);
        for [from, to] in &runs {
            let (from, to) = (middle(*from), middle(*to));
            let length = f32::hypot(to[0] - from[0], to[1] - from[1]);
            if length == 0.0 {
                sheet.line(from, to, stroke * 2.0, colour);
                continue;
            }
            let along = [(to[0] - from[0]) / length, (to[1] - from[1]) / length];
            let head = (side * 0.4).clamp(3.0, 11.0);
            let tip = [to[0] + along[0] * head / 3.0, to[1] + along[1] * head / 3.0];
            let back = [tip[0] - along[0] * head, tip[1] - along[1] * head];
            sheet.line(from, back, stroke, colour);
            let wing = |sign: f32| [back[0] - sign * along[1] * head * 0.45, back[1] + sign * along[0] * head * 0.45];
            sheet.triangle([tip, wing(1.0), wing(-1.0)], colour);
        }
        if let Some([first, _]) = runs.first() {
            sheet.line(middle(*first), middle(*first), (side * 0.35).clamp(3.0, 10.0), colour);
        }
    }
}

fn draw_legend(sheet: &mut Sheet, [left, top]: [u32; 2]) {
    let words = |sheet: &mut Sheet, line: u32, words: &str| {
        sheet.words([left + 34, top + (line + 2) * LINE - 7], words, TEXT, Anchor::Start);
        [left as f32 + 12.0, (top + (line + 2) * LINE) as f32 - 12.0]
    };
    let [x, y] = words(sheet, 0, "start of a scan");
    sheet.line([x, y], [x, y], 10.0, INK.0);
    let [x, y] = words(sheet, 1, "direction");
    sheet.line([x - 12.0, y], [x + 4.0, y], 2.0, INK.0);
    sheet.triangle([[x + 12.0, y], [x + 2.0, y - 5.0], [x + 2.0, y + 5.0]], INK.0);
    let [x, y] = words(sheet, 2, "jump to the next line");
    sheet.line([x - 12.0, y], [x + 12.0, y], 1.0, JUMPS);
    let [x, y] = words(sheet, 3, "query");
    for inset in 0..3 {
        sheet.outline([x as i32 - 8 + inset, y as i32 - 8 + inset], [(17 - 2 * inset) as u32; 2], QUERY);
    }
    let [x, y] = words(sheet, 4, "read before the query's result");
    for (number, colour) in COLOURS.iter().enumerate() {
        let pale = colour.map(|part| (255.0 - (255.0 - f32::from(part)) * 0.3).round() as u8);
        sheet.filled([x as i32 - 12 + 6 * number as i32, y as i32 - 8], [6, 16], pale);
    }
    let [x, y] = words(sheet, 5, "read by 1, 2, 3, 4 scans");
    for readers in 1..=4 {
        let shade = UNION.map(|part| (255.0 - (255.0 - f32::from(part)) * 0.19 * readers as f32).round() as u8);
        sheet.filled([x as i32 - 18 + 6 * readers, y as i32 - 8], [6, 16], shade);
    }
}

/// First and last `[row, column]` of every straight run of adjacent patches in a sequence.
fn straight_runs(sequence: &[usize], width: usize) -> Vec<[[usize; 2]; 2]> {
    let place = |patch: usize| [patch / width, patch % width];
    let step = |from: [usize; 2], to: [usize; 2]| [to[0] as i64 - from[0] as i64, to[1] as i64 - from[1] as i64];
    let mut runs: Vec<[[usize; 2]; 2]> = Vec::new();
    for patch in sequence.iter().map(|patch| place(*patch)) {
        if let Some([first, last]) = runs.last_mut() {
            let [down, right] = step(*last, patch);
            let straight = first == last || step(*first, *last).map(i64::signum) == [down, right];
            if down.abs() + right.abs() == 1 && straight {
                *last = patch;
                continue;
            }
        }
        runs.push([patch, patch]);
    }
    runs
}

/// Side of a patch in pixels for panels with a longer side of about `panel`.
pub(super) fn cell(grid: [usize; 2], panel: u32) -> u32 {
    (panel / grid[0].max(grid[1]) as u32).clamp(3, 80)
}

/// `[width, height]` of a panel in pixels, with a line after the last patch.
pub(super) fn panel_size([height, width]: [usize; 2], cell: u32) -> [u32; 2] {
    [width as u32 * cell + 1, height as u32 * cell + 1]
}

/// The centre of a photo, resized to cover `[height, width]`.
fn covering(photo: &RgbImage, [height, width]: [u32; 2]) -> RgbImage {
    let scale = f64::max(f64::from(height) / f64::from(photo.height()), f64::from(width) / f64::from(photo.width()));
    let side = |photo: u32, wanted: u32| ((f64::from(photo) * scale).round() as usize).max(wanted as usize);
    let whole = [side(photo.height(), height), side(photo.width(), width)];
    resize_bicubic(photo, whole, Window::centre(whole, [height as usize, width as usize]))
}

/// The colours of the four walks and of all together.
pub(super) fn colours() -> [[u8; 3]; 5] {
    let [a, b, c, d] = COLOURS;
    [a, b, c, d, UNION]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_where_a_sequence_turns_or_jumps() {
        // Raster order on 2 x 3, a reversed column on 3 x 1, and a turn.
        assert_eq!(straight_runs(&[0, 1, 2, 3, 4, 5], 3), [[[0, 0], [0, 2]], [[1, 0], [1, 2]]]);
        assert_eq!(straight_runs(&[2, 1, 0], 1), [[[2, 0], [0, 0]]]);
        assert_eq!(straight_runs(&[0, 1, 3], 2), [[[0, 0], [0, 1]], [[1, 1], [1, 1]]]);
        assert_eq!(straight_runs(&[4], 3), [[[1, 1], [1, 1]]]);
    }

    #[test]
    fn the_legend_fits_beside_low_grids() {
        let folder = tempfile::tempdir().unwrap();
        let (png, svg) = (folder.path().join("a.png"), folder.path().join("a.svg"));
        for grid in [[1, 64], [1, 1], [64, 1], [8, 12]] {
            RouteFigure::new(ScanPattern::Cross, grid, [0, 0], None).unwrap().write(&png, &svg).unwrap();
            let height = image::open(&png).unwrap().height();
            let text = std::fs::read_to_string(&svg).unwrap();
            let last = text.lines().find(|line| line.contains("read by 1, 2, 3, 4 scans")).unwrap();
            let baseline: u32 = last.split(" y=\"").nth(1).and_then(|rest| rest.split('"').next()?.parse().ok()).unwrap();
            assert!(baseline + 5 < height, "{grid:?}: {baseline} of {height}");
            assert!(text.starts_with("<svg") && text.contains(&format!("height=\"{height}\"")), "{grid:?}");
        }
    }

    #[test]
    fn a_photo_of_any_shape_is_cropped_around_its_centre() {
        let photo = RgbImage::from_fn(90, 30, |x, _| if (30..60).contains(&x) { Rgb([10, 200, 30]) } else { Rgb([0; 3]) });
        let cut = covering(&photo, [60, 60]);
        assert_eq!(cut.dimensions(), (60, 60));
        assert_eq!(cut.get_pixel(30, 30).0, [10, 200, 30]);
        assert_eq!(cut.get_pixel(5, 50).0, [10, 200, 30]);
    }

    #[test]
    fn the_grey_of_a_photo_is_monotone_from_black_to_white() {
        let grey = |value: u8| {
            let photo = RgbImage::from_pixel(20, 20, Rgb([value; 3]));
            RouteFigure::new(ScanPattern::Cross, [1, 1], [0, 0], Some(photo)).unwrap().base(10).get_pixel(5, 5).0[0]
        };
        assert!((0..255).all(|value| grey(value) <= grey(value + 1)));
        assert_eq!([grey(0), grey(255)], [112, 248]);
    }

    #[test]
    fn exactly_the_patches_that_were_read_are_coloured() {
        let figure = RouteFigure::new(ScanPattern::Cross, [3, 5], [1, 2], None).unwrap();
        let (cell, base) = (10, figure.base(10));
        let columns = &figure.trails()[1];
        let reached = columns.reached_after(columns.visited.len(), 15);
        let shares: Vec<f32> = reached.iter().map(|reached| if *reached { 0.5 } else { 0.0 }).collect();
        let picture = figure.tinted(&base, cell, &shares, [0; 3]);
        for (patch, reached) in reached.iter().enumerate() {
            let (x, y) = (patch as u32 % 5 * cell + 5, patch as u32 / 5 * cell + 5);
            assert_eq!(picture.get_pixel(x, y).0 == [128; 3], *reached, "patch {patch}");
        }
    }
}
