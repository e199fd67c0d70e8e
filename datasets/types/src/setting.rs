//! Ranges of settings, and the error of a setting outside its range.
//!
//! A configuration type checks its own fields with the functions here, and the type that holds it puts the path before the name:
//!
//! ```
//! use vmamba_types::setting::{self, SettingError};
//!
//! fn validate(channels: usize) -> Result<(), SettingError> {
//!     setting::whole("channels", channels, setting::CHANNELS)
//! }
//!
//! let error = validate(0).map_err(|error| error.within("rpn").within("heads")).unwrap_err();
//! assert_eq!(error.to_string(), "heads.rpn.channels must be a whole number from 1 to 65536, got 0");
//! ```
//!
//! Upper ends are far above every published value. They keep a slip of the keyboard from filling the memory or overflowing a product; what
//! is allowed but too much for a machine is a matter of the memory estimate.

use std::fmt::{Debug, Display};
use std::ops::RangeInclusive;

/// Sides of images, crops and windows, and limits of sides, in pixels.
pub const SIDE: RangeInclusive<usize> = 1..=65_536;

/// Sides that an image is resized or cropped to for a network. The coarsest level of the published backbones has one position for 32 pixels;
/// of a smaller image, it would see less than one.
pub const INPUT_SIDE: RangeInclusive<usize> = 32..=*SIDE.end();

/// Pixels of a crop or window: 16,384 x 16,384.
pub const MAX_AREA: usize = 1 << 28;

/// Channels of a layer.
pub const CHANNELS: RangeInclusive<usize> = 1..=65_536;

/// Layers or blocks in a row.
pub const DEPTH: RangeInclusive<usize> = 1..=1_024;

/// Elements of a list of settings.
pub const COUNT: RangeInclusive<usize> = 1..=64;

/// Boxes of an image: anchors, proposals, samples, detections.
pub const BOXES: RangeInclusive<usize> = 1..=1_000_000;

/// Threads of a program or of a loader.
pub const THREADS: RangeInclusive<usize> = 1..=1_024;

/// A setting outside its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} must be {allowed}, got {found}")]
pub struct SettingError {
    /// Path of the key, such as `heads.rpn.channels`.
    pub key: String,
    /// The values that the setting may have.
    pub allowed: String,
    /// Its value.
    pub found: String,
}

impl SettingError {
    /// The setting `key` must be `allowed` but is `found`.
    pub fn new(key: impl Into<String>, allowed: impl Into<String>, found: impl Debug) -> Self {
        Self { key: key.into(), allowed: allowed.into(), found: format!("{found:?}") }
    }

    /// Puts `parent` before the path of the key.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        self.key.insert(0, '.');
        self.key.insert_str(0, parent);
        self
    }
}

/// Fails unless `good`.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn require(good: bool, key: &str, allowed: impl Into<String>, found: impl Debug) -> Result<(), SettingError> {
    if good { Ok(()) } else { Err(SettingError::new(key, allowed, found)) }
}

/// Checks a whole number.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn whole<T: PartialOrd + Debug + Display>(key: &str, value: T, range: RangeInclusive<T>) -> Result<(), SettingError> {
    require(range.contains(&value), key, format!("a whole number from {} to {}", range.start(), range.end()), value)
}

/// Checks a list of 1 to 64 whole numbers.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn wholes(key: &str, values: &[usize], range: RangeInclusive<usize>) -> Result<(), SettingError> {
    let good = COUNT.contains(&values.len()) && values.iter().all(|value| range.contains(value));
    require(good, key, format!("a list of 1 to {} whole numbers from {} to {}", COUNT.end(), range.start(), range.end()), values)
}

/// Checks `[height, width]` of a crop or window, whose sides are in `range`.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn size(key: &str, [height, width]: [usize; 2], range: RangeInclusive<usize>) -> Result<(), SettingError> {
    let good = range.contains(&height) && range.contains(&width) && height.saturating_mul(width) <= MAX_AREA;
    let allowed = format!("two sides of {} to {} pixels with an area of at most {MAX_AREA} pixels", range.start(), range.end());
    require(good, key, allowed, [height, width])
}

/// Checks two sides of [`INPUT_SIDE`]: the limits of the long and the short side of an image.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn side_limits(key: &str, limits: [usize; 2]) -> Result<(), SettingError> {
    let allowed = format!("two sides of {} to {} pixels", INPUT_SIDE.start(), INPUT_SIDE.end());
    require(limits.iter().all(|limit| INPUT_SIDE.contains(limit)), key, allowed, limits)
}

