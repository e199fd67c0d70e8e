//! The input picture.

use std::path::Path;

use image::RgbImage;
use vision_datasets::image_io::read_rgb;
use vision_datasets::scenes::{SceneConfig, SceneDataset};
use vision_datasets::transforms::{Window, resize_bicubic, shorter_side_size};

use crate::error::{Result, invalid};

/// Reads a photo and resizes its shorter side to `size` pixels by Pillow's bicubic filter. Crops the central square unless `whole`.
///
/// # Errors
/// When the file cannot be read.
pub fn photo(path: &Path, size: usize, whole: bool) -> Result<RgbImage> {
    let image = read_rgb(path)?;
    let resized = shorter_side_size([image.height() as usize, image.width() as usize], size);
    let window = if whole { Window::whole(resized) } else { Window::centre(resized, [size; 2]) };
    Ok(resize_bicubic(&image, resized, window))
}

/// A built-in scene of `size` x `size` pixels.
///
/// # Errors
/// When a scene of this size cannot be painted.
pub fn scene(seed: u64, size: usize) -> Result<RgbImage> {
    let config = SceneConfig { seed, count: 1, height: size, width: size, ..SceneConfig::default() };
    Ok(SceneDataset::new(config).map_err(|error| invalid!("--size: {error}"))?.scene(0).image)
}
