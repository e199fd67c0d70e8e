//! Horizontal flip.

use image::RgbImage;
use vmamba_types::LabelMap;

/// Mirrors an image left to right.
pub fn flip_image(image: &RgbImage) -> RgbImage {
    image::imageops::flip_horizontal(image)
}

/// Mirrors labels left to right.
pub fn flip_labels(labels: &LabelMap) -> LabelMap {
    let [height, width] = labels.size();
    let rows = labels.as_slice().chunks_exact(width.max(1));
    LabelMap::new(height, width, rows.flat_map(|row| row.iter().rev()).copied().collect())
}
