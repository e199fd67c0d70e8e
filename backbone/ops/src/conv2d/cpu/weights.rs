//! Convolution weights packed into panels.

use std::ops::Range;

use super::problem::Convolution;
use crate::cpu::gemm::{Panels, Unit, for_each_task, panel_columns, panel_count, panel_width};

/// Packs the weight `[out, in, kernel height, kernel width]` into panels whose depth runs over kernel row, kernel column and channel.
///
/// # Safety
/// The processor has the unit.
pub(super) unsafe fn pack_weights<U: Unit>(convolution: &Convolution, blocks: Vec<Range<usize>>, threads: usize) -> Panels {
    let Convolution { channels, outputs, weight, window, .. } = *convolution;
    let taps = window.kernel[0] * window.kernel[1];
    let mut panels = Panels::with_blocks::<U>(blocks, outputs);
    let target = panels.target();
    for_each_task(threads, panel_count::<U>(outputs), |panel| {
        let outs = panel_columns::<U>(panel, outputs);
        let width = panel_width::<U>(outs.len());
        let mut places = vec![0; taps * channels];
        for (index, block) in panels.blocks().iter().enumerate() {
            let first = panels.offset::<U>(index, outs.start);
            for depth in block.clone() {
                let (tap, channel) = (depth / channels, depth % channels);
                places[channel * taps + tap] = first + (depth - block.start) * width;
            }
        }
        let source = &weight[outs.start * taps * channels..];
        let depth = taps * channels;
        // SAFETY: the weights of these outputs are `outs.len()` runs of `depth` values, and every place is a row of this task's panel.
        unsafe { U::transpose(target.at(0), width, source.as_ptr(), depth, depth, outs.len(), |k| places[k]) };
    });
    panels
}
