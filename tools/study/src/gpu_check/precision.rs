//! The type that the device really computes in.
//!
//! CubeK, whose matrix products and convolutions Burn uses on GPUs, rounds the factors of float32 products to TF32 (ten bits of the
//! fraction) whenever its autotuner picks a kernel for tensor cores; `vision_ops` prevents it unless TF32 is asked for. This module tests it:
//! the device multiplies a factor that TF32 cannot represent by 1; the result shows whether the factor was rounded.

use burn::prelude::*;
use vision_ops::{conv2d, linear, matmul};
use vmamba_train::Precision;

use crate::error::{Result, StudyError};

/// A float32 product of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    /// [`linear`] on `rows` rows.
    Linear { rows: usize, inputs: usize, outputs: usize },
    /// [`conv2d`] with a 3×3 kernel and padding 1.
    Conv { batch: usize, size: [usize; 2], inputs: usize, outputs: usize, stride: usize },
    /// [`matmul`] of `batch` matrices `[rows, inner]` with `[inner, columns]`.
    Matmul { batch: usize, rows: usize, inner: usize, columns: usize },
}

/// Has twelve fractional bits; TF32, which keeps ten, rounds it to 1.
const FACTOR: f64 = 1.0 + 1.0 / 4096.0;

impl Product {
    /// Whether the device rounds the factors to TF32.
    pub(super) fn is_tf32(self, device: &Device) -> Result<bool> {
        let unit = |inputs: usize, outputs: usize| Tensor::<2>::eye(inputs.max(outputs), device).slice([0..outputs, 0..inputs]);
        let largest = match self {
            Self::Linear { rows, inputs, outputs } => {
                linear(Tensor::<2>::full([rows, inputs], FACTOR, device), unit(inputs, outputs), None).max()
            }
            Self::Conv { batch, size: [height, width], inputs, outputs, stride } => {
                let x = Tensor::<4>::full([batch, height, width, inputs], FACTOR, device);
                // The kernel is 1 in its centre and 0 elsewhere.
                let weight = Tensor::<4>::zeros([outputs, inputs, 3, 3], device)
                    .slice_assign([0..outputs, 0..inputs, 1..2, 1..2], unit(inputs, outputs).reshape([outputs, inputs, 1, 1]));
                conv2d(x, weight, None, [stride; 2], [1, 1]).max()
            }
            Self::Matmul { batch, rows, inner, columns } => {
                let left = Tensor::<3>::full([batch, rows, inner], FACTOR, device);
                matmul(left, unit(columns, inner).unsqueeze::<3>().repeat_dim(0, batch)).max()
            }
        };
        let largest = largest.try_into_data().map_err(|error| StudyError::Run(error.to_string()))?;
        let largest: f64 = largest.iter::<f64>().next().unwrap_or(f64::NAN);
        match largest {
            value if (value - FACTOR).abs() < 1e-6 => Ok(false),
            value if (value - 1.0).abs() < 1e-6 => Ok(true),
            value => Err(StudyError::Run(format!("{FACTOR} times 1 is {value} on this device"))),
        }
    }
}

/// How many of the tested float32 products the device computes in TF32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Float32 {
    tf32: usize,
    tested: usize,
}

impl Float32 {
    /// Tests each product on the device.
    pub(super) fn of(device: &Device, products: &[Product]) -> Result<Self> {
        let mut tf32 = 0;
        for product in products {
            tf32 += usize::from(product.is_tf32(device)?);
        }
        Ok(Self { tf32, tested: products.len() })
    }

    /// The words of a row.
    pub(super) fn name(self) -> String {
        match self.tf32 {
            0 => "float32".to_owned(),
            count if count == self.tested => "float32 with TF32 products".to_owned(),
            count => format!("float32 with TF32 in {count} of {} products", self.tested),
        }
    }

    /// The precision of a fair peer.
    pub(super) fn peer(self) -> Precision {
        if self.tf32 == 0 { Precision::Float32 } else { Precision::Tf32 }
    }
}

/// The words of a row in bf16.
pub(super) const BF16: &str = "bf16 activations, float32 weights";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_computes_in_float32() {
        let products = [
            Product::Linear { rows: 5, inputs: 24, outputs: 40 },
            Product::Linear { rows: 5, inputs: 40, outputs: 24 },
            Product::Conv { batch: 1, size: [5, 7], inputs: 8, outputs: 16, stride: 2 },
            Product::Matmul { batch: 2, rows: 5, inner: 7, columns: 4 },
        ];
        let float32 = Float32::of(&Device::flex(), &products).unwrap();
        assert_eq!((float32.name().as_str(), float32.peer()), ("float32", Precision::Float32));
    }

    #[test]
    fn a_row_counts_the_products_in_tf32() {
        assert_eq!(Float32 { tf32: 2, tested: 3 }.name(), "float32 with TF32 in 2 of 3 products");
        assert_eq!(Float32 { tf32: 3, tested: 3 }.name(), "float32 with TF32 products");
        assert_eq!(Float32 { tf32: 1, tested: 3 }.peer(), Precision::Tf32);
    }
}
