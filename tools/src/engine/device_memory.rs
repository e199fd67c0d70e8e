//! The most memory that work takes on a device.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use burn::prelude::*;

/// Time between two samples of what is in use.
const SAMPLING: Duration = Duration::from_micros(500);

/// What the allocator of a GPU held, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolPeak {
    /// In use before the work.
    pub before: u64,
    /// The most in use at once, from samples.
    pub in_use: u64,
    /// In reserve after it; the reserve grows to the peak and stays.
    pub reserved: u64,
}

/// Runs `work`, which is to wait for the device, and tells what the device's allocator held; `None`, and nothing run, for devices that do not
/// tell, such as the CPU.
///
/// # Errors
/// That of `work`.
pub fn pool_peak(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<Option<PoolPeak>> {
    // What tuning left.
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
    let after = device.memory_pool_usage().context("the device does not tell its memory")?;
    let largest = largest.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(Some(PoolPeak { before: before.bytes_in_use, in_use: largest.max(after.bytes_in_use), reserved: after.bytes_reserved }))
}
