//! `--device cpu | cuda[:i] | vulkan[:i]`.

use std::fmt;
use std::str::FromStr;
#[cfg(any(feature = "cuda", feature = "vulkan"))]
use std::time::Duration;

use burn::prelude::*;

use crate::precision::Precision;

/// A device by the name a user gives it: `cpu`, `cuda`, `cuda:1`, `vulkan`, `vulkan:1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU by index.
    Cuda(usize),
    /// A GPU with a Vulkan driver by index; without one, the default adapter.
    Vulkan(Option<usize>),
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The program was built without the backend.
    #[error("this program was built without {name}; build it with `--features {feature}`, or use the device cpu")]
    NotBuilt {
        /// The backend.
        name: &'static str,
        /// Its Cargo feature.
        feature: &'static str,
    },
    /// The device or its driver is missing.
    #[error("no {name} device: {reason}; it needs {needs}")]
    Missing {
        /// The backend.
        name: &'static str,
        /// The message of the backend.
        reason: String,
        /// The driver and libraries to install.
        needs: &'static str,
    },
    /// The driver computes wrong numbers.
    #[error(
        "the {name} driver computes wrong matrix products; a Vulkan driver needs VK_KHR_workgroup_memory_explicit_layout, which the drivers of \
         GPUs have"
    )]
    WrongProducts {
        /// The backend.
        name: &'static str,
    },
    /// The device does not support a precision.
    #[error("this device does not compute in {0}; use precision float32")]
    Precision(Precision),
    /// The devices cannot train together.
    #[error("devices: {0}")]
    Group(String),
    /// A replica failed in training.
    #[error("training failed on device {number} of the devices: {reason}")]
    Replica {
        /// Which of the devices, from 1.
        number: usize,
        /// The message of its panic.
        reason: String,
    },
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, index) = text.split_once(':').map_or((text, None), |(kind, index)| (kind, Some(index)));
        let index = index.map(|index| index.parse::<usize>().map_err(|_| format!("`{index}` is not a device number"))).transpose()?;
        match (kind, index) {
            ("cpu", None) => Ok(Self::Cpu),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            ("vulkan", index) => Ok(Self::Vulkan(index)),
            _ => Err(format!("unknown device `{text}`; possible are cpu, cuda, cuda:<n>, vulkan, vulkan:<n>")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Vulkan(None) => write!(f, "vulkan"),
            Self::Vulkan(Some(index)) => write!(f, "vulkan:{index}"),
        }
    }
}

impl DeviceChoice {
    /// Opens the device and runs one small operation on it, so that a missing driver is reported before any other work.
    ///
    /// # Errors
    /// When this program was built without the feature, or the device or its driver is missing.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(index) => open_cuda(index),
            Self::Vulkan(index) => open_vulkan(index),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Result<Device, DeviceError> {
    probe("CUDA", "an NVIDIA driver and the NVRTC library of the CUDA toolkit", move || Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_index: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { name: "CUDA", feature: "cuda" })
}

#[cfg(feature = "vulkan")]
fn open_vulkan(index: Option<usize>) -> Result<Device, DeviceError> {
    use burn::tensor::DeviceKind;
    let kind = index.map_or(DeviceKind::DefaultDevice, DeviceKind::DiscreteGpu);
    probe("Vulkan", "a Vulkan driver", move || Device::vulkan(kind))
}

#[cfg(not(feature = "vulkan"))]
fn open_vulkan(_index: Option<usize>) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { name: "Vulkan", feature: "vulkan" })
}

/// Timeout for the answer of a driver.
#[cfg(any(feature = "cuda", feature = "vulkan"))]
const PATIENCE: Duration = Duration::from_secs(600);

/// Opens a device and computes a product on it; a missing or wrong driver is an error.
#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn probe(name: &'static str, needs: &'static str, open: impl FnOnce() -> Device + Send + 'static) -> Result<Device, DeviceError> {
    let opened = vmamba_panics::catch_within(PATIENCE, move || {
        let device = open();
        // Matrix products use shared memory, which some Vulkan drivers compute wrongly without an error.
        let ones = |shape| Tensor::<2>::ones(shape, &device);
        let product = ones([64, 65]).matmul(ones([65, 48]));
        let right = product.into_data().iter::<f32>().all(|value| value == 65.0);
        (device, right)
    });
    match opened {
        Ok((device, true)) => Ok(device),
        Ok(_) => Err(DeviceError::WrongProducts { name }),
        Err(reason) => Err(DeviceError::Missing { name, reason, needs }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_documented() {
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        assert_eq!("vulkan".parse(), Ok(DeviceChoice::Vulkan(None)));
        for wrong in ["gpu", "cuda:x", "cpu:1", ""] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
        for name in ["cpu", "cuda:3", "vulkan", "vulkan:1"] {
            assert_eq!(name.parse::<DeviceChoice>().map(|choice| choice.to_string()), Ok(name.to_owned()));
        }
    }
}
