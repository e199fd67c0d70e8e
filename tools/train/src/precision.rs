//! `float32 | tf32 | bf16`: the type a network computes in.
//!
//! There is no autocast: an operation follows the type of its activations, so the type of the images decides. Weights, statistics, the scan's
//! state, logits, losses and boxes stay float32, see `docs/precision.md`.

use std::fmt;
use std::str::FromStr;

use burn::prelude::*;
use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};
use vision_ops::Float32Products;

use crate::device::DeviceError;

/// The type a network computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Float32 with 24 bits of mantissa, in products too.
    #[default]
    Float32,
    /// Float32, but matrix products and convolutions round their factors to 11 bits of mantissa (NVIDIA's tensor cores).
    Tf32,
    /// Activations in bfloat16: 8 bits of mantissa, the range of float32, half the memory, tensor cores on a GPU.
    Bf16,
}

impl Precision {
    /// All precisions.
    pub const ALL: [Self; 3] = [Self::Float32, Self::Tf32, Self::Bf16];

    /// Its name in configurations and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }

    /// Casts the images of a batch to the type of the activations.
    pub fn input(self, images: Tensor<4>) -> Tensor<4> {
        images.cast(self.dtype())
    }

    /// Makes all products of this process compute in this precision.
    ///
    /// # Errors
    /// When the device does not support it.
    pub fn adopt(self, device: &Device) -> Result<(), DeviceError> {
        let supported = match self {
            Self::Float32 => true,
            Self::Tf32 => vision_ops::has_tf32(device),
            Self::Bf16 => device.supports_dtype(self.dtype()),
        };
        if !supported {
            return Err(DeviceError::Precision(self));
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

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|precision| precision.name() == text)
            .ok_or_else(|| format!("unknown precision `{text}`; possible are {}", Self::ALL.map(Self::name).join(", ")))
    }
}
