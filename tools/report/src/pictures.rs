//! Pictures of label maps: overlays with class borders, legends, comparisons and contact sheets.
//!
//! Label maps are slices of class indices, row by row, of the size of their image. An index without an entry in the palette (255, the
//! ignored pixels) leaves the image as it is in an overlay and is black in a colour map.

use std::path::Path;

use ab_glyph::{FontRef, PxScale};
use anyhow::{Context, Result, ensure};
use image::{GrayImage, Rgb, RgbImage, imageops};
use imageproc::drawing::{draw_filled_rect_mut, draw_text_mut, text_size};
use imageproc::rect::Rect;

use crate::files::write_picture;

/// Background of sheets and strips, and the colour of text on it.
pub const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
/// Colour of text.
pub const INK: Rgb<u8> = Rgb([32, 32, 32]);
/// Free space around panels, in pixels.
const GAP: u32 = 10;
/// Size of letters in pixels and the height of a line of them.
pub const TEXT: f32 = 15.0;
/// Height of a line of text in pixels.
pub const LINE: u32 = 22;
/// Panels of a comparison are enlarged by a whole factor until they are about this wide, so that titles fit and pixels stay pixels.
const PANEL: u32 = 320;

/// Class names and colours, in the order of the indices.
#[derive(Clone, Copy, Debug)]
pub struct Classes<'a> {
    /// One name a class.
    pub names: &'a [String],
    /// One RGB colour a class.
    pub palette: &'a [[u8; 3]],
}

/// The colour of every pixel's class; pixels without a class are black.
///
/// # Errors
/// When `labels` does not have `width * height` entries.
pub fn colour_map(labels: &[u8], width: u32, height: u32, palette: &[[u8; 3]]) -> Result<RgbImage> {
    check_size(labels, width, height)?;
    let bytes = labels.iter().flat_map(|&l| palette.get(usize::from(l)).copied().unwrap_or([0; 3])).collect();
    RgbImage::from_raw(width, height, bytes).context("three bytes a pixel")
}

/// The image with the colours of its classes laid over it: `alpha` 0 shows the image, 1 the colours. Borders between classes are drawn as
/// thin lines in the full colour of the class, so that a region can be told from the photo below.
///
/// # Errors
/// When the label map is not of the image's size.
pub fn overlay(image: &RgbImage, labels: &[u8], palette: &[[u8; 3]], alpha: f32) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    check_size(labels, width, height)?;
    let alpha = alpha.clamp(0.0, 1.0);
    let at = |x: u32, y: u32| labels[(y * width + x) as usize];
    let mut out = image.clone();
    for (x, y, pixel) in out.enumerate_pixels_mut() {
        let label = at(x, y);
        let Some(colour) = palette.get(usize::from(label)) else { continue };
        // Lines lie on both sides of a border, one pixel each; the picture's own edge is none.
        let border = (x > 0 && at(x - 1, y) != label)
            || (y > 0 && at(x, y - 1) != label)
            || (x + 1 < width && at(x + 1, y) != label)
            || (y + 1 < height && at(x, y + 1) != label);
        let share = if border { alpha.max(0.85) } else { alpha };
        for (p, &c) in pixel.0.iter_mut().zip(colour) {
            *p = (f32::from(*p) * (1.0 - share) + f32::from(c) * share + 0.5) as u8;
        }
    }
    Ok(out)
}

/// Writes the class indices as an 8-bit grey PNG, the form that training reads and other programs understand.
///
/// # Errors
/// When the sizes disagree or the file cannot be written.
pub fn save_labels(path: &Path, labels: &[u8], width: u32, height: u32) -> Result<()> {
    check_size(labels, width, height)?;
    let map = GrayImage::from_raw(width, height, labels.to_vec()).context("one byte a pixel")?;
    write_picture(path, &map.into())
}

/// Writes a picture; the ending of the path decides the format.
///
/// # Errors
/// When the file cannot be written.
pub fn save(path: &Path, picture: &RgbImage) -> Result<()> {
    write_picture(path, &picture.clone().into())
}

/// A strip with colour, name and share of the pixels of every class that occurs in `labels`, the largest first; `width` pixels wide and
/// as high as it needs. Pixels without a class come last as "no class". At most 40 classes are named.
pub fn legend(labels: &[u8], classes: Classes, width: u32) -> RgbImage {
    legend_with(labels, &[], classes, width)
}

