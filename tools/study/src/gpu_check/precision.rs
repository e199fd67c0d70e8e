//! Which numbers the device really computes with.
//!
//! CubeK, whose matrix products and convolutions Burn uses on GPUs, rounds the factors of float32 products to TF32 (ten bits of the
//! fraction) whenever its autotuner picks a kernel for tensor cores; `vision_ops` keeps it from that unless TF32 is asked for. The tool
//! does not take anybody's word: a factor that TF32 cannot represent, times 1, comes back changed or not.

use anyhow::{Result, anyhow};
use burn::prelude::*;
use vision_ops::{conv2d, linear};

use crate::peers::PeerPrecision;

/// A product of float32 numbers as a network has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    /// [`linear`] of rows.
    Linear { rows: usize, inputs: usize, outputs: usize },
    /// [`conv2d`] by 3×3 with padding 1.
    Conv { batch: usize, size: [usize; 2], inputs: usize, outputs: usize, stride: usize },
}

/// Needs twelve bits behind the point; TF32, which keeps ten, makes 1 of it.
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
                // 1 in the middle of the kernel, 0 around it.
                let weight = Tensor::<4>::zeros([outputs, inputs, 3, 3], device)
                    .slice_assign([0..outputs, 0..inputs, 1..2, 1..2], unit(inputs, outputs).reshape([outputs, inputs, 1, 1]));
                conv2d(x, weight, None, [stride; 2], [1, 1]).max()
            }
        };
        let largest: f64 = largest.try_into_data()?.iter::<f64>().next().unwrap_or(f64::NAN);
        match largest {
            value if (value - FACTOR).abs() < 1e-6 => Ok(false),
            value if (value - 1.0).abs() < 1e-6 => Ok(true),
            value => Err(anyhow!("{FACTOR} times 1 is {value} on this device")),
        }
    }
}

/// What the device makes of float32 in the products asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Float32 {
    tf32: usize,
    asked: usize,
}

impl Float32 {
    /// Asks the device about each product.
    pub(super) fn of(device: &Device, products: &[Product]) -> Result<Self> {
        let mut tf32 = 0;
        for product in products {
            tf32 += usize::from(product.is_tf32(device)?);
        }
        Ok(Self { tf32, asked: products.len() })
    }

    /// What a row says.
    pub(super) fn name(self) -> String {
        match self.tf32 {
            0 => "float32".to_owned(),
            count if count == self.asked => "float32 with TF32 products".to_owned(),
            count => format!("float32 with TF32 in {count} of {} products", self.asked),
        }
    }

    /// The same for a peer.
    pub(super) fn peer(self) -> PeerPrecision {
        if self.tf32 == 0 { PeerPrecision::Float32 } else { PeerPrecision::Tf32 }
    }
}

/// What a row says of bf16.
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
        ];
        let float32 = Float32::of(&Device::flex(), &products).unwrap();
        assert_eq!((float32.name().as_str(), float32.peer()), ("float32", PeerPrecision::Float32));
    }

    #[test]
    fn rows_say_how_many_products_are_in_tf32() {
        assert_eq!(Float32 { tf32: 2, asked: 3 }.name(), "float32 with TF32 in 2 of 3 products");
        assert_eq!(Float32 { tf32: 3, asked: 3 }.name(), "float32 with TF32 products");
        assert_eq!(Float32 { tf32: 1, asked: 3 }.peer(), PeerPrecision::Tf32);
    }
}
