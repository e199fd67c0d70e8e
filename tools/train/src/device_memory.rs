//! Peak memory of a device.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use burn::prelude::*;

/// Time between two samples of the memory in use.
const SAMPLING: Duration = Duration::from_micros(500);

/// Memory of a GPU's allocator in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolPeak {
    /// Memory in use before the work.
    pub before: u64,
    /// Largest sample of the memory in use.
    pub in_use: u64,
    /// Memory that the allocator holds after the work. It grows to the peak and is not returned.
    pub reserved: u64,
}

/// Runs `work`, which must wait for the device, and measures the device's allocator. Returns `None` without running `work` for devices whose
/// allocator cannot be measured, such as the CPU.
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
        let worked = work();
        done.store(true, Ordering::Relaxed);
        worked
    });
    worked?;
    let Some(after) = device.memory_pool_usage() else { return Ok(None) };
    let largest = largest.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(Some(PoolPeak { before: before.bytes_in_use, in_use: largest.max(after.bytes_in_use), reserved: after.bytes_reserved }))
}