/// The legend of `labels` that also names the classes that occur in `others` only, with a share of 0 %.
fn legend_with(labels: &[u8], others: &[u8], classes: Classes, width: u32) -> RgbImage {
    const MOST: usize = 40;
    let mut counts = [0u64; 256];
    let mut occurs = [false; 256];
    for &label in labels {
        counts[usize::from(label)] += 1;
        occurs[usize::from(label)] = true;
    }
    others.iter().for_each(|&l| occurs[usize::from(l)] = true);
    let total = labels.len().max(1) as f64;
    let known = classes.palette.len().min(256);
    let mut present: Vec<usize> = (0..known).filter(|&c| occurs[c]).collect();
    present.sort_by_key(|&c| std::cmp::Reverse(counts[c]));
    let percent = |count: u64| {
        let share = 100.0 * count as f64 / total;
        if count > 0 && share < 0.1 { "<0.1%".to_owned() } else { format!("{share:.1}%") }
    };
    let name = |c: usize| classes.names.get(c).cloned().unwrap_or_else(|| format!("class {c}"));
    let mut entries: Vec<(Option<[u8; 3]>, String)> =
        present.iter().take(MOST).map(|&c| (Some(classes.palette[c]), format!("{} {}", name(c), percent(counts[c])))).collect();
    if present.len() > MOST {
        entries.push((None, format!("and {} more", present.len() - MOST)));
    }
    let unknown: u64 = counts[known..].iter().sum();
    if unknown > 0 {
        entries.push((Some([0; 3]), format!("no class {}", percent(unknown))));
    }
    legend_strip(&entries, width)
}

/// Lays out entries from left to right and top to bottom.
fn legend_strip(entries: &[(Option<[u8; 3]>, String)], width: u32) -> RgbImage {
    const SWATCH: u32 = 13;
    let (mut x, mut y) = (GAP, GAP / 2);
    let mut places = Vec::with_capacity(entries.len());
    for (colour, text) in entries {
        let text = shorten(text, width.saturating_sub(2 * GAP + SWATCH + 5), TEXT);
        let long = colour.map_or(0, |_| SWATCH + 5) + text_width(&text, TEXT);
        if x > GAP && x + long + GAP > width {
            x = GAP;
            y += LINE;
        }
        places.push((x, y, *colour, text));
        x += long + 2 * GAP;
    }
    let mut strip = RgbImage::from_pixel(width, y + LINE + GAP / 2, PAPER);
    for (x, y, colour, text) in places {
        let mut at = x;
        if let Some(colour) = colour {
            rectangle(&mut strip, x, y + 3, SWATCH, SWATCH, INK);
            rectangle(&mut strip, x + 1, y + 4, SWATCH - 2, SWATCH - 2, Rgb(colour));
            at += SWATCH + 5;
        }
        write(&mut strip, at, y + 1, &text, INK);
    }
    strip
}

/// Pictures in a row, each under its title; lower ones are aligned at the top.
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

/// Pictures below each other, left aligned.
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

/// Image, ground truth (where there is one) and prediction beside each other with titles, and a legend with the shares of the
/// prediction below. Small images are enlarged by a whole factor.
///
/// # Errors
/// When a label map is not of the image's size.
pub fn comparison(image: &RgbImage, truth: Option<&[u8]>, prediction: &[u8], classes: Classes, alpha: f32) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    let factor = (PANEL / width.max(1)).max(1);
    let large = enlarge(image, factor);
    let coloured = |labels: &[u8]| -> Result<RgbImage> {
        check_size(labels, width, height)?;
        overlay(&large, &enlarge_labels(labels, width, factor), classes.palette, alpha)
    };
    let others = truth.unwrap_or_default();
    let truth = truth.map(coloured).transpose()?;
    let predicted = coloured(prediction)?;
    let mut panels = vec![("image", &large)];
    panels.extend(truth.as_ref().map(|t| ("ground truth", t)));
    panels.push(("prediction", &predicted));
    let row = side_by_side(&panels);
    Ok(stack(&[&row, &legend_with(prediction, others, classes, row.width())]))
}

/// Cells with titles in rows of `columns`, each scaled to be `cell_width` wide, as an overview of many images.
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

/// Scales to a width: down smoothly, up in whole pixels.
pub fn fit(image: &RgbImage, width: u32) -> RgbImage {
    let (w, h) = image.dimensions();
    if w == width || w == 0 || h == 0 {
        return image.clone();
    }
    let height = ((u64::from(h) * u64::from(width) + u64::from(w) / 2) / u64::from(w)).max(1) as u32;
    let filter = if w > width { imageops::FilterType::Triangle } else { imageops::FilterType::Nearest };
    imageops::resize(image, width, height, filter)
}

/// One line of text on a strip of the given width, for headings.
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

/// Repeats every pixel `factor` times in both directions.
pub fn enlarge(image: &RgbImage, factor: u32) -> RgbImage {
    if factor == 1 {
        return image.clone();
    }
    imageops::resize(image, image.width() * factor, image.height() * factor, imageops::FilterType::Nearest)
}

fn enlarge_labels(labels: &[u8], width: u32, factor: u32) -> Vec<u8> {
    let factor = factor as usize;
    labels
        .chunks_exact(width.max(1) as usize)
        .flat_map(|row| {
            let wide: Vec<u8> = row.iter().flat_map(|&l| std::iter::repeat_n(l, factor)).collect();
            std::iter::repeat_n(wide, factor).flatten()
        })
        .collect()
}

