//! Normalisation: from 8-bit pixels to the network's input.

use image::RgbImage;
use serde::{Deserialize, Serialize};
use vmamba_types::setting::{self, SettingError};

use super::Distortion;

/// Mean and standard deviation of the channels, in RGB order and in levels of 0 to 255.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Normalize {
    /// The mean, which is subtracted.
    pub mean: [f32; 3],
    /// The standard deviation, by which the difference is divided.
    pub std: [f32; 3],
}

impl Default for Normalize {
    /// The statistics of ImageNet.
    fn default() -> Self {
        Self { mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375] }
    }
}

/// Largest mean and standard deviation, in levels of 0 to 255.
const LARGEST: f32 = 65_536.0;

/// Smallest standard deviation.
const SMALLEST: f32 = 1e-3;

/// A normalised and padded image.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkInput {
    /// `[3, height, width]`, RGB.
    pub values: Vec<f32>,
    /// `[height, width]`, padding included.
    pub size: [usize; 2],
}

impl Normalize {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        let means = self.mean.iter().all(|mean| mean.abs() <= LARGEST);
        setting::require(means, "mean", format!("three numbers from -{LARGEST} to {LARGEST}"), self.mean)?;
        let stds = self.std.iter().all(|std| (SMALLEST..=LARGEST).contains(std));
        setting::require(stds, "std", format!("three numbers from {SMALLEST} to {LARGEST}"), self.std)
    }

    /// Normalises an image and pads it with zeros at the bottom and on the right to at least `size` = `[height, width]`.
    pub fn apply(&self, image: &RgbImage, size: [usize; 2]) -> NetworkInput {
        let tables: [[f32; 256]; 3] =
            std::array::from_fn(|channel| std::array::from_fn(|level| (level as f32 - self.mean[channel]) / self.std[channel]));
        padded(image, size, |rgb| std::array::from_fn(|channel| tables[channel][usize::from(rgb[channel])]))
    }

    /// Distorts the colours of an image, then normalises and pads it as [`apply`](Self::apply) does.
    pub fn apply_distorted(&self, image: &RgbImage, distortion: &Distortion, size: [usize; 2]) -> NetworkInput {
        padded(image, size, |rgb| {
            let levels = distortion.pixel(rgb);
            std::array::from_fn(|channel| (levels[channel] - self.mean[channel]) / self.std[channel])
        })
    }
}

/// The planes of an image whose pixels become `values`, padded with zeros to at least `size` = `[height, width]`.
fn padded(image: &RgbImage, size: [usize; 2], values: impl Fn([u8; 3]) -> [f32; 3]) -> NetworkInput {
    let (image_width, image_height) = (image.width() as usize, image.height() as usize);
    let [height, width] = [size[0].max(image_height), size[1].max(image_width)];
    let plane = height * width;
    let mut planes = vec![0.0; 3 * plane];
    let (red, rest) = planes.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    for (y, row) in image.as_raw().chunks_exact((3 * image_width).max(1)).enumerate() {
        let at = y * width..y * width + image_width;
        let targets = red[at.clone()].iter_mut().zip(&mut green[at.clone()]).zip(&mut blue[at]);
        for (((red, green), blue), rgb) in targets.zip(row.as_chunks::<3>().0) {
            [*red, *green, *blue] = values(*rgb);
        }
    }
    NetworkInput { values: planes, size: [height, width] }
}
