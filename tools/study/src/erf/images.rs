//! The images of the fields. Every model gets the same images in the same order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::RgbImage;
use vision_datasets::image_io::read_rgb;
use vision_datasets::imagenet::find_images;
use vision_datasets::loader::shuffled;
use vision_datasets::photos::Photos;
use vision_datasets::scenes::{SceneConfig, SceneDataset};
use vision_datasets::transforms::{Window, resize_bicubic, shorter_side_size};
use vmamba_report::eprintln;

use crate::error::{Result, invalid};

/// The source of images.
#[derive(Debug)]
pub enum ImageSource {
    /// Files, shuffled by a seed.
    Files {
        /// The folder; names of images are relative to it.
        root: PathBuf,
        /// Images in the folder and its subfolders.
        files: Vec<PathBuf>,
    },
    /// Built-in scenes.
    Scenes(SceneDataset),
}

/// The candidate images, in the order in which they are tried.
#[derive(Debug)]
pub struct Images {
    source: ImageSource,
    size: usize,
    /// Errors of unreadable files, by position.
    unreadable: BTreeMap<usize, String>,
}

/// A square image of the requested size.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its path in the folder, or the name of the scene.
    pub name: String,
    /// Its pixels.
    pub pixels: RgbImage,
}

impl Images {
    /// The images in `root` and its subfolders, shuffled by `seed`, as squares of `size` pixels.
    ///
    /// # Errors
    /// When the folder cannot be read or has fewer images than `wanted`.
    pub fn in_folder(root: &Path, size: usize, wanted: usize, seed: u64) -> Result<Self> {
        let Photos { files: found, skipped } = find_images(root)?;
        skipped.note(root.display()).into_iter().for_each(|note| eprintln!("{note}"));
        if found.len() < wanted {
            return Err(invalid!(
                "{}: {} images in this folder and its subfolders, --images asks for {wanted}",
                root.display(),
                found.len()
            ));
        }
        let files = shuffled(found.len(), seed, 0).into_iter().filter_map(|index| found.get(index).cloned()).collect();
        Ok(Self { source: ImageSource::Files { root: root.to_owned(), files }, size, unreadable: BTreeMap::new() })
    }

    /// Built-in scenes of `size` x `size` pixels.
    ///
    /// # Errors
    /// When scenes of this size cannot be painted.
    pub fn scenes(size: usize, wanted: usize, seed: u64) -> Result<Self> {
        // Twice as many: a scene may give values that are not finite.
        let config = SceneConfig { seed, count: 2 * wanted, height: size, width: size, ..SceneConfig::default() };
        Ok(Self {
            source: ImageSource::Scenes(SceneDataset::new(config).map_err(|error| invalid!("--size: {error}"))?),
            size,
            unreadable: BTreeMap::new(),
        })
    }

    /// Number of candidates.
    pub fn candidates(&self) -> usize {
        match &self.source {
            ImageSource::Files { files, .. } => files.len(),
            ImageSource::Scenes(scenes) => scenes.config().count,
        }
    }

    /// The source, for reports.
    pub fn describe(&self) -> String {
        match &self.source {
            ImageSource::Files { root, .. } => root.display().to_string(),
            ImageSource::Scenes(_) => "built-in scenes".to_owned(),
        }
    }

    /// Candidate `place`; `None` when it cannot be read. Prints a warning on the first attempt.
    pub fn read(&mut self, place: usize) -> Option<Picture> {
        match &self.source {
            ImageSource::Scenes(scenes) => Some(Picture { name: format!("scene_{place:06}"), pixels: scenes.scene(place as u64).image }),
            ImageSource::Files { root, files } => {
                let path = files.get(place)?;
                if self.unreadable.contains_key(&place) {
                    return None;
                }
                match read_rgb(path) {
                    Ok(pixels) => {
                        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
                        Some(Picture { name, pixels: square(&pixels, self.size) })
                    }
                    Err(error) => {
                        eprintln!("warning: skipped {error}");
                        self.unreadable.insert(place, error.to_string());
                        None
                    }
                }
            }
        }
    }

    /// The errors of unreadable images, in order.
    pub fn unreadable(&self) -> Vec<&str> {
        self.unreadable.values().map(String::as_str).collect()
    }

    /// The first error of an unreadable image.
    pub fn first_unreadable(&self) -> Option<&str> {
        self.unreadable.values().next().map(String::as_str)
    }
}

/// Resizes the shorter side to `size` pixels by Pillow's bicubic filter and crops the centre.
fn square(image: &RgbImage, size: usize) -> RgbImage {
    let resized = shorter_side_size([image.height() as usize, image.width() as usize], size);
    resize_bicubic(image, resized, Window::centre(resized, [size; 2]))
}
