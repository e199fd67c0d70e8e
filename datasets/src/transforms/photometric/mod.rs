//! Photometric distortion (from SSD): brightness, contrast, saturation and hue, each with probability one half.
//!
//! mmsegmentation and mmdetection have a transform of the same name `PhotoMetricDistortion`, but they differ:
//!
//! | | mmsegmentation 1.2.2 | mmdetection 3.3.0 |
//! |---|---|---|
//! | pixels | 8-bit, clipped and truncated after every change | float32, never clipped; normalised as they are |
//! | saturation, hue | 8-bit HSV, where hue has steps of two degrees | float HSV, hue in degrees |
//! | a `hue_delta` of 18 | -36 to 34 degrees | -18 to 18 degrees |
//! | contrast | before saturation and hue, or last | before saturation and hue, or after them |
//! | channels | stay | are permuted with probability one half |
//!
//! The published segmentors use the first. None of the published detectors distorts colours: mmdetection uses the second in SSD, YOLOv3 and
//! CornerNet.

mod detection;
mod segmentation;

pub use detection::{DetectionPhotometricConfig, Distortion};
pub use segmentation::PhotometricConfig;

use super::{TransformRng, uniform};

/// A uniform number between two limits.
fn between_limits(rng: &mut TransformRng, [low, high]: [f64; 2]) -> f64 {
    low + (high - low) * uniform(rng)
}
