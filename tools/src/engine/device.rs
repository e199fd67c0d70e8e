//! `--device cpu | cuda[:i] | vulkan[:i]`.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use burn::prelude::*;

#[cfg(any(feature = "cuda", feature = "vulkan"))]
use super::process;

/// A device as the user names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU by index.
    Cuda(usize),
    /// A GPU with a Vulkan driver by index; without one, the default adapter.
    Vulkan(Option<usize>),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, index) = text.split_once(':').map_or((text, None), |(kind, index)| (kind, Some(index)));
        let index = index.map(|index| index.parse::<usize>().map_err(|_| format!("`{index}` is no device number"))).transpose()?;
        match (kind, index) {
            ("cpu", None) => Ok(Self::Cpu),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            ("vulkan", index) => Ok(Self::Vulkan(index)),
            _ => Err(format!("unknown device `{text}`; possible are cpu, cuda, cuda:<n>, vulkan, vulkan:<n>")),
        }
    }
}

impl fmt::Display for DeviceChoice {
    /// As it is parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Vulkan(None) => f.write_str("vulkan"),
            Self::Vulkan(Some(index)) => write!(f, "vulkan:{index}"),
        }
    }
}

impl DeviceChoice {
    /// Opens the device and runs one small operation on it, so that a missing driver is known before anything else happens.
    ///
    /// # Errors
    /// When this program was built without the feature, or the device or its driver is not there.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(index) => open_cuda(index),
            Self::Vulkan(index) => open_vulkan(index),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Result<Device> {
    probe("CUDA", "an NVIDIA driver and the NVRTC library of the CUDA toolkit", move || Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_index: usize) -> Result<Device> {
    bail!("this program was built without CUDA; build it with `--features cuda`, or use --device cpu")
}

#[cfg(feature = "vulkan")]
fn open_vulkan(index: Option<usize>) -> Result<Device> {
    use burn::tensor::DeviceKind;
    let kind = index.map_or(DeviceKind::DefaultDevice, DeviceKind::DiscreteGpu);
    probe("Vulkan", "a Vulkan driver", move || Device::vulkan(kind))
}

#[cfg(not(feature = "vulkan"))]
fn open_vulkan(_index: Option<usize>) -> Result<Device> {
    bail!("this program was built without Vulkan; build it with `--features vulkan`, or use --device cpu")
}

/// Burn panics when a driver is missing; this makes an error of it.
#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn probe(name: &str, needs: &str, open: impl FnOnce() -> Device + Send + 'static) -> Result<Device> {
    let result = process::without_panic(|| {
        // On a thread of its own, so that a device that fails leaves nothing of its on this one.
        let probing = std::thread::spawn(move || {
            let device = open();
            let sum = Tensor::<1>::ones([2], &device).sum().into_scalar::<f32>();
            (device, sum)
        });
        probing.join().unwrap_or_else(|reason| std::panic::resume_unwind(reason))
    });
    match result {
        Ok((device, sum)) if sum == 2.0 => Ok(device),
        Ok(_) => bail!("the {name} device computes wrong results"),
        Err(reason) => bail!("no {name} device: {reason}; it needs {needs}"),
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
        for name in ["cpu", "cuda:3", "vulkan", "vulkan:1"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        for wrong in ["gpu", "cuda:x", "cpu:1", ""] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
    }
}
