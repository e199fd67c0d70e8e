//! Transforms of test images of classifiers.

use image::RgbImage;

use super::{NetworkInput, Normalize, Window, resize_bicubic, shorter_side_size};

/// The test transforms of ImageNet classifiers: resize the shorter side to `int(256 / 224 * size)` with Pillow's bicubic filter, crop the
/// central `size` x `size` pixels, normalise.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassificationPipeline {
    /// Side of the network's input in pixels.
    pub size: usize,
    /// Mean and standard deviation of the channels.
    pub normalize: Normalize,
}

impl ClassificationPipeline {
    /// The transforms for inputs of `size` x `size` pixels, with the mean and standard deviation of ImageNet.
    pub fn new(size: usize) -> Self {
        Self { size, normalize: Normalize::default() }
    }

    /// The shorter side after the resize and before the crop, in pixels.
    pub fn resized_side(&self) -> usize {
        (256.0 / 224.0 * self.size as f64) as usize
    }

    /// The resized and cropped image before normalisation, `size` x `size` pixels.
    pub fn crop(&self, image: &RgbImage) -> RgbImage {
        let resized = shorter_side_size([image.height() as usize, image.width() as usize], self.resized_side());
        resize_bicubic(image, resized, Window::centre(resized, [self.size; 2]))
    }

    /// The network's input for an image, `[3, size, size]`.
    pub fn apply(&self, image: &RgbImage) -> NetworkInput {
        self.normalize.apply(&self.crop(image), [self.size; 2])
    }
}
