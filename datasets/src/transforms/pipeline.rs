//! Transforms of images with label maps, in the order of mmsegmentation's pipelines.

use image::RgbImage;
use serde::{Deserialize, Serialize};
use vmamba_types::setting::{self, SettingError};
use vmamba_types::{IGNORE_LABEL, LabelMap};

use super::{
    CropConfig, NetworkInput, Normalize, PhotometricConfig, TransformRng, fit_size, flip_image, flip_labels, random_crop, resize_bilinear,
    resize_nearest, scaled_size, uniform,
};
use crate::sample::SegmentationSample;

/// A random resize that keeps the ratio (mmcv's `RandomResize`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RandomResizeConfig {
    /// Limits of the long and the short side in pixels, before the factor.
    pub scale: [usize; 2],
    /// Smallest and largest factor of the limits.
    #[serde(default = "ratio")]
    pub ratio: [f64; 2],
}

impl RandomResizeConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::side_limits("scale", self.scale)?;
        setting::interval("ratio", self.ratio, MIN_RATIO..=MAX_RATIO)?;
        // The limits are truncated to whole pixels after the factor.
        let largest = self.scale.iter().copied().fold(0, usize::max) as f64 * self.ratio[1];
        let smallest = self.scale.iter().copied().fold(usize::MAX, usize::min) as f64 * self.ratio[0];
        let most = *setting::INPUT_SIDE.end();
        let good = smallest >= SMALLEST_SIDE && largest <= most as f64;
        setting::require(good, "ratio", format!("factors that leave sides of {SMALLEST_SIDE} to {most} pixels of scale"), self.ratio)
    }
}

impl RandomResizeConfig {
    /// The limits times a factor. mmcv truncates them to whole pixels before it fits the image.
    fn limits(&self, ratio: f64) -> [usize; 2] {
        self.scale.map(|limit| (limit as f64 * ratio) as usize)
    }
}

/// Smallest factor of a random resize.
const MIN_RATIO: f64 = 1e-3;

/// Smallest limit of a side after the factor, in pixels. A smaller image would fill hardly anything of a crop.
const SMALLEST_SIDE: f64 = 8.0;

/// Largest factor of a random resize.
const MAX_RATIO: f64 = 64.0;

fn ratio() -> [f64; 2] {
    [0.5, 2.0]
}

/// The transforms of a training image: resize, crop, flip, colour distortion, normalise, pad.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TrainPipeline {
    /// Random resize; the size of the file if absent.
    #[serde(default)]
    pub resize: Option<RandomResizeConfig>,
    /// Random crop; a smaller image is padded to its size.
    pub crop: CropConfig,
    /// Probability of a horizontal flip.
    #[serde(default = "half")]
    pub flip: f64,
    /// Colour distortion; none if absent.
    #[serde(default)]
    pub photometric: Option<PhotometricConfig>,
    /// Mean and standard deviation of the channels.
    #[serde(default)]
    pub normalize: Normalize,
}

fn half() -> f64 {
    0.5
}

/// A transformed training sample.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSample {
    /// The normalised image, of the size of the crop.
    pub input: NetworkInput,
    /// Its labels, padded with [`IGNORE_LABEL`].
    pub labels: Vec<u8>,
    /// Name of the sample.
    pub name: String,
}

impl TrainPipeline {
    /// The published recipe for ADE20K: 2048x512 pixels scaled by 0.5 to 2, crops of 512x512, flips, colour distortion.
    pub fn ade20k() -> Self {
        Self {
            resize: Some(RandomResizeConfig { scale: [2048, 512], ratio: ratio() }),
            crop: CropConfig::of([512, 512]),
            flip: half(),
            photometric: Some(PhotometricConfig::default()),
            normalize: Normalize::default(),
        }
    }

    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        if let Some(resize) = &self.resize {
            resize.validate().map_err(|error| error.within("resize"))?;
        }
        self.crop.validate().map_err(|error| error.within("crop"))?;
        setting::share("flip", self.flip)?;
        if let Some(photometric) = &self.photometric {
            photometric.validate().map_err(|error| error.within("photometric"))?;
        }
        self.normalize.validate().map_err(|error| error.within("normalize"))
    }

    /// `[height, width]` of the largest image that a photo of `[height, width]` pixels becomes before the crop.
    pub fn largest_resized(&self, photo: [usize; 2]) -> [usize; 2] {
        self.resize.as_ref().map_or(photo, |resize| fit_size(photo, resize.limits(resize.ratio[1])))
    }

    /// Transforms a sample; every random choice comes from `rng`.
    pub fn apply(&self, sample: SegmentationSample, rng: &mut TransformRng) -> TrainSample {
        let SegmentationSample { mut image, mut labels, name, original_size } = sample;
        if let Some(resize) = &self.resize {
            let ratio = resize.ratio[0] + (resize.ratio[1] - resize.ratio[0]) * uniform(rng);
            let size = fit_size(original_size, resize.limits(ratio));
            image = resize_bilinear(&image, size);
            labels = resize_nearest(&labels, size);
        }
        let (mut image, mut labels) = random_crop(&image, &labels, &self.crop, rng);
        if uniform(rng) < self.flip {
            image = flip_image(&image);
            labels = flip_labels(&labels);
        }
        if let Some(photometric) = &self.photometric {
            photometric.apply(&mut image, rng);
        }
        let input = self.normalize.apply(&image, self.crop.size);
        TrainSample { labels: pad_labels(&labels, input.size), input, name }
    }
}

