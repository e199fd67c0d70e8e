//! Dense convolution of channels-last data as patches and one matrix product: the stem (3x3 stride 2, 4x4 stride 4) and the
//! downsampling layers (3x3 and 2x2 stride 2) of VMamba.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use burn::backend::Dispatch;
use burn::prelude::*;

use crate::flex::is_native;
use crate::operation::operation;

operation! {
    PatchOps::patches => PatchGradOps::patches_backward -> PatchGrads by PatchNode,
    [1] x; window: Window
}

/// A window that slides over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Steps between windows, vertically and horizontally.
    pub stride: [usize; 2],
    /// Rows of zeros above and below, columns of zeros left and right.
    pub padding: [usize; 2],
}

impl Window {
    /// Number of windows along each axis of an image of `height` by `width`; what does not fill a window is dropped.
    fn count(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let along = |extent: usize, axis: usize| {
            (extent + 2 * self.padding[axis]).checked_sub(self.kernel[axis]).map_or(0, |rest| rest / self.stride[axis] + 1)
        };
        [along(height, 0), along(width, 1)]
    }
}

/// Convolves `x: [batch, height, width, in]` with `weight: [out, in, kernel height, kernel width]` (the layout of `torch.nn.Conv2d`)
/// and adds `bias: [out]` where given. Returns `[batch, height', width', out]` with
/// `height' = (height + 2 padding - kernel) / stride + 1`, rounded down.
///
/// # Panics
/// When the channel counts differ, a stride is 0, or the kernel is larger than the padded image.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, stride: [usize; 2], padding: [usize; 2]) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let [out, inner, kernel_height, kernel_width] = weight.dims();
    assert_eq!(channels, inner, "conv2d: the input has {channels} channels, the weight expects {inner}");
    assert!(stride[0] > 0 && stride[1] > 0, "conv2d: a stride of 0 never moves");
    let window = Window { kernel: [kernel_height, kernel_width], stride, padding };
    let [rows, columns] = window.count([height, width]);
    assert!(
        rows > 0 && columns > 0,
        "conv2d: an image of {height} x {width} with padding {padding:?} is smaller than the kernel {kernel_height} x {kernel_width}"
    );
    if !is_native(&x) {
        return reference::conv2d(x, weight, bias, window);
    }
    let size = kernel_height * kernel_width * channels;
    let pointwise = window == Window { kernel: [1, 1], stride: [1, 1], padding: [0, 0] };
    let patches = if pointwise { x } else { Tensor::from_dispatch(<Dispatch as PatchOps>::patches(x.into_dispatch(), window)) };
    let weight = weight.permute([0, 2, 3, 1]).reshape([out, size]);
    crate::linear(patches.reshape([batch, rows, columns, size]), weight, bias)
}
