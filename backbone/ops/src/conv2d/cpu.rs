//! Patches of an image as rows, and back.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::{PatchGradOps, PatchGrads, PatchOps, Window};
use crate::flex::{contiguous, dims, tensor, values};

impl PatchOps for Flex {
    fn patches(x: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        let x = contiguous(x);
        let [batch, height, width, channels] = dims::<4>(&x);
        let [rows, columns] = window.count([height, width]);
        let [kernel_height, kernel_width] = window.kernel;
        let size = kernel_height * kernel_width * channels;
        let mut patches = vec![0.0; batch * rows * columns * size];
        let input = values(&x);
        patches.par_chunks_mut(columns * size).enumerate().for_each(|(task, patches)| {
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
        tensor(patches, [batch, rows, columns, size])
    }
}

impl PatchGradOps for Flex {
    fn patches_backward(grad: FloatTensor<Self>, x: FloatTensor<Self>, window: Window) -> PatchGrads<Self> {
        let grad = contiguous(grad);
        let [batch, height, width, channels] = dims::<4>(&x);
        let [rows, columns] = window.count([height, width]);
        let [kernel_height, kernel_width] = window.kernel;
        let size = kernel_height * kernel_width * channels;
        let mut dx = vec![0.0; batch * height * width * channels];
        let grad = values(&grad);
        // A task owns one row of the image and collects the windows that saw it.
        dx.par_chunks_mut(width * channels).enumerate().for_each(|(task, dx)| {
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
        PatchGrads { x: tensor(dx, x.layout().shape().clone()) }
    }
}

/// The pixel under tap `tap` of window `index` along an axis, unless it is padding.
fn position(index: usize, tap: usize, axis: usize, extent: usize, window: &Window) -> Option<usize> {
    (index * window.stride[axis] + tap).checked_sub(window.padding[axis]).filter(|position| *position < extent)
}

/// The window whose tap `tap` lies on the pixel `position` along an axis, if there is one.
fn window_at(position: usize, tap: usize, axis: usize, count: usize, window: &Window) -> Option<usize> {
    let offset = (position + window.padding[axis]).checked_sub(tap)?;
    (offset % window.stride[axis] == 0).then_some(offset / window.stride[axis]).filter(|index| *index < count)
}