fn pad_labels(labels: &LabelMap, [height, width]: [usize; 2]) -> Vec<u8> {
    let mut padded = vec![IGNORE_LABEL; height * width];
    let own_width = labels.size()[1].max(1);
    for (target, source) in padded.chunks_exact_mut(width.max(1)).zip(labels.as_slice().chunks_exact(own_width)) {
        target[..own_width].copy_from_slice(source);
    }
    padded
}

/// The transforms of a test image: resize and normalise, without padding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TestPipeline {
    /// Limits of the long and the short side in pixels; the ratio is kept. The size of the file if absent.
    #[serde(default)]
    pub resize: Option<[usize; 2]>,
    /// Mean and standard deviation of the channels.
    #[serde(default)]
    pub normalize: Normalize,
}

impl TestPipeline {
    /// The published test setting for ADE20K: at most 2048x512 pixels.
    pub fn ade20k() -> Self {
        Self { resize: Some([2048, 512]), normalize: Normalize::default() }
    }

    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.resize.map_or(Ok(()), |limits| setting::side_limits("resize", limits))?;
        self.normalize.validate().map_err(|error| error.within("normalize"))
    }

    /// `[height, width]` of an image of `[height, width]` pixels after the resize.
    pub fn resized(&self, image: [usize; 2]) -> [usize; 2] {
        self.resize.map_or(image, |limits| fit_size(image, limits))
    }

    /// The network's input for an image.
    pub fn apply(&self, image: &RgbImage) -> NetworkInput {
        let size = [image.height() as usize, image.width() as usize];
        match self.resized(size) {
            resized if resized == size => self.normalize.apply(image, [0, 0]),
            resized => self.normalize.apply(&resize_bilinear(image, resized), [0, 0]),
        }
    }

    /// The network's input for a view of test-time augmentation. As in mmsegmentation 1.x, the original image is scaled by `ratio`, not
    /// the resized one.
    pub fn apply_scaled(&self, image: &RgbImage, ratio: f64) -> NetworkInput {
        let size = scaled_size([image.height() as usize, image.width() as usize], ratio);
        self.normalize.apply(&resize_bilinear(image, size), [0, 0])
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn sample(height: usize, width: usize) -> SegmentationSample {
        let image = RgbImage::from_fn(width as u32, height as u32, |x, y| image::Rgb([x as u8, y as u8, 40]));
        let labels = (0..height * width).map(|i| ((i % width) / 8 % 3) as u8).collect();
        SegmentationSample { image, labels: LabelMap::new(height, width, labels), name: "s".into(), original_size: [height, width] }
    }

    fn pipeline() -> TrainPipeline {
        TrainPipeline {
            resize: Some(RandomResizeConfig { scale: [128, 64], ratio: [0.5, 2.0] }),
            crop: CropConfig { size: [48, 56], cat_max_ratio: 0.75 },
            flip: 0.5,
            photometric: Some(PhotometricConfig::default()),
            normalize: Normalize::default(),
        }
    }

    #[test]
    fn every_sample_has_the_size_of_the_crop_and_equal_generators_give_equal_samples() {
        for seed in 0..30 {
            let run = || pipeline().apply(sample(40 + seed as usize, 70), &mut TransformRng::seed_from_u64(seed));
            let result = run();
            assert_eq!((result.input.size, result.labels.len(), result.input.values.len()), ([48, 56], 48 * 56, 3 * 48 * 56));
            assert_eq!(result, run());
        }
    }

    #[test]
    fn small_images_are_padded_with_zeros_and_the_ignored_label() {
        let pipeline = TrainPipeline { resize: None, photometric: None, flip: 0.0, ..pipeline() };
        let result = pipeline.apply(sample(20, 30), &mut TransformRng::seed_from_u64(1));
        assert_eq!(result.labels[30], 255);
        assert_eq!(result.labels[20 * 56], 255);
        assert!(result.labels[19 * 56 + 29] != 255);
        assert_eq!(result.input.values[30], 0.0);
    }

    #[test]
    fn image_and_labels_are_cropped_and_flipped_together() {
        // The label is a function of the column, and so is the red channel.
        let pipeline = TrainPipeline { resize: None, photometric: None, flip: 1.0, ..pipeline() };
        let result = pipeline.apply(sample(60, 90), &mut TransformRng::seed_from_u64(5));
        let normalize = Normalize::default();
        for (label, red) in result.labels.iter().zip(&result.input.values) {
            let column = (red * normalize.std[0] + normalize.mean[0]).round() as usize;
            assert_eq!(usize::from(*label), column / 8 % 3);
        }
    }
}
