//! Errors between two tensors, and rounding to bf16.

use burn::prelude::*;

use crate::error::{Result, StudyError};

/// Up to this absolute difference a relative error is meaningless: the exact result may be zero.
const NEGLIGIBLE: f64 = 1e-7;

/// The largest absolute difference over the largest magnitude of the reference; a difference up to 1e-7 stays absolute. NaN when a value
/// is not finite.
///
/// # Errors
/// When the lengths differ.
pub(super) fn error(actual: &[f32], expected: &[f32]) -> Result<f64> {
    if actual.len() != expected.len() {
        return Err(StudyError::Run(format!("{} values, the reference has {}", actual.len(), expected.len())));
    }
    let (mut difference, mut largest) = (0.0_f64, 0.0_f64);
    for (actual, expected) in actual.iter().zip(expected) {
        let (actual, expected) = (f64::from(*actual), f64::from(*expected));
        if !actual.is_finite() {
            return Ok(f64::NAN);
        }
        difference = difference.max((actual - expected).abs());
        largest = largest.max(expected.abs());
    }
    Ok(if difference <= NEGLIGIBLE { difference } else { difference / largest.max(1e-30) })
}

/// A tensor's values in row-major order.
///
/// # Errors
/// When the device fails, for instance because it ran out of memory.
pub(super) fn values<const D: usize>(t: Tensor<D>) -> Result<Vec<f32>> {
    let data = t.try_into_data().map_err(|error| StudyError::Run(error.to_string()))?;
    Ok(data.iter::<f32>().collect())
}

/// Rounds to the nearest bf16; ties go to even.
pub(super) fn round_to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}

/// The largest of several errors with its name; NaN ranks above every number.
#[derive(Clone, Debug, Default)]
pub(super) struct Worst(Option<(f64, String)>);

impl Worst {
    pub(super) fn add(&mut self, name: &str, error: f64) {
        if self.0.as_ref().is_none_or(|(worst, _)| error > *worst || error.is_nan()) {
            self.0 = Some((error, name.to_owned()));
        }
    }

    pub(super) fn error(&self) -> Option<f64> {
        self.0.as_ref().map(|(error, _)| *error)
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|(_, name)| name.as_str())
    }

    /// Whether the error is above `limit` or NaN.
    pub(super) fn exceeds(&self, limit: f64) -> bool {
        self.error().is_some_and(|error| error > limit || error.is_nan())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_largest_value_and_nan_is_never_small() {
        assert_eq!(error(&[1.0, -3.0], &[1.0, -4.0]).unwrap(), 0.25);
        assert_eq!(error(&[5e-8], &[0.0]).unwrap(), f64::from(5e-8_f32));
        assert!(error(&[f32::NAN, 0.0], &[1.0, 0.0]).unwrap().is_nan());
        assert!(error(&[1.0], &[1.0, 2.0]).is_err());
        let mut worst = Worst::default();
        worst.add("a", 0.5);
        worst.add("b", f64::NAN);
        worst.add("c", 0.7);
        assert!(worst.exceeds(1.0) && worst.name() == Some("b"));
    }

    #[test]
    fn bf16_keeps_eight_bits_and_rounds_to_even() {
        assert_eq!(round_to_bf16(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(round_to_bf16(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(round_to_bf16(-1.0 - 1.1 / 256.0), -1.0 - 2.0 / 256.0);
    }
}
