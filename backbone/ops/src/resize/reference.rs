//! The resize as products with two dense interpolation matrices.

use burn::prelude::*;
use burn::tensor::TensorData;

use super::taps::taps;
use crate::precision::in_float32;

pub(crate) fn resize_bilinear(x: Tensor<4>, size: [usize; 2], align_corners: bool) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let device = x.device();
    let matrix = |from: usize, to: usize| {
        let mut values = vec![0.0_f32; to * from];
        for (row, tap) in taps(from, to, align_corners).iter().enumerate() {
            values[row * from + tap.low] += 1.0 - tap.weight;
            values[row * from + tap.high] += tap.weight;
        }
        Tensor::<2>::from_data(TensorData::new(values, [to, from]), &device)
    };
    let rows = matrix(height, size[0]).unsqueeze::<3>().expand([batch * channels, size[0], height]);
    let columns = matrix(width, size[1]).transpose().unsqueeze::<3>().expand([batch * channels, width, size[1]]);
    in_float32(x, |x| {
        rows.matmul(x.reshape([batch * channels, height, width])).matmul(columns).reshape([batch, channels, size[0], size[1]])
    })
}
