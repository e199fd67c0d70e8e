//! Horizontal flip.

use image::RgbImage;
use vmamba_types::LabelMap;

/// Flips an image horizontally.
pub fn flip_image(image: &RgbImage) -> RgbImage {
    image::imageops::flip_horizontal(image)
}

/// Flips a label map horizontally.
pub fn flip_labels(labels: &LabelMap) -> LabelMap {
    let [height, width] = labels.size();
    let rows = labels.as_slice().chunks_exact(width.max(1));
    LabelMap::new(height, width, rows.flat_map(|row| row.iter().rev()).copied().collect())
}
