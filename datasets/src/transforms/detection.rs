//! Transforms of images with boxes and masks, in the order of mmdetection's pipelines.

use image::RgbImage;
use serde::{Deserialize, Serialize};
use vmamba_types::Instance;
use vmamba_types::setting::{self, SettingError};

use super::{
    DetectionPhotometricConfig, Distortion, NetworkInput, Normalize, TransformRng, between, fit_size, flip_image, resize_bilinear, uniform,
};
use crate::sample::DetectionSample;

/// Inputs are padded to multiples of this number of pixels.
pub const SIZE_DIVISOR: usize = 32;

/// The transforms of a training image: resize (or resize, crop, resize), flip, colour distortion. The loader normalises and pads whole
/// batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DetectionTrainPipeline {
    /// Limits of the long and the short side in pixels; one pair is drawn for each image.
    pub scales: Vec<[usize; 2]>,
    /// Whether to draw both limits uniformly between the two pairs of `scales` instead (mmdetection's `RandomResize`).
    #[serde(default)]
    pub scale_range: bool,
    /// A crop before the resize, for a share of the images; no crop if absent.
    #[serde(default)]
    pub crop: Option<ResizedCropConfig>,
    /// Probability of a horizontal flip.
    #[serde(default = "half")]
    pub flip: f64,
    /// Colour distortion; none if absent, as in the published detectors.
    #[serde(default)]
    pub photometric: Option<DetectionPhotometricConfig>,
    /// Mean and standard deviation of the channels.
    #[serde(default)]
    pub normalize: Normalize,
}

/// A crop of a resized image (the second branch of the DETR recipe, mmdetection's `RandomChoiceResize` and `RandomCrop`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ResizedCropConfig {
    /// Probability of a crop.
    #[serde(default = "half")]
    pub probability: f64,
    /// Limits of the long and the short side before the crop in pixels; one pair is drawn.
    pub scales: Vec<[usize; 2]>,
    /// Smallest and largest side of the crop in pixels. Height and width are drawn independently; a smaller image is not cropped along
    /// that side.
    pub size: [usize; 2],
}

impl ResizedCropConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        setting::share("probability", self.probability)?;
        validate_scales("scales", &self.scales)?;
        setting::side_limits("size", self.size)?;
        setting::require(self.size[0] <= self.size[1], "size", "the smallest and the largest side", self.size)
    }
}

/// Checks pairs of limits, of which one is drawn.
fn validate_scales(field: &str, scales: &[[usize; 2]]) -> Result<(), SettingError> {
    let sides = setting::INPUT_SIDE;
    let good = setting::COUNT.contains(&scales.len()) && scales.iter().flatten().all(|side| sides.contains(side));
    let allowed = format!("a list of 1 to 64 pairs of sides of {} to {} pixels, e.g. [[1333, 800]]", sides.start(), sides.end());
    setting::require(good, field, allowed, scales)
}

fn half() -> f64 {
    0.5
}

/// A transformed training image, before normalisation and padding.
#[derive(Clone, Debug)]
pub struct DetectionTrainSample {
    /// The resized, cropped and flipped image.
    pub image: RgbImage,
    /// Its colour distortion. Distorted pixels are not whole levels, so that [`normalized`](Self::normalized) computes them.
    pub distortion: Option<Distortion>,
    /// Its objects and crowd regions, in pixels of the transformed image.
    pub instances: Vec<Instance>,
    /// Name of the sample.
    pub name: String,
    /// Its image id in annotations and results.
    pub image_id: i64,
}

impl DetectionTrainSample {
    /// The distorted and normalised image, padded with zeros to at least `size` = `[height, width]`.
    pub fn normalized(&self, normalize: &Normalize, size: [usize; 2]) -> NetworkInput {
        match &self.distortion {
            Some(distortion) => normalize.apply_distorted(&self.image, distortion, size),
            None => normalize.apply(&self.image, size),
        }
    }
}

