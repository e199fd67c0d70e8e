//! Photometric distortion (from SSD; mmsegmentation's `PhotoMetricDistortion`): brightness, contrast, saturation and hue, each with
//! probability one half. Contrast comes first or last, also with probability one half.
//!
//! Hue and saturation are changed in OpenCV's 8-bit HSV, where hue has steps of two degrees. RGB to HSV is OpenCV's fixed point; HSV to RGB
//! is computed in float and may differ from OpenCV's vectorised version by one level.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::{TransformRng, between, coin, uniform};

/// Strengths of the distortion; the defaults are those of the published models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PhotometricConfig {
    /// Largest shift of the brightness, in levels.
    pub brightness_delta: f64,
    /// Smallest and largest factor of the contrast.
    pub contrast: [f64; 2],
    /// Smallest and largest factor of the saturation.
    pub saturation: [f64; 2],
    /// Largest rotation of the hue, in steps of two degrees.
    pub hue_delta: i64,
}

impl Default for PhotometricConfig {
    fn default() -> Self {
        Self { brightness_delta: 32.0, contrast: [0.5, 1.5], saturation: [0.5, 1.5], hue_delta: 18 }
    }
}

impl PhotometricConfig {
    /// Distorts an image in place.
    pub fn apply(&self, image: &mut RgbImage, rng: &mut TransformRng) {
        let range = |rng: &mut TransformRng, [low, high]: [f64; 2]| low + (high - low) * uniform(rng);
        if coin(rng) {
            let beta = range(rng, [-self.brightness_delta, self.brightness_delta]);
            convert(image, 1.0, beta);
        }
        let contrast_last = coin(rng);
        let contrast = |image: &mut RgbImage, rng: &mut TransformRng| {
            if coin(rng) {
                let alpha = range(rng, self.contrast);
                convert(image, alpha, 0.0);
            }
        };
        if !contrast_last {
            contrast(image, rng);
        }
        let saturation = coin(rng).then(|| range(rng, self.saturation));
        // mmsegmentation excludes the upper end of the hue.
        let hue = coin(rng).then(|| between(rng, -self.hue_delta, self.hue_delta - 1));
        if saturation.is_some() || hue.is_some() {
            for pixel in image.pixels_mut() {
                let mut rgb = pixel.0;
                // mmsegmentation converts to 8-bit RGB between the two.
                if let Some(alpha) = saturation {
                    let [h, s, v] = to_hsv(rgb);
                    rgb = from_hsv([h, saturate(f64::from(s) * alpha), v]);
                }
                if let Some(turn) = hue {
                    let [h, s, v] = to_hsv(rgb);
                    rgb = from_hsv([(i64::from(h) + turn).rem_euclid(180) as u8, s, v]);
                }
                pixel.0 = rgb;
            }
        }
        if contrast_last {
            contrast(image, rng);
        }
    }
}

/// Clips to 0 to 255 and truncates, as numpy's `clip` and `astype(uint8)`.
fn saturate(value: f64) -> u8 {
    value.clamp(0.0, 255.0) as u8
}

/// Replaces every channel value by `value * alpha + beta`.
fn convert(image: &mut RgbImage, alpha: f64, beta: f64) {
    let table: [u8; 256] = std::array::from_fn(|level| saturate(f64::from(level as f32 * alpha as f32 + beta as f32)));
    image.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
}

/// OpenCV's 8-bit RGB to HSV: hue 0 to 179, saturation and value 0 to 255; divisions are products with 12 fractional bits.
fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    const SHIFT: i32 = 12;
    let [r, g, b] = [r, g, b].map(i32::from);
    let v = r.max(g).max(b);
    let diff = v - r.min(g).min(b);
    let divide =
        |numerator: f64, by: i32| if by == 0 { 0 } else { (numerator * f64::from(1 << SHIFT) / f64::from(by)).round_ties_even() as i32 };
    let s = (diff * divide(255.0, v) + (1 << (SHIFT - 1))) >> SHIFT;
    let sector = if v == r {
        g - b
    } else if v == g {
        b - r + 2 * diff
    } else {
        r - g + 4 * diff
    };
    let h = (sector * divide(180.0 / 6.0, diff) + (1 << (SHIFT - 1))) >> SHIFT;
    let h = if h < 0 { h + 180 } else { h };
    [h as u8, s as u8, v as u8]
}

/// 8-bit HSV to RGB.
fn from_hsv([h, s, v]: [u8; 3]) -> [u8; 3] {
    let (h, s, v) = (f32::from(h) * (6.0 / 180.0), f32::from(s) / 255.0, f32::from(v) / 255.0);
    let sector = h.floor();
    let f = h - sector;
    let (p, q, t) = (v * (1.0 - s), v * (1.0 - s * f), v * (1.0 - s * (1.0 - f)));
    let rgb = match sector as i32 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    };
    rgb.map(|value| (value * 255.0).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hsv_equals_opencv() {
        // cv2.cvtColor(.., COLOR_RGB2HSV) of the primaries, a grey, and two mixtures.
        for (rgb, hsv) in [
            ([255, 0, 0], [0, 255, 255]),
            ([0, 255, 0], [60, 255, 255]),
            ([0, 0, 255], [120, 255, 255]),
            ([77, 77, 77], [0, 0, 77]),
            ([255, 255, 0], [30, 255, 255]),
            ([0, 128, 128], [90, 255, 128]),
        ] {
            assert_eq!(to_hsv(rgb), hsv, "{rgb:?}");
        }
    }

    #[test]
    fn a_round_trip_through_hsv_changes_little() {
        for r in (0..256).step_by(15) {
            for g in (0..256).step_by(17) {
                for b in (0..256).step_by(51) {
                    let rgb = [r as u8, g as u8, b as u8];
                    let back = from_hsv(to_hsv(rgb));
                    // Hue has 180 steps, so a channel may move by a few levels.
                    assert!(rgb.iter().zip(back).all(|(a, b)| a.abs_diff(b) <= 5), "{rgb:?} -> {back:?}");
                }
            }
        }
    }
}
