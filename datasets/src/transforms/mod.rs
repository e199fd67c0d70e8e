//! Transforms of images, labels and objects between the data set and the network. Segmentation follows mmsegmentation 1.2.2, detection
//! mmdetection 3.3.0, classification torchvision on Pillow images.

mod classification;
mod crop;
mod detection;
mod flip;
pub mod hsv;
mod normalize;
mod photometric;
mod pipeline;
mod resample;
mod resize;

pub use classification::ClassificationPipeline;
pub use crop::{CropConfig, random_crop};
pub use detection::{DetectionTestPipeline, DetectionTrainPipeline, DetectionTrainSample, ResizedCropConfig, SIZE_DIVISOR, padded_size};
pub use flip::{flip_image, flip_labels};
pub use normalize::{NetworkInput, Normalize};
pub use photometric::{DetectionPhotometricConfig, Distortion, PhotometricConfig};
pub use pipeline::{RandomResizeConfig, TestPipeline, TrainPipeline, TrainSample};
pub use resample::{Window, resize_bicubic, shorter_side_size};
pub use resize::{fit_size, resize_bilinear, resize_nearest, scaled_size};

use rand_chacha::ChaCha8Rng;

/// The random generator of all transforms; it draws the same numbers on every platform.
pub type TransformRng = ChaCha8Rng;

/// A uniform number in [0, 1) with 53 random bits.
pub(crate) fn uniform(rng: &mut TransformRng) -> f64 {
    use rand::Rng;
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A uniform integer in `low..=high`.
pub(crate) fn between(rng: &mut TransformRng, low: i64, high: i64) -> i64 {
    let span = (high - low + 1).max(1) as f64;
    low + (uniform(rng) * span) as i64
}

/// True with probability one half.
pub(crate) fn coin(rng: &mut TransformRng) -> bool {
    uniform(rng) < 0.5
}
