//! Pictures of objects: boxes, masks, names and scores over a photo.

use image::{Rgb, RgbImage};
use vmamba_types::{ClassList, Detection, Instance, MaskPatch};

use crate::pictures::{INK, LINE, TEXT, enlarge, rectangle, side_by_side, text_width, whole_factor, write};

/// Opacity of a mask inside and on its border.
const INSIDE: f32 = 0.4;
const BORDER: f32 = 0.9;

/// Pictures are enlarged by an integer factor to at most this width, so that small objects are visible.
const PANEL: u32 = 512;
/// Boxes with both sides below this many pixels get no label, because it would hide them.
const LABELLED: f32 = 40.0;

/// An object to draw.
struct Drawn {
    bbox: [f32; 4],
    mask: Option<MaskPatch>,
    colour: [u8; 3],
    label: String,
    /// Whether the box is one pixel wide instead of two; crowds have thin boxes.
    thin: bool,
}

/// Image, ground truth if given, and detections with a score of at least `score`, in a row with titles. Small images are enlarged by an
/// integer factor.
pub fn comparison(image: &RgbImage, truth: Option<&[Instance]>, found: &[Detection], classes: &ClassList, score: f32) -> RgbImage {
    let truth = truth.map(|truth| overlay_truth(image, truth, classes));
    let predicted = overlay(image, found, classes, score);
    let plain = enlarge(image, factor(image));
    let mut panels = vec![("image", &plain)];
    panels.extend(truth.as_ref().map(|truth| ("ground truth", truth)));
    panels.push(("prediction", &predicted));
    side_by_side(&panels)
}

/// The image with the detections whose score is at least `score`, the highest score on top; enlarged as in [`comparison`].
pub fn overlay(image: &RgbImage, found: &[Detection], classes: &ClassList, score: f32) -> RgbImage {
    let mut shown: Vec<&Detection> = found.iter().filter(|detection| detection.score >= score).collect();
    shown.sort_by(|a, b| a.score.total_cmp(&b.score));
    let drawn = shown.into_iter().map(|detection| Drawn {
        bbox: detection.bbox,
        mask: detection.mask.as_ref().map(MaskPatch::of),
        colour: colour(classes, detection.category),
        label: format!("{} {:.2}", name(classes, detection.category), detection.score),
        thin: false,
    });
    draw(image, drawn.collect())
}

/// The image with its annotated objects; enlarged as in [`comparison`].
pub fn overlay_truth(image: &RgbImage, truth: &[Instance], classes: &ClassList) -> RgbImage {
    let drawn = truth.iter().map(|instance| Drawn {
        bbox: instance.bbox,
        mask: instance.mask.as_ref().map(|mask| MaskPatch::of(&mask.rle())),
        colour: colour(classes, instance.category),
        label: if instance.crowd { format!("{} (crowd)", name(classes, instance.category)) } else { name(classes, instance.category) },
        thin: instance.crowd,
    });
    draw(image, drawn.collect())
}

fn factor(image: &RgbImage) -> u32 {
    whole_factor(image, PANEL)
}

/// The colour of a class at full brightness, so that lines are visible on dark pictures.
fn colour(classes: &ClassList, category: usize) -> [u8; 3] {
    let colour = classes.palette.get(category).copied().unwrap_or([255, 0, 255]);
    let most = u32::from(colour.into_iter().max().unwrap_or(0));
    if most == 0 { [255; 3] } else { colour.map(|part| (u32::from(part) * 255 / most) as u8) }
}

fn name(classes: &ClassList, category: usize) -> String {
    classes.names.get(category).cloned().unwrap_or_else(|| format!("class {category}"))
}

fn draw(image: &RgbImage, objects: Vec<Drawn>) -> RgbImage {
    let mut tinted = image.clone();
    for object in &objects {
        if let Some(mask) = &object.mask {
            tint(&mut tinted, mask, object.colour);
        }
    }
    let factor = factor(image);
    let mut out = enlarge(&tinted, factor);
    for object in &objects {
        outline(&mut out, object.bbox.map(|side| side * factor as f32), object.colour, if object.thin { 1 } else { 2 });
    }
    for object in &objects {
        let [x0, y0, x1, y1] = object.bbox.map(|side| side * factor as f32);
        if (x1 - x0).max(y1 - y0) >= LABELLED {
            label(&mut out, x0, y0, &object.label, object.colour);
        }
    }
    out
}

