//! `float32 | tf32 | bf16`: the numbers a network computes with.
//!
//! There is no autocast: an operation follows the type of its activations, so the type of the image decides. What stays float32 whatever the
//! type (weights, statistics, the scan's state, logits, losses, boxes) is written down in `docs/precision.md`.

use anyhow::{Result, bail};
use burn::prelude::*;
use burn::tensor::FloatDType;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use vision_ops::Float32Products;

/// Numbers a network computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 bits of mantissa, in products as well.
    #[default]
    Float32,
    /// Float32, but the factors of matrix products and convolutions have 11 bits of mantissa: NVIDIA's tensor cores.
    Tf32,
    /// Activations of 8 bits of mantissa with the range of float32: half the memory, and the tensor cores of a GPU.
    Bf16,
}

impl Precision {
    /// Its name in configurations and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    /// The images of a batch as the network takes them.
    pub fn input(self, images: Tensor<4>) -> Tensor<4> {
        images.cast(self.dtype())
    }

    /// Computes in it from now on, on this device.
    ///
    /// # Errors
    /// When the device cannot, with what it can.
    pub fn adopt(self, device: &Device) -> Result<()> {
        let supported = match self {
            Self::Float32 => true,
            Self::Tf32 => vision_ops::has_tf32(device),
            Self::Bf16 => device.supports_dtype(self.dtype()),
        };
        if !supported {
            bail!("this device does not compute in {}; use precision float32", self.name());
        }
        vision_ops::set_float32_products(if self == Self::Tf32 { Float32Products::Tf32 } else { Float32Products::Exact });
        Ok(())
    }

    /// The type of activations.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::Float32 | Self::Tf32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
        }
    }

    /// Bytes of an activation.
    pub fn bytes(self) -> usize {
        match self {
            Self::Float32 | Self::Tf32 => 4,
            Self::Bf16 => 2,
        }
    }
}