impl DetectionTrainPipeline {
    /// The published recipe for COCO: at most 1333x800 pixels, a horizontal flip of every second image.
    pub fn coco() -> Self {
        Self { scales: vec![[1333, 800]], scale_range: false, crop: None, flip: half(), photometric: None, normalize: Normalize::default() }
    }

    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        validate_scales("scales", &self.scales)?;
        let range = !self.scale_range || matches!(self.scales[..], [low, high] if low[0] <= high[0] && low[1] <= high[1]);
        setting::require(range, "scales", "the smallest and the largest pair with scale_range", &self.scales)?;
        if let Some(crop) = &self.crop {
            crop.validate().map_err(|error| error.within("crop"))?;
        }
        setting::share("flip", self.flip)?;
        if let Some(photometric) = &self.photometric {
            photometric.validate().map_err(|error| error.within("photometric"))?;
        }
        self.normalize.validate().map_err(|error| error.within("normalize"))
    }

    /// `[height, width]` of the largest transformed image, in landscape and before padding.
    pub fn largest_input(&self) -> [usize; 2] {
        let sorted = self.scales.iter().map(|[a, b]| [*a.min(b), *a.max(b)]);
        sorted.max_by_key(|[short, long]| short.saturating_mul(*long)).unwrap_or([1, 1])
    }

    /// `[height, width]` of the largest image that a photo of `[height, width]` pixels becomes on the way, before a crop.
    pub fn largest_resized(&self, photo: [usize; 2]) -> [usize; 2] {
        let scales = self.scales.iter().chain(self.crop.iter().flat_map(|crop| &crop.scales));
        scales.map(|limits| fit_size(photo, *limits)).max_by_key(|size| size[0].saturating_mul(size[1])).unwrap_or(photo)
    }

    /// Transforms a sample; every random choice comes from `rng`.
    pub fn apply(&self, sample: DetectionSample, rng: &mut TransformRng) -> DetectionTrainSample {
        let DetectionSample { image, instances, name, image_id, .. } = sample;
        let mut state = State { image, instances };
        if let Some(crop) = &self.crop
            && uniform(rng) < crop.probability
        {
            state.resize(draw(&crop.scales, rng));
            state.crop(crop.size, rng);
        }
        state.resize(match self.scales[..] {
            [low, high] if self.scale_range => [0, 1].map(|side| between(rng, low[side] as i64, high[side] as i64) as usize),
            _ => draw(&self.scales, rng),
        });
        if uniform(rng) < self.flip {
            state.flip();
        }
        let State { image, instances } = state;
        let distortion = self.photometric.as_ref().map(|photometric| photometric.draw(rng));
        DetectionTrainSample { image, distortion, instances, name, image_id }
    }
}

/// One of the scales, drawn uniformly.
fn draw(scales: &[[usize; 2]], rng: &mut TransformRng) -> [usize; 2] {
    let index = between(rng, 0, scales.len() as i64 - 1) as usize;
    scales.get(index).copied().unwrap_or([1, 1])
}

/// An image with its objects between two transforms.
struct State {
    image: RgbImage,
    instances: Vec<Instance>,
}

impl State {
    /// `[height, width]`
    fn size(&self) -> [usize; 2] {
        [self.image.height() as usize, self.image.width() as usize]
    }

    fn resize(&mut self, limits: [usize; 2]) {
        let old = self.size();
        let size = fit_size(old, limits);
        self.image = resize_bilinear(&self.image, size);
        let scale = |axis: usize| (size[axis] as f64 / old[axis].max(1) as f64) as f32;
        let (sx, sy) = (scale(1), scale(0));
        for instance in &mut self.instances {
            let [x0, y0, x1, y1] = instance.bbox;
            instance.bbox = clip([x0 * sx, y0 * sy, x1 * sx, y1 * sy], size);
            instance.mask = instance.mask.take().map(|mask| mask.resized(size));
        }
    }

    /// Crops a random part. Objects outside it are removed, the boxes of the others are clipped.
    fn crop(&mut self, [smallest, largest]: [usize; 2], rng: &mut TransformRng) {
        let [height, width] = self.size();
        let mut side = |whole: usize| between(rng, smallest.min(whole) as i64, largest.min(whole) as i64) as usize;
        let size = [side(height), side(width)];
        let top = between(rng, 0, (height - size[0]) as i64) as usize;
        let left = between(rng, 0, (width - size[1]) as i64) as usize;
        self.image = image::imageops::crop_imm(&self.image, left as u32, top as u32, size[1] as u32, size[0] as u32).to_image();
        let (dx, dy) = (left as f32, top as f32);
        self.instances.retain_mut(|instance| {
            let [x0, y0, x1, y1] = instance.bbox;
            instance.bbox = clip([x0 - dx, y0 - dy, x1 - dx, y1 - dy], size);
            instance.mask = instance.mask.take().map(|mask| mask.cropped(top, left, size));
            let [x0, y0, x1, y1] = instance.bbox;
            x0 < size[1] as f32 && y0 < size[0] as f32 && x1 > 0.0 && y1 > 0.0
        });
    }

