//! Words, rectangles and arrangements of pictures: rows, stacks and contact sheets.

use std::path::Path;

use ab_glyph::{FontRef, PxScale};
use image::{Rgb, RgbImage, imageops};
use imageproc::drawing::{draw_filled_rect_mut, draw_text_mut, text_size};
use imageproc::rect::Rect;

use crate::error::ReportError;
use crate::files::write_picture;

/// Background of figures.
pub const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
/// Colour of text.
pub const INK: Rgb<u8> = Rgb([32, 32, 32]);
/// Free space around panels, in pixels.
pub(crate) const GAP: u32 = 10;
/// Font size in pixels.
pub const TEXT: f32 = 15.0;
/// Height of a line of text in pixels.
pub const LINE: u32 = 22;

/// Writes a picture as PNG.
///
/// # Errors
/// When the path does not end with `.png`, or the file cannot be written.
pub fn save(path: &Path, picture: &RgbImage) -> Result<(), ReportError> {
    write_picture(path, &picture.clone().into())
}

/// Pictures in a row, aligned at the top, each under its title.
pub fn side_by_side(panels: &[(&str, &RgbImage)]) -> RgbImage {
    let width = panels.iter().map(|(_, p)| p.width() + GAP).sum::<u32>() + GAP;
    let height = panels.iter().map(|(_, p)| p.height()).max().unwrap_or(0) + LINE + 2 * GAP;
    let mut out = RgbImage::from_pixel(width, height, PAPER);
    let mut x = GAP;
    for (title, panel) in panels {
        write(&mut out, x, GAP / 2, &shorten(title, panel.width(), TEXT), INK);
        imageops::replace(&mut out, *panel, i64::from(x), i64::from(GAP / 2 + LINE));
        x += panel.width() + GAP;
    }
    out
}

/// Pictures in a column, aligned on the left.
pub fn stack(parts: &[&RgbImage]) -> RgbImage {
    let width = parts.iter().map(|p| p.width()).max().unwrap_or(1);
    let height = parts.iter().map(|p| p.height()).sum::<u32>().max(1);
    let mut out = RgbImage::from_pixel(width, height, PAPER);
    let mut y = 0;
    for part in parts {
        imageops::replace(&mut out, *part, 0, y);
        y += i64::from(part.height());
    }
    out
}

/// An overview of many images: titled cells in rows of `columns`, each scaled to a width of `cell_width` pixels.
pub fn contact_sheet(cells: &[(String, RgbImage)], columns: usize, cell_width: u32) -> RgbImage {
    let columns = columns.clamp(1, cells.len().max(1));
    let rows: Vec<RgbImage> = cells
        .chunks(columns)
        .map(|row| {
            let scaled: Vec<(&str, RgbImage)> = row.iter().map(|(title, cell)| (title.as_str(), fit(cell, cell_width))).collect();
            side_by_side(&scaled.iter().map(|(title, cell)| (*title, cell)).collect::<Vec<_>>())
        })
        .collect();
    stack(&rows.iter().collect::<Vec<_>>())
}

/// Scales a picture to a width of `width` pixels, or to a height of four times that where it would be higher: smaller with a triangle
/// filter, larger with nearest neighbours.
pub fn fit(image: &RgbImage, width: u32) -> RgbImage {
    let (w, h) = image.dimensions();
    if w == 0 || h == 0 {
        return image.clone();
    }
    let scaled = |side: u32, target: u32, of: u32| ((u64::from(side) * u64::from(target) + u64::from(of) / 2) / u64::from(of)).max(1);
    let highest = width.saturating_mul(4);
    let (width, height) = match scaled(h, width, w) {
        height if height > u64::from(highest) => (scaled(w, highest, h) as u32, highest),
        height => (width, height as u32),
    };
    if (w, h) == (width, height) {
        return image.clone();
    }
    let filter = if w > width { imageops::FilterType::Triangle } else { imageops::FilterType::Nearest };
    imageops::resize(image, width, height, filter)
}

