//! A panel of a figure: a heat map, the picture under it and the marks over it.

use image::{RgbImage, imageops};

use super::map::HeatMap;

/// Colour of the hatching over blank cells, and the distance of its lines in pixels.
const HATCH: [u8; 3] = [205; 3];
const HATCH_STEP: u32 = 7;
/// Colour of blank cells without a picture under them.
const BLANK: [u8; 3] = [120; 3];
/// Colour of marks.
pub const DARK: [u8; 3] = [20; 3];

/// A mark over a map. Coordinates are in cells of the map; 0 is the upper or left edge, so the centre of the first cell is at 0.5.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mark {
    /// A cross centred at `[row, column]`.
    Cross([f32; 2]),
    /// A dot centred at `[row, column]`.
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

/// One map of a figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// The map.
    pub map: HeatMap,
    /// Whether each cell is blank, row by row; empty if none is. Blank cells are hatched over the darkened grey picture and do not count in
    /// the range of a figure.
    pub blank: Vec<bool>,
    /// A picture under the map, stretched to the panel.
    pub photo: Option<RgbImage>,
    /// Opacity of the map over the picture, 0 to 1.
    pub alpha: f32,
    /// Marks over the map.
    pub marks: Vec<Mark>,
    /// Caption under the panel; may be empty or have several lines.
    pub note: String,
}

impl Panel {
    /// A panel with a map and nothing else.
    pub fn new(map: HeatMap) -> Self {
        Self { map, blank: Vec::new(), photo: None, alpha: 1.0, marks: Vec::new(), note: String::new() }
    }

    /// Minimum and maximum of the finite values in cells that are not blank.
    pub(super) fn range(&self) -> Option<[f32; 2]> {
        let shown = self.map.values().iter().enumerate().filter(|(cell, value)| !self.is_blank(*cell) && value.is_finite());
        shown.fold(None, |range, (_, value)| {
            let [low, high] = range.unwrap_or([*value; 2]);
            Some([f32::min(low, *value), f32::max(high, *value)])
        })
    }

    fn is_blank(&self, cell: usize) -> bool {
        self.blank.get(cell).copied().unwrap_or(false)
    }

    pub(super) fn note_lines(&self) -> u32 {
        self.note.lines().count() as u32
    }

    pub(super) fn height(&self, width: u32) -> u32 {
        let [rows, columns] = self.map.size();
        ((f64::from(width) * rows as f64 / columns as f64).round() as u32).max(1)
    }

    pub(super) fn picture(&self, width: u32, colour: &dyn Fn(f32) -> [u8; 3]) -> RgbImage {
        let height = self.height(width);
        let map = self.map.resampled_without([height as usize, width as usize], &|cell| self.is_blank(cell));
        let beneath = self.photo.as_ref().map(|photo| imageops::resize(photo, width, height, imageops::FilterType::Triangle));
        let alpha = self.alpha.clamp(0.0, 1.0);
        let [rows, columns] = self.map.size();
        let cell = |x: u32, y: u32| y as usize * rows / height as usize * columns + x as usize * columns / width as usize;
        RgbImage::from_fn(width, height, |x, y| {
            if self.is_blank(cell(x, y)) {
                return blank_pixel([x, y], beneath.as_ref().map(|photo| photo.get_pixel(x, y).0));
            }
            let above = colour(map.values()[(y * width + x) as usize]);
            let Some(beneath) = &beneath else { return image::Rgb(above) };
            let mut mixed = beneath.get_pixel(x, y).0;
            for (out, above) in mixed.iter_mut().zip(above) {
                *out = (f32::from(*out) * (1.0 - alpha) + f32::from(above) * alpha).round() as u8;
            }
            image::Rgb(mixed)
        })
    }
}

/// The colour of a blank cell at `[x, y]` of its panel, over a pixel of the picture.
pub(super) fn blank_pixel([x, y]: [u32; 2], beneath: Option<[u8; 3]>) -> image::Rgb<u8> {
    let grey = beneath.map(|pixel| {
        let [red, green, blue] = pixel.map(f32::from);
        [((0.299 * red + 0.587 * green + 0.114 * blue) * 0.5).round() as u8; 3]
    });
    image::Rgb(if (x + y) % HATCH_STEP == 0 { HATCH } else { grey.unwrap_or(BLANK) })
}
