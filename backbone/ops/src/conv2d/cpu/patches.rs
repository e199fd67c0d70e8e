//! im2col and its transpose (col2im), for the gradients of strided convolutions.

use rayon::prelude::*;

use super::super::window::Window;

/// im2col: copies the pixels under every window of `[batch, height, width, channels]` to
/// `[batch, rows, columns, kernel row, kernel column, channel]`.
pub(super) fn patches(input: &[f32], [batch, height, width, channels]: [usize; 4], window: Window) -> Vec<f32> {
    let [rows, columns] = window.count([height, width]);
    let [kernel_height, kernel_width] = window.kernel;
    let size = kernel_height * kernel_width * channels;
    let mut patches = vec![0.0; batch * rows * columns * size];
    patches.par_chunks_mut((columns * size).max(1)).enumerate().for_each(|(task, patches)| {
        let (image, row) = (task / rows, task % rows);
        for (column, patch) in patches.chunks_exact_mut(size).enumerate() {
            for ky in 0..kernel_height {
                let Some(y) = position(row, ky, 0, height, &window) else { continue };
                for kx in 0..kernel_width {
                    let Some(x) = position(column, kx, 1, width, &window) else { continue };
                    let source = &input[((image * height + y) * width + x) * channels..][..channels];
                    patch[(ky * kernel_width + kx) * channels..][..channels].copy_from_slice(source);
                }
            }
        }
    });
    patches
}

/// col2im: sums the patches' gradients at the pixels they were copied from.
pub(super) fn patches_backward(grad: &[f32], [batch, height, width, channels]: [usize; 4], window: Window) -> Vec<f32> {
    let [rows, columns] = window.count([height, width]);
    let [kernel_height, kernel_width] = window.kernel;
    let size = kernel_height * kernel_width * channels;
    let mut dx = vec![0.0; batch * height * width * channels];
    // A task sums the gradients of one row of the image over all windows that cover it.
    dx.par_chunks_mut((width * channels).max(1)).enumerate().for_each(|(task, dx)| {
        let (image, y) = (task / height, task % height);
        for ky in 0..kernel_height {
            let Some(row) = window_at(y, ky, 0, rows, &window) else { continue };
            for column in 0..columns {
                let patch = &grad[((image * rows + row) * columns + column) * size..][..size];
                for kx in 0..kernel_width {
                    let Some(x) = position(column, kx, 1, width, &window) else { continue };
                    let source = &patch[(ky * kernel_width + kx) * channels..][..channels];
                    let target = &mut dx[x * channels..][..channels];
                    target.iter_mut().zip(source).for_each(|(sum, g)| *sum += g);
                }
            }
        }
    });
    dx
}

/// The position of tap `tap` of window `index` along an axis, or `None` in the padding.
fn position(index: usize, tap: usize, axis: usize, extent: usize, window: &Window) -> Option<usize> {
    (index * window.stride[axis] + tap).checked_sub(window.padding[axis]).filter(|position| *position < extent)
}

/// The window whose tap `tap` is at `position` along an axis, if there is one.
fn window_at(position: usize, tap: usize, axis: usize, count: usize, window: &Window) -> Option<usize> {
    let offset = (position + window.padding[axis]).checked_sub(tap)?;
    (offset % window.stride[axis] == 0).then_some(offset / window.stride[axis]).filter(|index| *index < count)
}
