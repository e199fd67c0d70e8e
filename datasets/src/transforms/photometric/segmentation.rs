//! mmsegmentation's photometric distortion.

use image::RgbImage;
use serde::{Deserialize, Serialize};
use vmamba_types::setting::{self, SettingError};

use super::between_limits;
use crate::transforms::hsv::{hsv_to_rgb, rgb_to_hsv};
use crate::transforms::{TransformRng, between, coin};

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
    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::number("brightness_delta", self.brightness_delta, 0.0..=255.0)?;
        setting::interval("contrast", self.contrast, 0.0..=100.0)?;
        setting::interval("saturation", self.saturation, 0.0..=100.0)?;
        setting::whole("hue_delta", self.hue_delta, 0..=180)
    }

    /// Distorts an image in place.
    pub fn apply(&self, image: &mut RgbImage, rng: &mut TransformRng) {
        if coin(rng) {
            let beta = between_limits(rng, [-self.brightness_delta, self.brightness_delta]);
            convert(image, 1.0, beta);
        }
        let contrast_last = coin(rng);
        if !contrast_last {
            self.contrast(image, rng);
        }
        // mmsegmentation converts to 8-bit RGB between the two.
        if coin(rng) {
            let table = levels(between_limits(rng, self.saturation), 0.0);
            in_hsv(image, |[h, s, v]| [h, table[usize::from(s)], v]);
        }
        if coin(rng) {
            // `random.randint` excludes the upper end.
            let turn = between(rng, -self.hue_delta, self.hue_delta - 1);
            in_hsv(image, |[h, s, v]| [(i64::from(h) + turn).rem_euclid(180) as u8, s, v]);
        }
        if contrast_last {
            self.contrast(image, rng);
        }
    }

    fn contrast(&self, image: &mut RgbImage, rng: &mut TransformRng) {
        if coin(rng) {
            convert(image, between_limits(rng, self.contrast), 0.0);
        }
    }
}

/// Changes every pixel in 8-bit HSV.
fn in_hsv(image: &mut RgbImage, change: impl Fn([u8; 3]) -> [u8; 3]) {
    rgb_to_hsv(image);
    image.pixels_mut().for_each(|pixel| pixel.0 = change(pixel.0));
    hsv_to_rgb(image);
}

/// `level * alpha + beta` of every level in float32, clipped to 0 to 255 and truncated, as numpy's `clip` and `astype(uint8)`.
fn levels(alpha: f64, beta: f64) -> [u8; 256] {
    std::array::from_fn(|level| (level as f32 * alpha as f32 + beta as f32).clamp(0.0, 255.0) as u8)
}

/// Replaces every channel value by `value * alpha + beta`.
fn convert(image: &mut RgbImage, alpha: f64, beta: f64) {
    let table = levels(alpha, beta);
    image.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
}
