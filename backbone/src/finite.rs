//! Values that are not finite.

use burn::prelude::*;

/// An output of a network with a NaN or an infinite value, which no figure should be computed from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{output} of the network are not finite")]
pub struct NotFinite {
    /// The output, such as `the class scores`.
    pub output: &'static str,
}

/// Whether every value of a tensor is a finite number.
pub fn is_finite<const D: usize>(values: &Tensor<D>) -> bool {
    // NaN and infinity survive in a sum of magnitudes. A sum of finite magnitudes that overflows is reported too.
    values.clone().abs().sum().into_scalar::<f32>().is_finite()
}

/// [`NotFinite`] unless every value is finite.
///
/// # Errors
/// Names the output.
pub fn require_finite<const D: usize>(output: &'static str, values: &Tensor<D>) -> Result<(), NotFinite> {
    if is_finite(values) { Ok(()) } else { Err(NotFinite { output }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_or_an_infinity_anywhere_is_found() {
        let device = Device::flex();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let values = Tensor::<1>::from_floats([1.0, bad, 2.0], &device);
            assert_eq!(require_finite("the logits", &values).unwrap_err().to_string(), "the logits of the network are not finite");
        }
        require_finite("the logits", &Tensor::<1>::from_floats([-1.0, 3e38], &device)).unwrap();
    }
}
