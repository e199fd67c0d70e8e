//! Normalisation: from 8-bit pixels to the network's input.

use image::RgbImage;
use serde::{Deserialize, Serialize};

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

/// A normalised and padded image.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkInput {
    /// `[3, height, width]`, RGB.
    pub values: Vec<f32>,
    /// `[height, width]`, padding included.
    pub size: [usize; 2],
}

impl Normalize {
    /// Normalises an image and pads it with zeros at the bottom and on the right to at least `size` = `[height, width]`.
    pub fn apply(&self, image: &RgbImage, size: [usize; 2]) -> NetworkInput {
        let (image_width, image_height) = (image.width() as usize, image.height() as usize);
        let [height, width] = [size[0].max(image_height), size[1].max(image_width)];
        let mut values = vec![0.0; 3 * height * width];
        for (channel, plane) in values.chunks_exact_mut((height * width).max(1)).enumerate() {
            let table: [f32; 256] = std::array::from_fn(|level| (level as f32 - self.mean[channel]) / self.std[channel]);
            let rows = plane.chunks_exact_mut(width).zip(image.as_raw().chunks_exact((3 * image_width).max(1)));
            for (target, source) in rows {
                for (value, pixel) in target.iter_mut().zip(source.as_chunks::<3>().0) {
                    *value = table[usize::from(pixel[channel])];
                }
            }
        }
        NetworkInput { values, size: [height, width] }
    }
}
