//! mmdetection's photometric distortion.

use serde::{Deserialize, Serialize};
use vmamba_types::setting::{self, SettingError};

use super::between_limits;
use crate::transforms::hsv::{float_hsv_to_rgb, float_rgb_to_hsv};
use crate::transforms::{TransformRng, between, coin};

/// Strengths of the distortion of detectors; the defaults are mmdetection's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct DetectionPhotometricConfig {
    /// Largest shift of the brightness, in levels.
    pub brightness_delta: f64,
    /// Smallest and largest factor of the contrast.
    pub contrast: [f64; 2],
    /// Smallest and largest factor of the saturation.
    pub saturation: [f64; 2],
    /// Largest rotation of the hue, in degrees.
    pub hue_delta: f64,
    /// Probability of a random order of the channels.
    pub swap: f64,
}

impl Default for DetectionPhotometricConfig {
    fn default() -> Self {
        Self { brightness_delta: 32.0, contrast: [0.5, 1.5], saturation: [0.5, 1.5], hue_delta: 18.0, swap: 0.5 }
    }
}

impl DetectionPhotometricConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::number("brightness_delta", self.brightness_delta, 0.0..=255.0)?;
        setting::interval("contrast", self.contrast, 0.0..=100.0)?;
        setting::interval("saturation", self.saturation, 0.0..=100.0)?;
        setting::number("hue_delta", self.hue_delta, 0.0..=360.0)?;
        setting::share("swap", self.swap)
    }

    /// Draws the distortion of one image.
    pub fn draw(&self, rng: &mut TransformRng) -> Distortion {
        let mut drawn = |limits: [f64; 2], unchanged: f64| if coin(rng) { between_limits(rng, limits) as f32 } else { unchanged as f32 };
        let brightness = drawn([-self.brightness_delta, self.brightness_delta], 0.0);
        let contrast = drawn(self.contrast, 1.0);
        let saturation = drawn(self.saturation, 1.0);
        let hue = drawn([-self.hue_delta, self.hue_delta], 0.0);
        let contrast_first = coin(rng);
        let mut channels = [0, 1, 2];
        if crate::transforms::uniform(rng) < self.swap {
            for last in [2, 1] {
                channels.swap(last, between(rng, 0, last as i64) as usize);
            }
        }
        Distortion { brightness, contrast, contrast_first, saturation, hue, channels }
    }
}

/// The distortion that was drawn for one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distortion {
    /// Levels that are added.
    pub brightness: f32,
    /// Factor of the channels.
    pub contrast: f32,
    /// Whether the contrast is changed before saturation and hue.
    pub contrast_first: bool,
    /// Factor of the saturation.
    pub saturation: f32,
    /// Degrees that are added to the hue.
    pub hue: f32,
    /// The channel that each channel is taken from.
    pub channels: [usize; 3],
}

impl Distortion {
    /// Distorts a pixel. The result is not clipped, as in mmdetection: levels may be negative or above 255.
    pub fn pixel(&self, rgb: [u8; 3]) -> [f32; 3] {
        let (before, after) = if self.contrast_first { (self.contrast, 1.0) } else { (1.0, self.contrast) };
        let [mut h, mut s, v] = float_rgb_to_hsv(rgb.map(|level| (f32::from(level) + self.brightness) * before));
        s *= self.saturation;
        if self.saturation > 1.0 {
            s = s.clamp(0.0, 1.0);
        }
        h += self.hue;
        if h > 360.0 {
            h -= 360.0;
        }
        if h < 0.0 {
            h += 360.0;
        }
        let rgb = float_hsv_to_rgb([h, s, v]).map(|level| level * after);
        self.channels.map(|from| rgb[from])
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn half_of_the_distortions_permute_the_channels_evenly() {
        let mut rng = TransformRng::seed_from_u64(3);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            *counts.entry(DetectionPhotometricConfig::default().draw(&mut rng).channels).or_insert(0) += 1;
        }
        // 3000 without a permutation and 500 of each of the six, the identity included.
        assert_eq!(counts.len(), 6);
        for (channels, count) in counts {
            let expected = if channels == [0, 1, 2] { 3500.0 } else { 500.0 };
            assert!((f64::from(count) - expected).abs() < 120.0, "{channels:?}: {count}");
        }
    }

    #[test]
    fn a_distortion_that_changes_nothing_keeps_the_pixel() {
        let none = Distortion { brightness: 0.0, contrast: 1.0, contrast_first: true, saturation: 1.0, hue: 0.0, channels: [0, 1, 2] };
        for rgb in [[0, 0, 0], [255, 255, 255], [12, 200, 3], [90, 91, 250]] {
            assert!(none.pixel(rgb).iter().zip(rgb).all(|(a, b)| (a - f32::from(b)).abs() < 1e-3), "{rgb:?}: {:?}", none.pixel(rgb));
        }
    }
}