/// A heading: one line of text on a strip of the given width.
pub fn heading(text: &str, width: u32) -> RgbImage {
    const SIZE: f32 = 19.0;
    let mut strip = RgbImage::from_pixel(width, LINE + GAP, PAPER);
    draw_text_mut(
        &mut strip,
        INK,
        GAP as i32,
        (GAP / 2) as i32,
        PxScale::from(SIZE),
        &font(),
        &shorten(text, width.saturating_sub(2 * GAP), SIZE),
    );
    strip
}

/// The largest whole factor by which an image can be enlarged without being wider than `panel` pixels or higher than twice that. A factor
/// by the width alone makes gigabytes of an image of 1 x 8000 pixels.
pub fn whole_factor(image: &RgbImage, panel: u32) -> u32 {
    (panel / image.width().max(1)).min(2 * panel / image.height().max(1)).max(1)
}

/// Repeats every pixel `factor` times in both directions.
pub fn enlarge(image: &RgbImage, factor: u32) -> RgbImage {
    if factor == 1 {
        return image.clone();
    }
    imageops::resize(image, image.width() * factor, image.height() * factor, imageops::FilterType::Nearest)
}

/// The built-in font.
pub fn font() -> FontRef<'static> {
    // The font is part of the program; the test `the_built_in_font_is_readable` covers it.
    FontRef::try_from_slice(dejavu::sans::regular()).expect("the built-in font is readable")
}

/// Width of a text in pixels.
pub fn text_width(text: &str, size: f32) -> u32 {
    text_size(PxScale::from(size), &font(), text).0
}

/// The text, truncated with an ellipsis where it is wider than `width` pixels.
pub fn shorten(text: &str, width: u32, size: f32) -> String {
    if text_width(text, size) <= width {
        return text.to_owned();
    }
    let mut kept: Vec<char> = text.chars().collect();
    while kept.pop().is_some() {
        let shorter: String = kept.iter().chain(&['…']).collect();
        if text_width(&shorter, size) <= width {
            return shorter;
        }
    }
    String::new()
}

/// Writes a text with its top left corner at `(x, y)`.
pub fn write(out: &mut RgbImage, x: u32, y: u32, text: &str, colour: Rgb<u8>) {
    draw_text_mut(out, colour, x as i32, y as i32, PxScale::from(TEXT), &font(), text);
}

/// Fills a rectangle, clipped to the picture.
pub fn rectangle(out: &mut RgbImage, x: u32, y: u32, width: u32, height: u32, colour: Rgb<u8>) {
    draw_filled_rect_mut(out, Rect::at(x as i32, y as i32).of_size(width.max(1), height.max(1)), colour);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_font_is_readable() {
        assert!(text_width("mIoU 0.5 äö …", TEXT) > 50);
    }

    #[test]
    fn titles_are_shortened_to_their_panel() {
        let short = shorten("a_very_long_file_name_0123456789.png", 80, TEXT);
        assert!(short.ends_with('…') && text_width(&short, TEXT) <= 80);
        assert_eq!(shorten("ab", 80, TEXT), "ab");
    }

    #[test]
    fn tall_narrow_pictures_are_not_enlarged_beyond_their_panel() {
        for (width, height) in [(1, 8000), (3, 5000), (2, 3000), (1, 100_000)] {
            let image = RgbImage::new(width, height);
            assert_eq!(whole_factor(&image, 512), 1, "{width} x {height}");
            let fitted = fit(&image, 300);
            assert!(fitted.width() <= 300 && fitted.height() <= 1200, "{:?}", fitted.dimensions());
        }
        assert_eq!(whole_factor(&RgbImage::new(60, 40), 512), 8);
        assert_eq!(whole_factor(&RgbImage::new(100, 300), 512), 3);
        assert_eq!(fit(&RgbImage::new(1_000_000, 1), 300).dimensions(), (300, 1));
    }

    #[test]
    fn contact_sheets_arrange_cells_in_rows() {
        let cells: Vec<(String, RgbImage)> = (0..5).map(|i| (format!("{i}"), RgbImage::new(30, 20))).collect();
        let sheet = contact_sheet(&cells, 3, 60);
        assert_eq!(sheet.width(), 3 * 60 + 4 * GAP);
        assert_eq!(sheet.height(), 2 * (40 + LINE + 2 * GAP));
    }
}
