//! The largest image that is read, in pixels.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Problem;
use crate::memory::free_memory;

/// The limit that a program has set; 0 for none.
static CHOSEN: AtomicU64 = AtomicU64::new(0);

/// OpenCV's limit (`CV_IO_MAX_IMAGE_PIXELS`).
const MOST: u64 = 1 << 30;

/// Images of this size, about 4096x4096 pixels, are read on every machine.
const LEAST: u64 = 1 << 24;

/// Bytes of free memory that a pixel asks for: at most 16 in a decoder (coefficients of a progressive JPEG, 16-bit RGBA) and in a picture
/// beside the photo, times four photos at once.
const BYTES_PER_PIXEL: u64 = 64;

/// Sets the largest number of pixels of an image, for the whole process. The programs call this for `--max-pixels`.
pub fn set_max_pixels(pixels: std::num::NonZeroU64) {
    CHOSEN.store(pixels.get(), Ordering::Relaxed);
}

/// The largest number of pixels of an image that is read: what [`set_max_pixels`] has set, or a 64th of the free memory in bytes at the
/// first call, but at least 2^24 and at most 2^30.
pub fn max_pixels() -> u64 {
    static BY_MEMORY: OnceLock<u64> = OnceLock::new();
    match CHOSEN.load(Ordering::Relaxed) {
        0 => *BY_MEMORY.get_or_init(|| by_memory(free_memory())),
        chosen => chosen,
    }
}

fn by_memory(free: Option<u64>) -> u64 {
    free.map_or(MOST / 4, |bytes| bytes / BYTES_PER_PIXEL).clamp(LEAST, MOST)
}

/// Refuses a claimed size beyond the limit.
pub(super) fn check([height, width]: [usize; 2]) -> Result<(), Problem> {
    if (height as u64).saturating_mul(width as u64) > max_pixels() { Err(Problem::TooLarge([height, width])) } else { Ok(()) }
}

/// Bytes that a decoder may allocate for an image within the limit.
pub(super) fn max_bytes() -> u64 {
    // 8 bytes a pixel (16-bit RGBA) twice, and tables.
    max_pixels().saturating_mul(16).saturating_add(1 << 26)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_grows_with_the_memory_between_two_bounds() {
        assert_eq!(by_memory(Some(1 << 20)), LEAST);
        assert_eq!(by_memory(Some(16 << 30)), (16 << 30) / 64);
        assert_eq!(by_memory(Some(1 << 50)), MOST);
        assert!((LEAST..=MOST).contains(&by_memory(None)));
    }
}
