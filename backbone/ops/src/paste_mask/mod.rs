//! Pastes the square mask of a mask head into its box in the photo: mmdetection's `_do_paste_mask` on a CPU, which interpolates bilinearly
//! with pixel centres at one half, reads 0 outside the mask, and sets pixels only in the box and one pixel around it.
//!
//! The result is run-length encoded directly: as pixels, a hundred masks of a 12-megapixel photo would take more than a gigabyte. There is
//! no gradient.

mod cpu;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

/// The pixels whose interpolated probability is at least `threshold`, in COCO's uncompressed run-length encoding: lengths of alternating
/// runs of zeros and ones, column by column, starting with zeros.
///
/// - `mask`: `side * side` probabilities, row-major
/// - `bbox`: `[x0, y0, x1, y1]` in pixels of the photo; may extend beyond it
/// - `size`: `[height, width]` of the photo
///
/// # Panics
/// When `mask` does not have `side * side` values.
pub fn paste_mask(mask: &[f32], side: usize, bbox: [f32; 4], size: [usize; 2], threshold: f32) -> Vec<u32> {
    assert_eq!(mask.len(), side * side, "paste_mask: the mask must have {side} x {side} values");
    cpu::paste(mask, side, bbox, size, threshold)
}