/// Checks a number in a range that includes both ends.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn number<T: Into<f64> + Copy + Debug>(key: &str, value: T, range: RangeInclusive<f64>) -> Result<(), SettingError> {
    require(range.contains(&value.into()), key, format!("a number from {} to {}", range.start(), range.end()), value)
}

/// Checks a number above 0 and at most `most`.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn positive<T: Into<f64> + Copy + Debug>(key: &str, value: T, most: f64) -> Result<(), SettingError> {
    let number = value.into();
    require(number > 0.0 && number <= most, key, format!("a number above 0 and at most {most}"), value)
}

/// Checks a list of 1 to 64 numbers above 0 and at most `most`.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn positives<T: Into<f64> + Copy + Debug>(key: &str, values: &[T], most: f64) -> Result<(), SettingError> {
    let good = COUNT.contains(&values.len()) && values.iter().all(|value| (*value).into() > 0.0 && (*value).into() <= most);
    require(good, key, format!("a list of 1 to {} numbers above 0 and at most {most}", COUNT.end()), values)
}

/// Checks a number in [0, 1].
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn share<T: Into<f64> + Copy + Debug>(key: &str, value: T) -> Result<(), SettingError> {
    number(key, value, 0.0..=1.0)
}

/// Checks a number in [0, 1): a decay, or a probability that may not be 1.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn rate<T: Into<f64> + Copy + Debug>(key: &str, value: T) -> Result<(), SettingError> {
    require((0.0..1.0).contains(&value.into()), key, "a number from 0 to below 1", value)
}

/// Checks the smallest and the largest value of something drawn at random.
///
/// # Errors
/// [`SettingError`] for `key`.
pub fn interval(key: &str, [low, high]: [f64; 2], range: RangeInclusive<f64>) -> Result<(), SettingError> {
    let good = range.contains(&low) && range.contains(&high) && low <= high;
    require(good, key, format!("two numbers from {} to {}, the smaller one first", range.start(), range.end()), [low, high])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_accepts_the_ends_of_its_range_and_names_key_value_and_range_beyond_them() {
        assert_eq!(whole("n", 1, SIDE).and(whole("n", 65_536, SIDE)), Ok(()));
        assert_eq!(whole("n", 65_537, SIDE).unwrap_err().to_string(), "n must be a whole number from 1 to 65536, got 65537");
        assert_eq!(share("p", 0.0_f32).and(share("p", 1.0)), Ok(()));
        assert_eq!(share("p", 1.5_f32).unwrap_err().to_string(), "p must be a number from 0 to 1, got 1.5");
        assert_eq!(rate("p", 1.0).unwrap_err().to_string(), "p must be a number from 0 to below 1, got 1.0");
        assert_eq!(positive("x", 0.0, 9.0).unwrap_err().within("a").to_string(), "a.x must be a number above 0 and at most 9, got 0.0");
        assert_eq!(size("s", [16_384; 2], SIDE), Ok(()));
        assert!(size("s", [65_536; 2], SIDE).is_err() && size("s", [0, 5], SIDE).is_err() && size("s", [usize::MAX; 2], SIDE).is_err());
        assert!(size("s", [31, 32], INPUT_SIDE).is_err() && size("s", [32, 32], INPUT_SIDE).is_ok());
        assert!(side_limits("s", [65_536, 32]).is_ok() && side_limits("s", [65_536, 31]).is_err());
        assert!(wholes("l", &[], SIDE).is_err() && wholes("l", &[0], SIDE).is_err() && wholes("l", &[3; 65], SIDE).is_err());
        assert!(positives("l", &[1.0, f64::INFINITY], 9.0).is_err() && positives("l", &[0.5_f32, 9.0], 9.0).is_ok());
        assert!(interval("i", [2.0, 0.5], 0.0..=9.0).is_err() && interval("i", [0.5, 0.5], 0.0..=9.0).is_ok());
    }

    #[test]
    fn a_number_that_is_not_one_is_in_no_range() {
        for refused in [share("x", f64::NAN), rate("x", f64::NAN), positive("x", f64::NAN, 9.0), number("x", f64::NAN, -9.0..=9.0)] {
            assert!(refused.unwrap_err().to_string().ends_with("got NaN"));
        }
        assert!(interval("x", [0.0, f64::NAN], 0.0..=9.0).is_err());
    }
}
