//! The window of a convolution.

use burn::prelude::*;

/// A window that slides over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Steps between windows, vertically and horizontally.
    pub stride: [usize; 2],
    /// Rows of zeros above and below the image, columns of zeros on its left and right.
    pub padding: [usize; 2],
}

impl Window {
    /// The window of a convolution of `x: [batch, height, width, in]` with `weight: [out, in, kernel height, kernel width]`.
    ///
    /// # Panics
    /// When the channel counts differ, a stride is 0, or the kernel is larger than the padded image.
    pub(super) fn of(x: &Tensor<4>, weight: &Tensor<4>, stride: [usize; 2], padding: [usize; 2]) -> Self {
        let [_, height, width, channels] = x.dims();
        let [_, inner, kernel_height, kernel_width] = weight.dims();
        assert_eq!(channels, inner, "conv2d: the input has {channels} channels, the weight expects {inner}");
        assert!(stride[0] > 0 && stride[1] > 0, "conv2d: the stride {stride:?} contains 0");
        let window = Self { kernel: [kernel_height, kernel_width], stride, padding };
        let [rows, columns] = window.count([height, width]);
        assert!(
            rows > 0 && columns > 0,
            "conv2d: an image of {height} x {width} with padding {padding:?} is smaller than the kernel {kernel_height} x {kernel_width}"
        );
        window
    }

    /// The number of windows along each axis of an image of `[height, width]`. Pixels that do not fill a window are dropped.
    pub(super) fn count(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let along = |extent: usize, axis: usize| {
            (extent + 2 * self.padding[axis]).checked_sub(self.kernel[axis]).map_or(0, |rest| rest / self.stride[axis] + 1)
        };
        [along(height, 0), along(width, 1)]
    }

    /// The shape `[batch, height', width', out]` of the result, from the shapes of the input and the weight.
    pub(super) fn output(&self, x: [usize; 4], weight: [usize; 4]) -> [usize; 4] {
        let [rows, columns] = self.count([x[1], x[2]]);
        [x[0], rows, columns, weight[0]]
    }

    /// Whether every output reads only its own pixel, which makes the convolution a matrix product.
    pub(super) fn is_pointwise(&self) -> bool {
        *self == Self { kernel: [1, 1], stride: [1, 1], padding: [0, 0] }
    }
}
