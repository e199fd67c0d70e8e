//! The images of a study: always the same ones, in the same order, for every model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anstream::eprintln;
use anyhow::{Context, Result, bail};
use image::RgbImage;
use vision_datasets::image_io::read_rgb;
use vision_datasets::imagenet::find_images;
use vision_datasets::loader::shuffled;
use vision_datasets::scenes::{SceneConfig, SceneDataset};
use vision_datasets::transforms::{Window, resize_bicubic, shorter_side_size};

/// Where images come from.
#[derive(Debug)]
pub enum ImageSource {
    /// Files in an order drawn from a seed.
    Files {
        /// The folder, which names begin after.
        root: PathBuf,
        /// Images in and below it.
        files: Vec<PathBuf>,
    },
    /// Built-in scenes in the size of the study.
    Scenes(SceneDataset),
}

/// The candidates of a study, in the order in which they are tried.
#[derive(Debug)]
pub struct Images {
    source: ImageSource,
    size: usize,
    /// Why files cannot be read, by their place in the order.
    unreadable: BTreeMap<usize, String>,
}

/// An image of the size of the study.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its file below the folder, or the scene's name.
    pub name: String,
    /// Its pixels.
    pub pixels: RgbImage,
}

impl Images {
    /// The images in and below `root`, in an order that follows from `seed`, in squares of `size` pixels.
    ///
    /// # Errors
    /// When there is no such folder, or it has fewer images than `wanted`.
    pub fn in_folder(root: &Path, size: usize, wanted: usize, seed: u64) -> Result<Self> {
        let found = find_images(root)?;
        if found.len() < wanted {
            bail!("{}: {} images in and below this folder, {wanted} are asked for with --images", root.display(), found.len());
        }
        let files = shuffled(found.len(), seed, 0).into_iter().filter_map(|index| found.get(index).cloned()).collect();
        Ok(Self { source: ImageSource::Files { root: root.to_owned(), files }, size, unreadable: BTreeMap::new() })
    }

    /// Built-in scenes of `size` pixels a side from the world `seed`.
    ///
    /// # Errors
    /// When scenes of this size cannot be painted.
    pub fn scenes(size: usize, wanted: usize, seed: u64) -> Result<Self> {
        // As many again for those that a network makes no numbers of.
        let config = SceneConfig { seed, count: 2 * wanted, height: size, width: size, ..SceneConfig::default() };
        Ok(Self { source: ImageSource::Scenes(SceneDataset::new(config).context("--size")?), size, unreadable: BTreeMap::new() })
    }

    /// How many there are to try.
    pub fn candidates(&self) -> usize {
        match &self.source {
            ImageSource::Files { files, .. } => files.len(),
            ImageSource::Scenes(scenes) => scenes.config().count,
        }
    }

    /// The words for reports.
    pub fn describe(&self) -> String {
        match &self.source {
            ImageSource::Files { root, .. } => root.display().to_string(),
            ImageSource::Scenes(_) => "built-in scenes".to_owned(),
        }
    }

    /// Image `place`; none when it cannot be read, which is said the first time.
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

    /// Why images could not be read, in the order of the study.
    pub fn unreadable(&self) -> Vec<&str> {
        self.unreadable.values().map(String::as_str).collect()
    }

    /// The first reason.
    pub fn first_unreadable(&self) -> Option<&str> {
        self.unreadable.values().next().map(String::as_str)
    }
}

/// The shorter side to `size` pixels by Pillow's bicubic filter, and the middle of the result.
fn square(image: &RgbImage, size: usize) -> RgbImage {
    let resized = shorter_side_size([image.height() as usize, image.width() as usize], size);
    resize_bicubic(image, resized, Window::centre(resized, [size; 2]))
}
