//! Random crop that avoids a dominant class (mmsegmentation's `RandomCrop`).

use image::RgbImage;
use serde::{Deserialize, Serialize};
use vmamba_types::setting::{self, SettingError};
use vmamba_types::{IGNORE_LABEL, LabelMap};

use super::{TransformRng, between};

/// A random crop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CropConfig {
    /// `[height, width]` in pixels; a smaller image is padded after normalisation.
    pub size: [usize; 2],
    /// While one class covers at least this share of the labelled pixels, another place is drawn, up to ten times; 1 accepts the first.
    #[serde(default = "cat_max_ratio")]
    pub cat_max_ratio: f64,
}

impl CropConfig {
    /// Crops of `size` = `[height, width]` in which no class covers 75 % or more of the labelled pixels.
    pub fn of(size: [usize; 2]) -> Self {
        Self { size, cat_max_ratio: cat_max_ratio() }
    }
}

impl CropConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::size("size", self.size, setting::INPUT_SIDE)?;
        setting::positive("cat_max_ratio", self.cat_max_ratio, 1.0)
    }
}

fn cat_max_ratio() -> f64 {
    0.75
}

/// Crops image and labels at the same random place; a side that is smaller than the crop is kept.
pub fn random_crop(image: &RgbImage, labels: &LabelMap, config: &CropConfig, rng: &mut TransformRng) -> (RgbImage, LabelMap) {
    /// How often mmsegmentation draws another place.
    const TRIES: usize = 10;
    let [height, width] = labels.size();
    let [crop_height, crop_width] = [config.size[0].min(height), config.size[1].min(width)];
    let mut place = || {
        let top = between(rng, 0, (height - crop_height) as i64) as usize;
        let left = between(rng, 0, (width - crop_width) as i64) as usize;
        (top, left)
    };
    let cut = |(top, left): (usize, usize)| {
        let rows = labels.as_slice().chunks_exact(width.max(1)).skip(top).take(crop_height);
        LabelMap::new(crop_height, crop_width, rows.flat_map(|row| &row[left..left + crop_width]).copied().collect())
    };
    let mut at = place();
    let mut cropped = cut(at);
    if config.cat_max_ratio < 1.0 {
        for _ in 0..TRIES {
            if is_varied(&cropped, config.cat_max_ratio) {
                break;
            }
            at = place();
            cropped = cut(at);
        }
    }
    let (top, left) = at;
    let image = image::imageops::crop_imm(image, left as u32, top as u32, crop_width as u32, crop_height as u32).to_image();
    (image, cropped)
}

/// Whether there are at least two classes, each with less than `cat_max_ratio` of the labelled pixels.
fn is_varied(labels: &LabelMap, cat_max_ratio: f64) -> bool {
    let mut counts = [0_u32; 256];
    labels.as_slice().iter().for_each(|label| counts[usize::from(*label)] += 1);
    counts[usize::from(IGNORE_LABEL)] = 0;
    let (present, total) = (counts.iter().filter(|n| **n > 0).count(), counts.iter().sum::<u32>());
    let largest = counts.iter().copied().max().unwrap_or(0);
    present > 1 && f64::from(largest) / f64::from(total) < cat_max_ratio
}