    fn flip(&mut self) {
        self.image = flip_image(&self.image);
        let width = self.image.width() as f32;
        for instance in &mut self.instances {
            let [x0, y0, x1, y1] = instance.bbox;
            instance.bbox = [width - x1, y0, width - x0, y1];
            instance.mask = instance.mask.take().map(vmamba_types::InstanceMask::flipped);
        }
    }
}

/// Clips a box to an image of `[height, width]` pixels.
fn clip([x0, y0, x1, y1]: [f32; 4], [height, width]: [usize; 2]) -> [f32; 4] {
    let (w, h) = (width as f32, height as f32);
    [x0.clamp(0.0, w), y0.clamp(0.0, h), x1.clamp(0.0, w), y1.clamp(0.0, h)]
}

/// The transforms of a test image: resize, normalise, pad.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DetectionTestPipeline {
    /// Limits of the long and the short side in pixels; the ratio is kept. The size of the file if absent.
    #[serde(default)]
    pub scale: Option<[usize; 2]>,
    /// Mean and standard deviation of the channels.
    #[serde(default)]
    pub normalize: Normalize,
}

impl DetectionTestPipeline {
    /// The published test setting for COCO: at most 1333x800 pixels.
    pub fn coco() -> Self {
        Self { scale: Some([1333, 800]), normalize: Normalize::default() }
    }

    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.scale.map_or(Ok(()), |limits| setting::side_limits("scale", limits))?;
        self.normalize.validate().map_err(|error| error.within("normalize"))
    }

    /// `[height, width]` of an image of `[height, width]` pixels after the resize, without padding.
    pub fn resized(&self, image: [usize; 2]) -> [usize; 2] {
        self.scale.map_or(image, |limits| fit_size(image, limits))
    }

    /// The network's input for an image, and the `[height, width]` of the resized image without padding.
    pub fn apply(&self, image: &RgbImage) -> (NetworkInput, [usize; 2]) {
        let original = [image.height() as usize, image.width() as usize];
        let size = self.resized(original);
        let padded = padded_size(size);
        (
            if size == original {
                self.normalize.apply(image, padded)
            } else {
                self.normalize.apply(&resize_bilinear(image, size), padded)
            },
            size,
        )
    }
}