/// Blends the colour over the pixels of the mask, stronger on its border.
fn tint(image: &mut RgbImage, mask: &MaskPatch, colour: [u8; 3]) {
    let at = |y: usize, x: usize| mask.bits[y * mask.width + x] != 0;
    for y in 0..mask.height {
        for x in 0..mask.width {
            if !at(y, x) {
                continue;
            }
            let inner = y > 0 && x > 0 && y + 1 < mask.height && x + 1 < mask.width;
            let border = !(inner && at(y - 1, x) && at(y + 1, x) && at(y, x - 1) && at(y, x + 1));
            let share = if border { BORDER } else { INSIDE };
            if let Some(pixel) = image.get_pixel_mut_checked((mask.left + x) as u32, (mask.top + y) as u32) {
                for (p, c) in pixel.0.iter_mut().zip(colour) {
                    *p = (f32::from(*p) * (1.0 - share) + f32::from(c) * share + 0.5) as u8;
                }
            }
        }
    }
}

/// The outline of a box, clipped to the picture.
fn outline(image: &mut RgbImage, [x0, y0, x1, y1]: [f32; 4], colour: [u8; 3], width: u32) {
    let (w, h) = (image.width(), image.height());
    let clamp = |side: f32, limit: u32| (side.round().max(0.0) as u32).min(limit.saturating_sub(1));
    let (x0, y0, x1, y1) = (clamp(x0, w), clamp(y0, h), clamp(x1, w), clamp(y1, h));
    let colour = Rgb(colour);
    let (width_across, height_down) = (x1 - x0.min(x1) + 1, y1 - y0.min(y1) + 1);
    let line = width.min(width_across).min(height_down);
    rectangle(image, x0, y0, width_across, line, colour);
    rectangle(image, x0, (y1 + 1).saturating_sub(line), width_across, line, colour);
    rectangle(image, x0, y0, line, height_down, colour);
    rectangle(image, (x1 + 1).saturating_sub(line), y0, line, height_down, colour);
}

/// A name on a background of its colour, above the upper left corner of the box, moved into the picture if necessary.
fn label(image: &mut RgbImage, x: f32, y: f32, text: &str, colour: [u8; 3]) {
    let width = text_width(text, TEXT) + 6;
    let x = (x.max(0.0) as u32).min(image.width().saturating_sub(width));
    let y = (y.max(0.0) as u32).saturating_sub(LINE - 4).min(image.height().saturating_sub(LINE - 4));
    rectangle(image, x, y, width, LINE - 4, Rgb(colour));
    let [r, g, b] = colour.map(u32::from);
    // Black on bright colours, white on dark ones.
    let ink = if 3 * r + 6 * g + b > 1300 { INK } else { Rgb([255, 255, 255]) };
    write(image, x + 3, y, text, ink);
}

#[cfg(test)]
mod tests {
    use vmamba_types::{BitMask, Rle};

    use super::*;

    fn classes() -> ClassList {
        ClassList::new([("cat".to_owned(), [255, 0, 0]), ("dog".to_owned(), [0, 0, 255])])
    }

    fn detection(score: f32) -> Detection {
        let bits = (0..40 * 60).map(|i| (10..30).contains(&(i / 60)) && (20..50).contains(&(i % 60))).collect();
        let mask = Rle::from_bits(&BitMask::new(40, 60, bits));
        Detection { bbox: [20.0, 10.0, 50.0, 30.0], score, category: 1, mask: Some(mask) }
    }

    #[test]
    fn objects_are_drawn_from_the_score_threshold_on() {
        let image = RgbImage::from_pixel(60, 40, Rgb([100, 100, 100]));
        let factor = factor(&image);
        let drawn = overlay(&image, &[detection(0.9)], &classes(), 0.5);
        assert_eq!(drawn.width(), 60 * factor);
        let inside = drawn.get_pixel(40 * factor, 25 * factor).0;
        assert!(inside[2] > 140 && inside[0] < 100, "{inside:?}");
        assert_eq!(drawn.get_pixel(20 * factor, 20 * factor).0, [0, 0, 255], "the box is the pure colour");
        assert_eq!(overlay(&image, &[detection(0.4)], &classes(), 0.5), enlarge(&image, factor));
    }

    #[test]
    fn boxes_outside_the_picture_and_unknown_classes_do_not_panic() {
        let image = RgbImage::from_pixel(60, 40, Rgb([100, 100, 100]));
        for bbox in [
            [-50.0, -50.0, -10.0, -10.0],
            [70.0, 50.0, 90.0, 80.0],
            [-9.0, -9.0, 99.0, 99.0],
            [30.0, 20.0, 30.0, 20.0],
            [40.0, 30.0, 20.0, 10.0],
        ] {
            overlay(&image, &[Detection { bbox, category: 9, mask: None, score: 0.9 }], &classes(), 0.5);
        }
    }
}
