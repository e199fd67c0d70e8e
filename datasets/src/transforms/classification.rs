//! What an image goes through before a classifier is tested on it.

use image::RgbImage;

use super::{NetworkInput, Normalize, Window, resize_bicubic, shorter_side_size};

/// The evaluation transform of ImageNet classifiers: the shorter side to `int(256 / 224 * size)` by Pillow's bicubic filter, the middle
/// `size` x `size` of it, normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassificationPipeline {
    /// Side of the network's input in pixels.
    pub size: usize,
    /// Mean and standard deviation.
    pub normalize: Normalize,
}

impl ClassificationPipeline {
    /// For inputs of `size` x `size` pixels, with ImageNet's mean and standard deviation.
    pub fn new(size: usize) -> Self {
        Self { size, normalize: Normalize::default() }
    }

    /// The shorter side after the resize, before the crop.
    pub fn resized_side(&self) -> usize {
        (256.0 / 224.0 * self.size as f64) as usize
    }

    /// The picture that is normalised, `size` x `size`.
    pub fn crop(&self, image: &RgbImage) -> RgbImage {
        let resized = shorter_side_size([image.height() as usize, image.width() as usize], self.resized_side());
        resize_bicubic(image, resized, Window::centre(resized, [self.size; 2]))
    }

    /// The network's input for an image, `[3, size, size]`.
    pub fn apply(&self, image: &RgbImage) -> NetworkInput {
        self.normalize.apply(&self.crop(image), [self.size; 2])
    }
}
