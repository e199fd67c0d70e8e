//! Convolution as a matrix product whose left matrix is read from the padded image in place, without im2col.
//!
//! In channels-last data the pixels under one row of the kernel are contiguous. So for each row of the kernel, a row of the left matrix is
//! `kernel width * channels` consecutive values, and the row of the next pixel starts `stride * channels` values later.

use super::problem::Convolution;
use super::weights::pack_weights;
use crate::cpu::gemm::{Prefetch, Routine, Strip, Unit, depth_blocks, for_each_task, panel_columns, panel_count};
use crate::cpu::{Scratch, SharedMut};

/// Approximate number of pixels of a task: enough to pay for streaming the weights, few enough for their input to stay in the
/// second-level cache.
const TASK_PIXELS: usize = 192;

/// The direct algorithm.
#[derive(Clone, Copy)]
pub(super) struct Direct<'a>(pub(super) Convolution<'a>);

impl Routine for Direct<'_> {
    type Output = Vec<f32>;

    unsafe fn run<U: Unit>(self) -> Vec<f32> {
        let Convolution { batch, height, width, channels, outputs, window, epilogue, .. } = self.0;
        let [kernel_height, kernel_width] = window.kernel;
        let [rows, columns] = window.count([height, width]);
        let mut y = Vec::with_capacity(batch * rows * columns * outputs);
        let threads = self.0.threads();
        let run = kernel_width * channels;
        let blocks = (0..kernel_height).flat_map(|ky| depth_blocks(ky * run..(ky + 1) * run)).collect();
        // SAFETY: the caller guarantees the unit, and `Convolution::new` checked the weight.
        let panels = unsafe { pack_weights::<U>(&self.0, blocks, threads) };
        let target = SharedMut::from_ptr(y.as_mut_ptr());
        let task_rows = (TASK_PIXELS / columns.max(1)).clamp(1, rows);
        let strips = rows.div_ceil(task_rows);
        let count = panel_count::<U>(outputs);
        // Images with too few pixels for all threads are also split by panels.
        let task_panels = count.div_ceil((4 * threads).div_ceil(batch * strips).min(count));
        let panel_tasks = count.div_ceil(task_panels);
        for_each_task(threads, batch * strips * panel_tasks, |task| {
            let (part, strip) = (task % panel_tasks, task / panel_tasks);
            let (image, first) = (strip / strips, strip % strips * task_rows);
            let own = first..rows.min(first + task_rows);
            let padded;
            let (source, source_width) = if window.padding == [0, 0] {
                (&self.0.x[((image * height + first * window.stride[0]) * width) * channels..], width)
            } else {
                padded = self.0.padded(image, first * window.stride[0], (own.len() - 1) * window.stride[0] + kernel_height);
                (&*padded, width + 2 * window.padding[1])
            };
            for (index, block) in panels.blocks().iter().enumerate() {
                let (ky, within) = (block.start / run, block.start % run);
                for panel in part * task_panels..count.min((part + 1) * task_panels) {
                    let outs = panel_columns::<U>(panel, outputs);
                    for row in own.clone() {
                        let a = &source[((row - first) * window.stride[0] + ky) * source_width * channels + within..];
                        let strip = Strip {
                            a: a.as_ptr(),
                            a_row: window.stride[1] * channels,
                            a_step: 1,
                            a_tile: U::ROWS * window.stride[1] * channels,
                            rows: columns,
                            depth: block.len(),
                            panel: panels.panel::<U>(index, outs.start),
                            offset: ((image * rows + row) * columns) * outputs + outs.start,
                            columns: outs.clone(),
                            target,
                            y_row: outputs,
                            first: index == 0,
                            last: index + 1 == panels.blocks().len(),
                            prefetch: Prefetch::NONE,
                        };
                        // SAFETY: the windows of a row of the result lie inside the padded rows, and only this task writes these elements.
                        unsafe { strip.run::<U>(&epilogue) };
                    }
                }
            }
        });
        // SAFETY: the tasks cover all rows and panels, and each wrote all of its elements.
        unsafe { y.set_len(batch * rows * columns * outputs) };
        y
    }
}

impl Convolution<'_> {
    /// Copies `count` rows of the padded image from row `first` on, `[count, width + 2 padding, channels]`.
    fn padded(&self, image: usize, first: usize, count: usize) -> Scratch {
        let Self { height, width, channels, window, .. } = *self;
        let [above, left] = window.padding;
        let line = (width + 2 * left) * channels;
        let mut padded = Scratch::unset(count * line);
        for (row, padded) in padded.chunks_exact_mut(line).enumerate() {
            match (first + row).checked_sub(above).filter(|row| *row < height) {
                Some(row) => {
                    let source = &self.x[(image * height + row) * width * channels..][..width * channels];
                    let (before, rest) = padded.split_at_mut(left * channels);
                    let (inside, behind) = rest.split_at_mut(width * channels);
                    before.fill(0.0);
                    inside.copy_from_slice(source);
                    behind.fill(0.0);
                }
                None => padded.fill(0.0),
            }
        }
        padded
    }
}
