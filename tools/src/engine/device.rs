//! `--device cpu | cuda[:i] | vulkan[:i]`.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Result, bail};
use burn::prelude::*;

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

/// The longest that a driver may take to answer.
#[cfg(any(feature = "cuda", feature = "vulkan"))]
const PATIENCE: Duration = Duration::from_secs(600);

/// Makes an error of a missing driver.
#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn probe(name: &str, needs: &str, open: impl FnOnce() -> Device + Send + 'static) -> Result<Device> {
    let opened = attempt(PATIENCE, move || {
        let device = open();
        // Products go through the memory that units share, which some drivers get wrong without a word.
        let ones = |shape| Tensor::<2>::ones(shape, &device);
        let product = ones([64, 65]).matmul(ones([65, 48]));
        let right = product.into_data().iter::<f32>().all(|value| value == 65.0);
        (device, right)
    });
    match opened {
        Ok((device, true)) => Ok(device),
        Ok(_) => bail!(
            "the {name} driver computes wrong matrix products; a Vulkan driver needs VK_KHR_workgroup_memory_explicit_layout, which those of \
             GPUs have"
        ),
        Err(reason) => bail!("no {name} device: {reason}; it needs {needs}"),
    }
}

/// Does what may panic, as Burn does when a driver or a library is missing, or may never return: both are errors, with the reason.
pub(super) fn attempt<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(catch_unwind(AssertUnwindSafe(work))));
    let result = receiver.recv_timeout(patience);
    std::panic::set_hook(hook);
    match result {
        Ok(done) => done.map_err(|panic| panic_reason(&*panic)),
        Err(_) => Err(format!("no answer within {} seconds", patience.as_secs())),
    }
}

/// What a panic says.
pub(super) fn panic_reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "for no stated reason".to_owned())
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

    #[test]
    fn a_panic_and_a_missing_answer_are_errors_with_the_reason() {
        let patience = Duration::from_secs(60);
        assert_eq!(attempt(patience, || 7), Ok(7));
        let missing = "library";
        assert_eq!(attempt(patience, move || -> u8 { panic!("no {missing}") }), Err("no library".to_owned()));
        let slow = attempt(Duration::ZERO, || std::thread::sleep(Duration::from_secs(1)));
        assert_eq!(slow, Err("no answer within 0 seconds".to_owned()));
    }
}