/// `[height, width]` of the smallest input that holds an image of `size` = `[height, width]`.
pub fn padded_size(size: [usize; 2]) -> [usize; 2] {
    size.map(|side| side.next_multiple_of(SIZE_DIVISOR))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use vmamba_types::{InstanceMask, MaskPatch, Segmentation};

    /// An image whose red and green channels are the position, with two rectangles as objects and a crowd region.
    fn sample() -> DetectionSample {
        let image = RgbImage::from_fn(120, 80, |x, y| image::Rgb([x as u8 * 2, y as u8 * 3, 0]));
        let object = |x0: f64, y0: f64, x1: f64, y1: f64, crowd| {
            let polygon = vec![x0, y0, x1, y0, x1, y1, x0, y1];
            let mask = InstanceMask::new(Segmentation::Polygons(vec![polygon]), [80, 120]).unwrap();
            Instance { bbox: [x0, y0, x1, y1].map(|v| v as f32), category: 1, crowd, mask: Some(mask) }
        };
        let instances =
            vec![object(10.0, 20.0, 50.0, 60.0, false), object(90.0, 4.0, 118.0, 20.0, false), object(0.0, 70.0, 120.0, 80.0, true)];
        DetectionSample { image, instances, name: "s".into(), image_id: 7, original_size: [80, 120] }
    }

    fn pipeline() -> DetectionTrainPipeline {
        DetectionTrainPipeline {
            scales: vec![[200, 100], [200, 60]],
            scale_range: false,
            crop: Some(ResizedCropConfig { probability: 0.5, scales: vec![[400, 90], [400, 120]], size: [40, 70] }),
            flip: 0.5,
            photometric: None,
            normalize: Normalize::default(),
        }
    }

    /// The box around the pixels of a mask.
    fn extent(patch: &MaskPatch) -> [f32; 4] {
        let [x, y, w, h] = patch.rle().bbox();
        [x, y, x + w, y + h].map(|v| v as f32)
    }

    #[test]
    fn boxes_and_masks_stay_together_through_every_transform() {
        let mut cropped = 0;
        for seed in 0..200 {
            let result = pipeline().apply(sample(), &mut TransformRng::seed_from_u64(seed));
            let size = [result.image.height() as usize, result.image.width() as usize];
            cropped += usize::from(result.instances.len() < 3);
            for instance in &result.instances {
                let mask = instance.mask.as_ref().unwrap();
                assert_eq!(mask.size(), size, "seed {seed}");
                let [x0, y0, x1, y1] = instance.bbox;
                assert!(x0 >= 0.0 && y0 >= 0.0 && x1 <= size[1] as f32 && y1 <= size[0] as f32 && x0 < x1 && y0 < y1, "seed {seed}");
                let patch = mask.patch();
                if patch.bits.is_empty() {
                    // Less than a pixel of the object is left.
                    assert!((x1 - x0).min(y1 - y0) < 3.0, "seed {seed}: {:?}", instance.bbox);
                    continue;
                }
                // Nearest neighbour moves an edge by up to a source pixel at each of the two resizes.
                for (a, b) in extent(&patch).iter().zip(instance.bbox) {
                    assert!((a - b).abs() <= 4.0, "seed {seed}: mask {:?}, box {:?}", extent(&patch), instance.bbox);
                }
            }
        }
        assert!(cropped > 5, "some crops must lose objects");
    }

    #[test]
    fn the_image_moves_with_the_boxes() {
        // No resize, so that pixels are not interpolated.
        for seed in 0..50 {
            let pipeline = DetectionTrainPipeline { scales: vec![[120, 80]], crop: None, ..pipeline() };
            let result = pipeline.apply(sample(), &mut TransformRng::seed_from_u64(seed));
            let first = &result.instances[0];
            let red = result.image.get_pixel(first.bbox[0] as u32, 30).0[0];
            let flipped = first.bbox[0] != 10.0;
            assert_eq!(red, if flipped { 49 * 2 } else { 10 * 2 });
        }
    }

    #[test]
    fn equal_generators_give_equal_samples() {
        let run = || pipeline().apply(sample(), &mut TransformRng::seed_from_u64(11));
        let (a, b) = (run(), run());
        assert_eq!((a.image, a.instances), (b.image, b.instances));
    }

    #[test]
    fn test_images_are_padded_and_return_their_size() {
        let pipeline = DetectionTestPipeline { scale: Some([1333, 50]), normalize: Normalize::default() };
        let (input, size) = pipeline.apply(&sample().image);
        assert_eq!((size, input.size), ([50, 75], [64, 96]));
        assert_eq!(input.values[63 * 96 + 95], 0.0);
    }

    #[test]
    fn a_range_of_scales_gives_every_short_side_inside_and_no_other() {
        let pipeline = DetectionTrainPipeline { scales: vec![[300, 60], [300, 64]], scale_range: true, crop: None, ..pipeline() };
        let heights: std::collections::BTreeSet<u32> =
            (0..100).map(|seed| pipeline.apply(sample(), &mut TransformRng::seed_from_u64(seed)).image.height()).collect();
        assert_eq!(heights.into_iter().collect::<Vec<_>>(), [60, 61, 62, 63, 64]);
    }

    #[test]
    fn an_invalid_setting_is_named() {
        let wrong = |change: fn(&mut DetectionTrainPipeline)| {
            let mut pipeline = pipeline();
            change(&mut pipeline);
            pipeline.validate().unwrap_err().to_string()
        };
        assert!(wrong(|p| p.scales.clear()).contains("scales"));
        assert!(wrong(|p| (p.scale_range, p.scales[1]) = (true, [150, 120])).contains("scale_range"));
        assert!(wrong(|p| p.crop.as_mut().unwrap().size = [41, 40]).contains("crop.size"));
        assert!(wrong(|p| p.crop.as_mut().unwrap().size = [2, 40]).contains("crop.size must be two sides of 32 to 65536 pixels"));
        assert!(wrong(|p| p.scales[0] = [200, 2]).contains("sides of 32 to 65536 pixels"));
        assert!(pipeline().validate().is_ok());
    }
}
