//! Softmax attention and relative position biases.

use burn::prelude::*;
use burn::tensor::activation::softmax;
use burn::tensor::module;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, TensorData};

use super::TableResize;

/// `[batch, height, width, 3 channels]` to queries, keys and values, each `[batch, heads, height * width, channels / heads]`.
pub(crate) fn heads(qkv: Tensor<4>, num_heads: usize) -> [Tensor<4>; 3] {
    let [batch, height, width, channels] = qkv.dims();
    let (tokens, per_head) = (height * width, channels / 3 / num_heads);
    let qkv: Tensor<5> = qkv.reshape([batch, tokens, 3, num_heads, per_head]).permute([2, 0, 3, 1, 4]);
    [0, 1, 2].map(|part| qkv.clone().narrow(0, part, 1).squeeze_dim(0))
}

/// `softmax(q k' / sqrt(channels) + bias) v` for `q: [batch, heads, queries, channels]` and `k`, `v`: `[batch, heads, tokens, channels]`, in
/// the type of `q` with the softmax in float32; `bias` is float32 and broadcasts over `[batch, heads, queries, tokens]`.
pub(crate) fn attend([q, k, v]: [Tensor<4>; 3], bias: Option<Tensor<4>>) -> Tensor<4> {
    let dtype = q.dtype();
    // Burn's fused attention gives no control over the precision of its products.
    if dtype == DType::F32 && !q.device().is_autodiff() && !vision_ops::keeps_float32(&q.device()) {
        return module::attention(q, k, v, None, bias, AttentionModuleOptions::default());
    }
    vision_ops::matmul(attention_weights(q, k, bias).cast(dtype), v)
}

/// The weights by which [`attend`] multiplies the values: `softmax(q k' / sqrt(channels) + bias)`, `[batch, heads, queries, tokens]`,
/// float32.
pub(crate) fn attention_weights(q: Tensor<4>, k: Tensor<4>, bias: Option<Tensor<4>>) -> Tensor<4> {
    let scale = (q.dims()[3] as f64).sqrt().recip();
    let scores = vision_ops::matmul(q * scale, k.swap_dims(2, 3)).cast(DType::F32);
    let scores = match bias {
        Some(bias) => scores + bias,
        None => scores,
    };
    softmax(scores, 3)
}

/// Pairs of positions in a rectangle, which index a learned table of relative position biases (Swin Transformer, section 3.2).
pub(crate) struct RelativePositions {
    size: [usize; 2],
    /// For every pair, ordered by query and then key, the row of the table. Rows are ordered by vertical and then horizontal offset.
    index: Tensor<1, Int>,
}

impl RelativePositions {
    /// The pairs of a rectangle of `[height, width]` positions.
    pub(crate) fn new(size: [usize; 2], device: &Device) -> Self {
        let [height, width] = size;
        let positions = || (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
        let distance =
            |from: (usize, usize), to: (usize, usize)| (from.0 + height - 1 - to.0) * (2 * width - 1) + from.1 + width - 1 - to.1;
        let rows: Vec<i32> = positions().flat_map(|from| positions().map(move |to| distance(from, to) as i32)).collect();
        let count = rows.len();
        Self { size, index: Tensor::from_data(TensorData::new(rows, [count]), device) }
    }

    /// The bias `[1, heads, positions, positions]`, float32, from a table `[(2 side - 1)^2, heads]` made for squares of `side` positions. For
    /// another rectangle, the table is resampled bicubically.
    pub(crate) fn bias(&self, table: Tensor<2>, side: usize) -> Tensor<4> {
        let (heads, positions) = (table.dims()[1], self.size[0] * self.size[1]);
        let table = if self.size == [side; 2] {
            table
        } else {
            let (stored, [rows, columns]) = (2 * side - 1, self.size.map(|side| 2 * side - 1));
            let resized = TableResize::Bicubic.apply(table.reshape([stored, stored, heads]), [rows, columns]);
            resized.reshape([rows * columns, heads])
        };
        table.select(0, self.index.clone()).transpose().reshape([1, heads, positions, positions])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn a_pair_reads_the_row_of_its_distance() {
        let device = Device::flex();
        // 2 x 3 positions: vertical offsets from -1 to 1, horizontal ones from -2 to 2, five a row.
        let pairs: Vec<i32> = RelativePositions::new([2, 3], &device).index.into_data().iter::<i32>().collect();
        assert_eq!(pairs[0], 7, "a position and itself have the offset in the middle");
        assert_eq!(pairs[5], 0, "from the last position to the first, up and to the left");
        assert_eq!(pairs[30], 14, "and the way back");
    }

    #[test]
    fn with_and_without_gradients_attention_is_the_same() {
        let device = Device::flex();
        device.seed(2);
        let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (parts, bias) = ([random([2, 3, 5, 4]), random([2, 3, 7, 4]), random([2, 3, 7, 4])], random([1, 3, 5, 7]));
        let tracked = |x: &Tensor<4>| Tensor::from_inner(x.clone());
        for bias in [None, Some(bias)] {
            let plain = attend(parts.clone(), bias.clone());
            let composed = attend(parts.each_ref().map(tracked), bias.as_ref().map(tracked)).inner();
            let difference: f32 = (plain - composed).abs().max().into_scalar();
            assert!(difference < 1e-5, "{difference}");
        }
    }
}
