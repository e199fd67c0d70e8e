//! The attention of one patch in DeiT, the counterpart of an activation map (last figure of the paper's appendix).

use thiserror::Error;

/// The attention weights of a patch in one block.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionRow {
    /// Height and width of the grid of patches.
    pub size: [usize; 2],
    /// Row and column of the query.
    pub query: [usize; 2],
    /// The softmax weights of the patches for every head, `[height, width]` each. With the weight of the class token they sum to 1.
    pub heads: Vec<Vec<f32>>,
    /// The weight of the class token for every head.
    pub class: Vec<f32>,
    /// Mean over the heads, as in the published figure, which normalises all heads by one minimum and maximum.
    pub mean: Vec<f32>,
    /// Mean over the heads, each scaled to [0, 1] first, so that heads with few large weights do not dominate.
    pub normalised: Vec<f32>,
}

/// Why attention cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AttentionError {
    /// The block does not exist.
    #[error("block {block} does not exist; there are 0 to {}", blocks.saturating_sub(1))]
    NoSuchBlock {
        /// The number that was asked for.
        block: usize,
        /// How many exist.
        blocks: usize,
    },
    /// The query is outside the grid.
    #[error("the query patch (row {}, column {}) is outside the grid of {} rows and {} columns", query[0], query[1], size[0], size[1])]
    Query {
        /// Row and column.
        query: [usize; 2],
        /// Height and width of the grid.
        size: [usize; 2],
    },
    /// The batch does not have exactly one image.
    #[error("attention is computed for one image, not for {0}")]
    Batch(usize),
}

impl AttentionRow {
    /// From the weights of all tokens for every head, the class token first.
    pub(crate) fn of_heads(weights: &[f32], size: [usize; 2], query: [usize; 2]) -> Self {
        let patches = size[0] * size[1];
        let (mut heads, mut class) = (Vec::new(), Vec::new());
        for row in weights.chunks_exact(1 + patches) {
            class.extend(row.first());
            heads.push(row.iter().skip(1).copied().collect::<Vec<f32>>());
        }
        let mean_of = |maps: &[Vec<f32>]| -> Vec<f32> {
            let sum = |patch: usize| maps.iter().filter_map(|map| map.get(patch)).sum::<f32>();
            (0..patches).map(|patch| sum(patch) / maps.len().max(1) as f32).collect()
        };
        let scaled: Vec<Vec<f32>> = heads.iter().map(|map| between_0_and_1(map)).collect();
        Self { size, query, mean: mean_of(&heads), normalised: mean_of(&scaled), heads, class }
    }
}

/// Scales a map to [0, 1]; a constant map becomes 0.
fn between_0_and_1(map: &[f32]) -> Vec<f32> {
    let [least, greatest] = map.iter().fold([f32::INFINITY, f32::NEG_INFINITY], |[l, g], value| [l.min(*value), g.max(*value)]);
    map.iter().map(|value| if greatest > least { (value - least) / (greatest - least) } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use burn::prelude::*;
    use burn::tensor::Distribution;

    use super::*;
    use crate::baselines::DeitConfig;

    #[test]
    fn heads_are_distributions_and_their_means_are_what_they_say() {
        let device = Device::flex();
        device.seed(1);
        let model = DeitConfig { depth: 2, ..DeitConfig::tiny() }.try_init_classifier(3, &device).unwrap();
        let image = || Tensor::random([1, 3, 48, 80], Distribution::Normal(0.0, 1.0), &device);
        let row = model.attention_row(image(), 1, [2, 4]).unwrap();
        assert_eq!((row.size, row.heads.len(), row.class.len()), ([3, 5], 3, 3));
        for (head, class) in row.heads.iter().zip(&row.class) {
            let total: f32 = head.iter().sum::<f32>() + class;
            assert!((total - 1.0).abs() < 1e-5, "{total}");
        }
        for patch in 0..15 {
            let mean: f32 = row.heads.iter().map(|head| head[patch]).sum::<f32>() / 3.0;
            let scaled: f32 = row.heads.iter().map(|head| between_0_and_1(head)[patch]).sum::<f32>() / 3.0;
            assert!((row.mean[patch] - mean).abs() < 1e-6 && (row.normalised[patch] - scaled).abs() < 1e-6);
        }
        assert!(model.attention_row(image(), 2, [0, 0]).unwrap_err().to_string().contains("0 to 1"));
        assert!(model.attention_row(image(), 0, [3, 0]).unwrap_err().to_string().contains("3 rows and 5 columns"));
    }
}