fn check_size(labels: &[u8], width: u32, height: u32) -> Result<()> {
    let expected = width as usize * height as usize;
    ensure!(labels.len() == expected, "a label map of {} pixels does not fit an image of {width}x{height} = {expected}", labels.len());
    Ok(())
}

/// The built-in font.
pub fn font() -> FontRef<'static> {
    // The font is part of the program; `the_built_in_font_is_readable` is the evidence.
    FontRef::try_from_slice(dejavu::sans::regular()).expect("the built-in font is readable")
}

/// Width of a text in pixels.
pub fn text_width(text: &str, size: f32) -> u32 {
    text_size(PxScale::from(size), &font(), text).0
}

/// The text, or as much of it as fits into `width` pixels with an ellipsis behind it.
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

/// Fills a rectangle; parts outside the picture are left out.
pub fn rectangle(out: &mut RgbImage, x: u32, y: u32, width: u32, height: u32, colour: Rgb<u8>) {
    draw_filled_rect_mut(out, Rect::at(x as i32, y as i32).of_size(width.max(1), height.max(1)), colour);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PALETTE: [[u8; 3]; 2] = [[255, 0, 0], [0, 0, 255]];

    fn names() -> Vec<String> {
        vec!["red thing".to_owned(), "blue thing".to_owned()]
    }

    #[test]
    fn the_built_in_font_is_readable() {
        assert!(text_width("mIoU 0.5 äö …", TEXT) > 50);
    }

    #[test]
    fn overlay_mixes_colours_and_leaves_ignored_pixels() {
        let image = RgbImage::from_pixel(4, 1, Rgb([100, 100, 100]));
        let out = overlay(&image, &[0, 0, 255, 255], &PALETTE, 0.5).unwrap();
        assert_eq!(out.get_pixel(0, 0).0, [178, 50, 50]);
        assert_eq!(out.get_pixel(1, 0).0, [232, 15, 15], "the border is nearly the pure colour");
        assert_eq!(out.get_pixel(3, 0).0, [100, 100, 100]);
        assert!(overlay(&image, &[0, 0, 0], &PALETTE, 0.5).is_err());
    }

    #[test]
    fn a_colour_map_is_black_without_a_class() {
        let map = colour_map(&[0, 1, 255], 3, 1, &PALETTE).unwrap();
        assert_eq!(map.as_raw()[..], [255, 0, 0, 0, 0, 255, 0, 0, 0]);
    }

    #[test]
    fn saved_labels_come_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.png");
        save_labels(&path, &[0, 1, 149, 255], 2, 2).unwrap();
        assert_eq!(image::open(&path).unwrap().to_luma8().into_raw(), [0, 1, 149, 255]);
    }

    #[test]
    fn long_legends_wrap_and_keep_their_width() {
        let names: Vec<String> = (0..60).map(|i| format!("class number {i}")).collect();
        let palette: Vec<[u8; 3]> = (0..60).map(|i| [i as u8 * 4, 0, 200]).collect();
        let labels: Vec<u8> = (0..60).collect();
        let strip = legend(&labels, Classes { names: &names, palette: &palette }, 400);
        assert_eq!(strip.width(), 400);
        assert!(strip.height() > 10 * LINE);
    }

    #[test]
    fn a_comparison_has_a_panel_for_each_map_and_a_legend() {
        let image = RgbImage::from_pixel(64, 32, Rgb([10, 20, 30]));
        let labels = vec![1u8; 64 * 32];
        let names = names();
        let classes = Classes { names: &names, palette: &PALETTE };
        let three = comparison(&image, Some(&labels), &labels, classes, 0.5).unwrap();
        let two = comparison(&image, None, &labels, classes, 0.5).unwrap();
        assert_eq!(three.width() - two.width(), 64 * 5 + GAP);
        assert!(three.height() > 32 * 5 + LINE);
        assert!(comparison(&image, Some(&labels[1..]), &labels, classes, 0.5).is_err());
    }

    #[test]
    fn titles_are_shortened_to_their_panel() {
        let short = shorten("a_very_long_file_name_0123456789.png", 80, TEXT);
        assert!(short.ends_with('…') && text_width(&short, TEXT) <= 80);
        assert_eq!(shorten("ab", 80, TEXT), "ab");
    }

    #[test]
    fn contact_sheets_arrange_cells_in_rows() {
        let cells: Vec<(String, RgbImage)> = (0..5).map(|i| (format!("{i}"), RgbImage::new(30, 20))).collect();
        let sheet = contact_sheet(&cells, 3, 60);
        assert_eq!(sheet.width(), 3 * 60 + 4 * GAP);
        assert_eq!(sheet.height(), 2 * (40 + LINE + 2 * GAP));
    }
}
