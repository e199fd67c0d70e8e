//! Resize as Pillow does it, bit for bit, because published classifiers were trained and tested with it.
//!
//! Unlike OpenCV, Pillow widens the filter when an image shrinks (antialiasing). Its 8-bit path uses fixed point with 22 bits of weight:
//! first along the rows, rounded to 8 bits, then along the columns (`Resample.c`).

use std::ops::Range;

use image::RgbImage;

/// Fractional bits of Pillow's weights: 32 less 8 for the pixel and 2 against overflow.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Half the width of the cubic filter, in pixels of the coarser grid.
const SUPPORT: f64 = 2.0;

/// A part of a resized image, in pixels of the resized image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// `[height, width]`.
    pub size: [usize; 2],
}

impl Window {
    /// The whole of an image of `size` = `[height, width]`.
    pub fn whole(size: [usize; 2]) -> Self {
        Self { top: 0, left: 0, size }
    }

    /// The centre crop of at most `size` = `[height, width]`. As in torchvision's `CenterCrop`, which rounds halves to even, an odd
    /// remainder puts the first row or column on the even one of the two middle positions.
    pub fn centre([height, width]: [usize; 2], size: [usize; 2]) -> Self {
        let size = [size[0].min(height), size[1].min(width)];
        let begin = |whole: usize, part: usize| ((whole - part) as f64 / 2.0).round_ties_even() as usize;
        Self { top: begin(height, size[0]), left: begin(width, size[1]), size }
    }
}

/// `[height, width]` of an image scaled so that its shorter side is `side`; the longer side is truncated to whole pixels (torchvision's
/// `Resize` with one number).
pub fn shorter_side_size([height, width]: [usize; 2], side: usize) -> [usize; 2] {
    let long = |long: usize, short: usize| ((side * long) as f64 / short.max(1) as f64) as usize;
    if width <= height { [long(height, width), side] } else { [side, long(width, height)] }
}

/// Resizes to `[height, width]` with Pillow's `BICUBIC`, bit for bit, and returns the `window` of the result. Pixels outside the window are
/// not computed.
///
/// # Panics
/// When the window is not inside `[height, width]`.
pub fn resize_bicubic(image: &RgbImage, [height, width]: [usize; 2], window: Window) -> RgbImage {
    let Window { top, left, size: [rows, columns] } = window;
    assert!(top + rows <= height && left + columns <= width, "resize_bicubic: {window:?} is not inside {height} x {width}");
    let (old_width, old_height) = (image.width() as usize, image.height() as usize);
    if old_width * old_height * rows * columns == 0 {
        return RgbImage::new(columns as u32, rows as u32);
    }
    let (across, down) = (taps(old_width, width, left..left + columns), taps(old_height, height, top..top + rows));
    // The first pass resizes only the source rows that the window reads.
    let first = down.iter().map(|taps| taps.first).min().unwrap_or(0);
    let last = down.iter().map(|taps| taps.first + taps.weights.len()).max().unwrap_or(0);
    let mut stretched = Vec::with_capacity((last - first) * columns * 3);
    for row in image.as_raw().chunks_exact(old_width * 3).take(last).skip(first) {
        for taps in &across {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[3 * taps.first..].as_chunks::<3>().0.iter().zip(&taps.weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            stretched.extend(sums.map(level));
        }
    }
    let mut pixels = Vec::with_capacity(rows * columns * 3);
    let mut sums = vec![HALF; columns * 3];
    for taps in &down {
        sums.fill(HALF);
        let sources = stretched.chunks_exact(columns * 3).skip(taps.first - first);
        for (source, weight) in sources.zip(&taps.weights) {
            for (sum, value) in sums.iter_mut().zip(source) {
                *sum += i32::from(*value) * weight;
            }
        }
        pixels.extend(sums.iter().map(|sum| level(*sum)));
    }
    RgbImage::from_raw(columns as u32, rows as u32, pixels).unwrap_or_default()
}

/// One half: the start of every sum, so that truncation rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Converts a weighted sum to a level of 0 to 255.
fn level(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// The neighbours that an output position sums: from `first` on, with weights in units of 2^-22.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of the output positions `range` of an axis that is resized from `old` to `new` pixels.
fn taps(old: usize, new: usize, range: Range<usize>) -> Vec<Taps> {
    let scale = old as f64 / new as f64;
    let widening = scale.max(1.0);
    let (support, narrowing) = (SUPPORT * widening, 1.0 / widening);
    let at = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(old);
        let weights: Vec<f64> = (first..end).map(|x| cubic((x as f64 - centre + 0.5) * narrowing)).collect();
        let total: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / total * f64::from(1 << PRECISION_BITS)).round() as i32;
        Taps { first, weights: weights.iter().map(fixed).collect() }
    };
    range.map(at).collect()
}

/// Keys' cubic filter with a = -0.5, as in Pillow; OpenCV and PyTorch's tensors use -0.75.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 37 + y * 11) as u8, (x * y) as u8, (255 - x) as u8]))
    }

    #[test]
    fn a_window_equals_its_part_of_the_whole() {
        let image = picture(31, 47);
        for size in [[20, 13], [64, 90], [47, 31]] {
            let whole = resize_bicubic(&image, size, Window::whole(size));
            let window = Window { top: 3, left: 2, size: [11, 9] };
            let part = image::imageops::crop_imm(&whole, 2, 3, 9, 11).to_image();
            assert_eq!(resize_bicubic(&image, size, window), part, "{size:?}");
        }
    }

    #[test]
    fn an_unchanged_size_changes_no_pixel_and_a_constant_stays_constant() {
        let image = picture(31, 47);
        assert_eq!(resize_bicubic(&image, [47, 31], Window::whole([47, 31])), image);
        let grey = RgbImage::from_pixel(7, 5, image::Rgb([93, 0, 255]));
        let resized = resize_bicubic(&grey, [12, 3], Window::whole([12, 3]));
        assert!(resized.pixels().all(|pixel| pixel.0 == [93, 0, 255]));
    }

    #[test]
    fn a_long_strip_is_resized_inside_its_window_only() {
        let strip = RgbImage::from_pixel(100_000, 1, image::Rgb([5, 6, 7]));
        let size = shorter_side_size([1, 100_000], 256);
        assert_eq!(size, [256, 25_600_000]);
        let crop = resize_bicubic(&strip, size, Window::centre(size, [224, 224]));
        assert!(crop.pixels().all(|pixel| pixel.0 == [5, 6, 7]) && crop.dimensions() == (224, 224));
    }

    #[test]
    fn centre_crops_begin_as_in_torchvision() {
        // Halves round to even: 5 / 2 = 2.5 to 2, 7 / 2 = 3.5 to 4.
        assert_eq!(Window::centre([9, 11], [4, 4]), Window { top: 2, left: 4, size: [4, 4] });
        assert_eq!(Window::centre([3, 8], [4, 4]), Window { top: 0, left: 2, size: [3, 4] });
    }
}
