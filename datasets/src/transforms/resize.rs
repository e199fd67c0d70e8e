//! Resize as OpenCV does it, bit for bit, because published weights were trained and tested with it.
//!
//! `INTER_LINEAR` on 8-bit pixels uses fixed point with 11 bits of weight; float interpolation differs by one level on about an eighth of
//! the pixels. When both axes are halved exactly, OpenCV averages 2x2 blocks instead. `INTER_NEAREST` takes the floor of the scaled
//! position rather than the nearest centre.

use image::RgbImage;
use rayon::prelude::*;
use vmamba_types::{LabelMap, nearest_positions};

/// The weight 1 in OpenCV's fixed point.
const ONE: f64 = 2048.0;

/// `[height, width]` of an image scaled by `scale`, as mmcv's `rescale_size`: `int(side * scale + 0.5)`.
pub fn scaled_size([height, width]: [usize; 2], scale: f64) -> [usize; 2] {
    [height, width].map(|side| ((side as f64 * scale + 0.5) as usize).max(1))
}

/// `[height, width]` of an image scaled to the largest size of its ratio whose long side is at most the larger of `limits` and whose short
/// side is at most the smaller.
pub fn fit_size([height, width]: [usize; 2], limits: [usize; 2]) -> [usize; 2] {
    let (long, short) = (height.max(width) as f64, height.min(width) as f64);
    let (long_limit, short_limit) = (limits[0].max(limits[1]) as f64, limits[0].min(limits[1]) as f64);
    scaled_size([height, width], (long_limit / long).min(short_limit / short))
}

/// Resizes to `[height, width]` with OpenCV's `INTER_LINEAR`, bit for bit.
pub fn resize_bilinear(image: &RgbImage, [height, width]: [usize; 2]) -> RgbImage {
    let (old_width, old_height) = (image.width() as usize, image.height() as usize);
    if [old_height, old_width] == [height, width] || old_height * old_width == 0 {
        return image.clone();
    }
    let source = image.as_raw();
    let mut pixels = vec![0; height * width * 3];
    if [old_height, old_width] == [2 * height, 2 * width] {
        halve(source, old_width, &mut pixels, width);
    } else {
        interpolate(source, [old_height, old_width], &mut pixels, [height, width]);
    }
    RgbImage::from_raw(width as u32, height as u32, pixels).unwrap_or_default()
}

/// The mean of every 2x2 block; halves are rounded up.
fn halve(source: &[u8], old_width: usize, pixels: &mut [u8], width: usize) {
    pixels.par_chunks_mut(width * 3).enumerate().for_each(|(y, row)| {
        let (top, bottom) = (&source[2 * y * old_width * 3..][..old_width * 3], &source[(2 * y + 1) * old_width * 3..][..old_width * 3]);
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            for (channel, value) in pixel.iter_mut().enumerate() {
                let at = 6 * x + channel;
                let sum = u16::from(top[at]) + u16::from(top[at + 3]) + u16::from(bottom[at]) + u16::from(bottom[at + 3]);
                *value = ((sum + 2) >> 2) as u8;
            }
        }
    });
}

/// The two neighbours that an output position interpolates: the first, and both weights in units of 1/2048.
#[derive(Clone, Copy)]
struct Tap {
    low: i64,
    weights: [i32; 2],
}

/// The taps of an axis. OpenCV multiplies by the reciprocal of the ratio, computes the position in double precision and its fraction in
/// single precision.
fn taps(old: usize, new: usize) -> Vec<Tap> {
    let scale = 1.0 / (new as f64 / old as f64);
    (0..new)
        .map(|index| {
            let position = ((index as f64 + 0.5) * scale - 0.5) as f32;
            let low = position.floor();
            let fraction = position - low;
            let weight = |w: f32| (f64::from(w) * ONE).round_ties_even() as i32;
            Tap { low: low as i64, weights: [weight(1.0 - fraction), weight(fraction)] }
        })
        .collect()
}

fn interpolate(source: &[u8], [old_height, old_width]: [usize; 2], pixels: &mut [u8], [height, width]: [usize; 2]) {
    let rows = taps(old_height, height);
    let whole = [2048, 0];
    // Beyond the left and right borders the border pixel has weight 1; beyond the top and bottom the rows are clamped and keep their
    // weights.
    let columns: Vec<(usize, usize, [i32; 2])> = taps(old_width, width)
        .into_iter()
        .map(|tap| match tap.low {
            low if low < 0 => (0, 0, whole),
            low if low as usize >= old_width - 1 => (3 * (old_width - 1), 3 * (old_width - 1), whole),
            low => (3 * low as usize, 3 * (low as usize + 1), tap.weights),
        })
        .collect();
    let row_at = |y: i64| {
        let y = y.clamp(0, old_height as i64 - 1) as usize;
        &source[y * old_width * 3..][..old_width * 3]
    };
    let stretch = |row: &[u8], target: &mut Vec<i32>| {
        target.clear();
        for (low, high, [a, b]) in &columns {
            for channel in 0..3 {
                target.push(i32::from(row[low + channel]) * a + i32::from(row[high + channel]) * b);
            }
        }
    };
    // A task computes a band of rows, because neighbouring rows share their stretched source rows.
    const BAND: usize = 16;
    pixels.par_chunks_mut(BAND * width * 3).enumerate().for_each(|(band, pixels)| {
        let mut stretched: [(Option<i64>, Vec<i32>); 2] = [(None, Vec::new()), (None, Vec::new())];
        for (tap, row) in rows[band * BAND..].iter().zip(pixels.chunks_exact_mut(width * 3)) {
            if stretched[1].0 == Some(tap.low) {
                stretched.swap(0, 1);
            }
            for (slot, y) in [tap.low, tap.low + 1].into_iter().enumerate() {
                if stretched[slot].0 != Some(y) {
                    stretch(row_at(y), &mut stretched[slot].1);
                    stretched[slot].0 = Some(y);
                }
            }
            let [top, bottom] = tap.weights;
            for ((value, a), b) in row.iter_mut().zip(&stretched[0].1).zip(&stretched[1].1) {
                *value = ((((top * (a >> 4)) >> 16) + ((bottom * (b >> 4)) >> 16) + 2) >> 2) as u8;
            }
        }
    });
}

/// Resizes labels to `[height, width]` with OpenCV's `INTER_NEAREST`.
pub fn resize_nearest(labels: &LabelMap, [height, width]: [usize; 2]) -> LabelMap {
    let [old_height, old_width] = labels.size();
    let columns = nearest_positions(old_width, width);
    let source = labels.as_slice();
    let pick = |y: usize| columns.iter().map(move |x| source[y * old_width + x]);
    LabelMap::new(height, width, nearest_positions(old_height, height).into_iter().flat_map(pick).collect())
}
