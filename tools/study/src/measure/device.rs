//! Name and memory of a device.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use burn::prelude::*;
use vmamba_train::DeviceChoice;

use super::task::cores;

/// Time between two samples of the memory in use.
const SAMPLING: Duration = Duration::from_micros(500);

/// Memory of a GPU's allocator in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolPeak {
    /// Memory in use before the work.
    pub before: u64,
    /// Largest sample of the memory in use.
    pub in_use: u64,
    /// Memory in reserve after the work; the reserve grows to the peak and stays.
    pub reserved: u64,
}

/// Runs `work`, which must synchronise with the device, and measures the device's allocator. Returns `None` without running `work` for
/// devices whose allocator cannot be measured, such as the CPU.
///
/// # Errors
/// The error of `work`.
pub fn pool_peak<E>(device: &Device, work: impl FnOnce() -> Result<(), E>) -> Result<Option<PoolPeak>, E> {
    // Frees the memory of autotuning.
    device.memory_cleanup();
    let Some(before) = device.memory_pool_usage() else { return Ok(None) };
    let (done, largest) = (AtomicBool::new(false), Mutex::new(0_u64));
    let worked = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let used = device.memory_pool_usage().map_or(0, |usage| usage.bytes_in_use);
                let mut largest = largest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *largest = (*largest).max(used);
                std::thread::sleep(SAMPLING);
            }
        });
        // Also on a panic: the scope waits for the sampling thread.
        let _finish = Finish(&done);
        work()
    });
    worked?;
    let Some(after) = device.memory_pool_usage() else { return Ok(None) };
    let largest = largest.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(Some(PoolPeak { before: before.bytes_in_use, in_use: largest.max(after.bytes_in_use), reserved: after.bytes_reserved }))
}

/// Sets its flag when it is dropped.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The model name of the processor or the GPU; `None` where it is unknown.
pub fn device_name(choice: DeviceChoice, device: &Device) -> Option<String> {
    if choice == DeviceChoice::Cpu {
        let text = vmamba_files::read_text(std::path::Path::new("/proc/cpuinfo")).ok()?;
        let name = text.lines().find(|line| line.starts_with("model name"))?;
        return name.split_once(':').map(|(_, name)| name.trim().to_owned());
    }
    gpu_name(device)
}

#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn gpu_name(device: &Device) -> Option<String> {
    device.identity().map(|identity| identity.name)
}

#[cfg(not(any(feature = "cuda", feature = "vulkan")))]
fn gpu_name(_device: &Device) -> Option<String> {
    None
}

/// The GPU, or the processor with its number of cores, for a report.
pub(super) fn machine(choice: DeviceChoice, device: &Device) -> String {
    let name = device_name(choice, device);
    if choice != DeviceChoice::Cpu {
        return name.unwrap_or_else(|| "a GPU".to_owned());
    }
    format!("{}, {} cores", name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()), cores())
}

/// The answer of `nvidia-smi` to a query of `fields` of the GPU `index`; `None` without the program or the GPU.
pub fn nvidia_smi(fields: &str, index: usize) -> Option<String> {
    let (fields, index) = (format!("--query-gpu={fields}"), format!("--id={index}"));
    let output = Command::new("nvidia-smi").args([fields.as_str(), "--format=csv,noheader,nounits", &index]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Bytes in use on an NVIDIA GPU by all processes, as `nvidia-smi` reports them; `None` on other devices.
pub fn gpu_memory_used(choice: DeviceChoice) -> Option<u64> {
    let DeviceChoice::Cuda(index) = choice else { return None };
    nvidia_smi("memory.used", index)?.parse::<u64>().ok().map(|mib| mib << 20)
}
