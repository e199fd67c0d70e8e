//! A mask with one bit a pixel.

/// A mask of `height * width` pixels, row-major; `true` where the pixel belongs to the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitMask {
    height: usize,
    width: usize,
    bits: Vec<bool>,
}

impl BitMask {
    /// A mask from its bits in row-major order.
    ///
    /// # Panics
    /// When `bits` does not hold `height * width` values.
    pub fn new(height: usize, width: usize, bits: Vec<bool>) -> Self {
        assert_eq!(bits.len(), height * width, "BitMask::new: a mask of {height} x {width} pixels needs one bit a pixel");
        Self { height, width, bits }
    }

    /// `[height, width]`.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// The bits in row-major order.
    pub fn as_slice(&self) -> &[bool] {
        &self.bits
    }
}
