//! The largest image that is read, in pixels, and the memory of a decoder.

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

/// Bytes a pixel that every decoder allocates at least: 8-bit RGB, and a copy as 8-bit grey or index, or for a conversion.
const DECODED: u64 = 4;

/// Refuses a claimed size beyond the limit, or beyond the free memory.
pub(super) fn check(size: [usize; 2]) -> Result<(), Problem> {
    check_against(size, max_pixels(), free_memory)
}

fn check_against([height, width]: [usize; 2], limit: u64, free: impl FnOnce() -> Option<u64>) -> Result<(), Problem> {
    let pixels = (height as u64).saturating_mul(width as u64);
    if pixels > limit {
        return Err(Problem::TooLarge([height, width]));
    }
    // Small images are not worth a question to the system.
    if pixels <= LEAST {
        return Ok(());
    }
    let needed = pixels.saturating_mul(DECODED);
    match free() {
        Some(free) if needed > free => Err(Problem::OutOfMemory { size: [height, width], needed, free }),
        _ => Ok(()),
    }
}

/// Bytes that a decoder may allocate for an image of `[height, width]`. Data beside the pixels must fit too, such as a colour profile of a
/// few bytes that inflates to gigabytes.
pub(super) fn max_bytes([height, width]: [usize; 2]) -> u64 {
    // 8 bytes a pixel (16-bit RGBA) twice, and tables.
    (height as u64).saturating_mul(width as u64).saturating_mul(16).saturating_add(1 << 26)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_limit_grows_with_the_memory_between_two_bounds() {
        assert_eq!(by_memory(Some(1 << 20)), LEAST);
        assert_eq!(by_memory(Some(16 << 30)), (16 << 30) / 64);
        assert_eq!(by_memory(Some(1 << 50)), MOST);
        assert!((LEAST..=MOST).contains(&by_memory(None)));
    }

    #[test]
    fn an_image_beyond_the_free_memory_is_refused_with_both_sizes() {
        let size = [60_000, 60_000];
        let refused = check_against(size, u64::MAX, || Some(1 << 33)).err().map(|problem| problem.at(Path::new("large.png")).to_string());
        let text = refused.unwrap();
        assert!(text.starts_with("large.png: ") && text.contains("13.4 GiB") && text.contains("8.0 GiB are free"), "{text}");
        assert!(check_against(size, u64::MAX, || Some(1 << 40)).is_ok() && check_against([10, 10], u64::MAX, || Some(0)).is_ok());
        assert!(matches!(check_against(size, 1 << 30, || None), Err(Problem::TooLarge(_))));
    }
}
