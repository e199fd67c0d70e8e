//! The input picture.

use std::path::Path;

use image::RgbImage;
use vision_datasets::image_io::read_rgb;
use vision_datasets::scenes::{SceneConfig, SceneDataset};
use vision_datasets::transforms::{Window, resize_bicubic, shorter_side_size};

use crate::error::{Result, invalid};

/// A photo whose shorter side will be resized to a number of pixels by Pillow's bicubic filter.
pub struct Photo {
    image: RgbImage,
    /// `[height, width]` of the resized photo.
    resized: [usize; 2],
    window: Window,
}

impl Photo {
    /// Reads a photo whose shorter side becomes `size` pixels. Crops the central square unless `whole`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(path: &Path, size: usize, whole: bool) -> Result<Self> {
        let image = read_rgb(path)?;
        let resized = shorter_side_size([image.height() as usize, image.width() as usize], size);
        let window = if whole { Window::whole(resized) } else { Window::centre(resized, [size; 2]) };
        Ok(Self { image, resized, window })
    }

    /// `[height, width]` of the picture that [`Photo::picture`] returns. That of a whole narrow photo is much larger than the photo.
    pub fn size(&self) -> [usize; 2] {
        self.window.size
    }

    /// The resized and cropped photo.
    pub fn picture(&self) -> RgbImage {
        resize_bicubic(&self.image, self.resized, self.window)
    }
}

/// A built-in scene of `size` x `size` pixels.
///
/// # Errors
/// When a scene of this size cannot be painted.
pub fn scene(seed: u64, size: usize) -> Result<RgbImage> {
    let config = SceneConfig { seed, count: 1, height: size, width: size, ..SceneConfig::default() };
    Ok(SceneDataset::new(config).map_err(|error| invalid!("--size: {error}"))?.scene(0).image)
}
