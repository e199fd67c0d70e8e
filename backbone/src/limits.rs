//! Ranges of the options of backbones.
//!
//! Upper ends are far above every published model. They keep a slip of the keyboard from overflowing a product of sizes; what is allowed but
//! too much for a machine is a matter of the memory estimate.

use crate::vmamba::ConfigError;
use crate::vmamba::config::require;

/// Largest number of channels of a layer, and of positions in a kernel.
pub(crate) const MAX_CHANNELS: usize = 65_536;

/// Largest number of blocks of a stage.
pub(crate) const MAX_DEPTH: usize = 1_024;

/// Largest number of stages. Strides and channels double from stage to stage.
pub(crate) const MAX_STAGES: usize = 12;

/// Largest side in pixels of an image, a patch or a position table.
pub(crate) const MAX_SIDE: usize = 65_536;

/// Largest ratio of an inner width to the width of a block.
pub(crate) const MAX_RATIO: f64 = 64.0;

/// Largest side of a square kernel or a window, and largest size of a state.
pub(crate) const MAX_KERNEL: usize = 1_024;

/// Checks a whole number from 1 to `most`.
pub(crate) fn require_whole(field: &'static str, value: usize, most: usize) -> Result<(), ConfigError> {
    require((1..=most).contains(&value), field, &format!("a whole number from 1 to {most}"), &value)
}

/// Checks the blocks of every stage.
pub(crate) fn require_depths(depths: &[usize]) -> Result<(), ConfigError> {
    let good = (1..=MAX_STAGES).contains(&depths.len()) && depths.iter().all(|depth| (1..=MAX_DEPTH).contains(depth));
    require(good, "depths", &format!("one number from 1 to {MAX_DEPTH} a stage, for at most {MAX_STAGES} stages"), &depths)
}

/// Checks the channels of every stage.
pub(crate) fn require_dims(dims: &[usize], stages: usize) -> Result<(), ConfigError> {
    let good = dims.len() == stages && dims.iter().all(|dim| (1..=MAX_CHANNELS).contains(dim));
    require(good, "dims", &format!("one number from 1 to {MAX_CHANNELS} a stage, as many as depths"), &dims)
}

/// Checks the ratio of an inner width to `channels`, which must leave a channel.
pub(crate) fn require_ratio(field: &'static str, ratio: f64, channels: usize) -> Result<(), ConfigError> {
    let good = ratio <= MAX_RATIO && (ratio * channels as f64) >= 1.0;
    require(good, field, &format!("a number of at most {MAX_RATIO} that leaves a hidden channel"), &ratio)
}

/// Checks a rate of stochastic depth or dropout.
pub(crate) fn require_rate(field: &'static str, rate: f64) -> Result<(), ConfigError> {
    require((0.0..1.0).contains(&rate), field, "a rate in [0, 1)", &rate)
}

/// Checks `out_indices` of a network of `stages` stages.
pub(crate) fn require_stages(out_indices: &[usize], stages: usize) -> Result<(), ConfigError> {
    let good = !out_indices.is_empty() && ascend_below(stages, out_indices);
    require(good, "out_indices", &format!("at least one stage number below {stages}, in ascending order"), &out_indices)
}

/// Checks `out_indices` of a network of one resolution and `depth` blocks, whose pyramid has four levels.
pub(crate) fn require_blocks(out_indices: &[usize], depth: usize) -> Result<(), ConfigError> {
    let good = out_indices.len() == 4 && ascend_below(depth, out_indices);
    require(good, "out_indices", &format!("four ascending block numbers below {depth}"), &out_indices)
}

fn ascend_below(end: usize, numbers: &[usize]) -> bool {
    numbers.iter().all(|number| *number < end) && numbers.windows(2).all(|pair| pair[0] < pair[1])
}
