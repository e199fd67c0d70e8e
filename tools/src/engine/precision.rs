//! `float32 | bf16`: in which type a network's activations are.
//!
//! There is no autocast: an operation follows the type of its activations, so the type of the image decides. What stays float32 whatever the
//! type (weights, statistics, the scan's state, logits, losses, boxes) is written down in `docs/precision.md`.

use anyhow::{Result, bail};
use burn::prelude::*;
use burn::tensor::DType;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Type of the activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 bits of mantissa.
    #[default]
    Float32,
    /// 8 bits of mantissa with the range of float32: half the memory, and the tensor cores of a GPU.
    Bf16,
}

impl Precision {
    /// The images of a batch as the network takes them.
    pub fn input(self, images: Tensor<4>) -> Tensor<4> {
        images.cast(self.dtype())
    }

    /// Checks that a device has it.
    ///
    /// # Errors
    /// When it has not, with what it has.
    pub fn check(self, device: &Device) -> Result<()> {
        if !device.supports_dtype(self.dtype()) {
            bail!("this device does not compute in bf16; use precision float32");
        }
        Ok(())
    }

    fn dtype(self) -> DType {
        match self {
            Self::Float32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}
