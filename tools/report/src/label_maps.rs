//! Pictures of label maps: overlays with class borders, legends and comparisons.
//!
//! Label maps are slices of class indices, row by row, of the size of their image. An index without an entry in the palette (255, the
//! ignored pixels) leaves the image unchanged in an overlay.

use std::path::Path;

use image::{GrayImage, Luma, Rgb, RgbImage};

use crate::error::ReportError;
use crate::files::write_picture;
use crate::pictures::{GAP, INK, LINE, PAPER, TEXT, enlarge, rectangle, shorten, side_by_side, stack, text_width, whole_factor, write};

/// Panels of a comparison are enlarged by an integer factor to at most this width, so that titles fit and pixels stay sharp.
const PANEL: u32 = 320;

/// Class names and colours, in the order of the indices.
#[derive(Clone, Copy, Debug)]
pub struct Classes<'a> {
    /// Name of every class.
    pub names: &'a [String],
    /// RGB colour of every class.
    pub palette: &'a [[u8; 3]],
}

/// Blends the colours of the classes over an image: `alpha` 0 shows the image, 1 the colours. Borders between classes are thin lines in nearly
/// the pure colour, so that regions stand out from the photo.
///
/// # Errors
/// When the label map and the image differ in size.
pub fn overlay(image: &RgbImage, labels: &[u8], palette: &[[u8; 3]], alpha: f32) -> Result<RgbImage, ReportError> {
    let (width, height) = image.dimensions();
    check_size(labels, width, height)?;
    let alpha = alpha.clamp(0.0, 1.0);
    let at = |x: u32, y: u32| labels[(y * width + x) as usize];
    let mut out = image.clone();
    for (x, y, pixel) in out.enumerate_pixels_mut() {
        let label = at(x, y);
        let Some(colour) = palette.get(usize::from(label)) else { continue };
        // A border is one pixel wide on either side. The edge of the image is no border.
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

/// Writes the class indices as an 8-bit grey picture, the format that training reads.
///
/// # Errors
/// When the sizes disagree or the file cannot be written.
pub fn save_labels(path: &Path, labels: &[u8], width: u32, height: u32) -> Result<(), ReportError> {
    check_size(labels, width, height)?;
    let map = GrayImage::from_fn(width, height, |x, y| Luma([labels[(y * width + x) as usize]]));
    write_picture(path, &map.into())
}

/// Image, ground truth if given, and prediction in a row with titles, above a legend with the shares of the prediction. Small images are
/// enlarged by an integer factor.
///
/// # Errors
/// When a label map and the image differ in size.
pub fn comparison(
    image: &RgbImage,
    truth: Option<&[u8]>,
    prediction: &[u8],
    classes: Classes,
    alpha: f32,
) -> Result<RgbImage, ReportError> {
    let (width, height) = image.dimensions();
    let factor = whole_factor(image, PANEL);
    let large = enlarge(image, factor);
    let coloured = |labels: &[u8]| -> Result<RgbImage, ReportError> {
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

/// A legend of the classes in `labels` with colour, name and share of the pixels, in descending order of their share; `width` pixels wide.
/// "no class" for pixels without a class comes last. At most 40 classes are named.
pub fn legend(labels: &[u8], classes: Classes, width: u32) -> RgbImage {
    legend_with(labels, &[], classes, width)
}

/// As [`legend`]; it also names the classes that only `others` has, with a share of 0 %.
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

/// Lays out legend entries from left to right and top to bottom.
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

fn check_size(labels: &[u8], width: u32, height: u32) -> Result<(), ReportError> {
    if labels.len() == width as usize * height as usize {
        return Ok(());
    }
    Err(ReportError::Shape { values: labels.len(), shape: vec![height as usize, width as usize] })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PALETTE: [[u8; 3]; 2] = [[255, 0, 0], [0, 0, 255]];

    fn names() -> Vec<String> {
        vec!["red thing".to_owned(), "blue thing".to_owned()]
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
}
