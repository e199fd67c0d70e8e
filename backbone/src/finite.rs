//! Values that are not finite.

use burn::prelude::*;

/// An output of a network with a NaN or an infinite value, which no figure should be computed from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{output} of the network are not finite: {}", if *nan { "some are NaN" } else { "some are infinite" })]
pub struct NotFinite {
    /// The output, such as `the class scores`.
    pub output: &'static str,
    /// Whether it has a NaN, not only infinite values.
    pub nan: bool,
}

/// Whether every value of a tensor is a finite number.
pub fn is_finite<const D: usize>(values: &Tensor<D>) -> bool {
    // NaN and infinity survive in a sum of magnitudes, which is fast. The sum of finite magnitudes may overflow too.
    values.clone().abs().sum().into_scalar::<f32>().is_finite() || values.clone().is_finite().all().into_scalar::<bool>()
}

/// [`NotFinite`] unless every value is finite.
///
/// # Errors
/// Names the output.
pub fn require_finite<const D: usize>(output: &'static str, values: &Tensor<D>) -> Result<(), NotFinite> {
    if is_finite(values) { Ok(()) } else { Err(NotFinite { output, nan: values.clone().is_nan().any().into_scalar::<bool>() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_or_an_infinity_anywhere_is_found() {
        let device = Device::flex();
        for (bad, seen) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinite"), (f32::NEG_INFINITY, "infinite")] {
            let values = Tensor::<1>::from_floats([1.0, bad, 2.0], &device);
            let error = require_finite("the logits", &values).unwrap_err().to_string();
            assert_eq!(error, format!("the logits of the network are not finite: some are {seen}"));
        }
        // The sum of these overflows.
        require_finite("the logits", &Tensor::<1>::from_floats([-3e38, 3e38], &device)).unwrap();
    }
}
