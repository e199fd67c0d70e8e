use burn::prelude::*;

use super::{exact, reference};
use crate::testing::{assert_same_gradients, random};

/// Float32 rounding of two orders of summing 23 products.
const TOLERANCE: f32 = 2e-6;

#[test]
fn the_operation_and_its_gradients_equal_burns_product() {
    for (batch, m, k, n) in [([1, 1], 1, 1, 1), ([2, 3], 5, 7, 4), ([3, 2], 33, 23, 17)] {
        let count: usize = batch.iter().product();
        let left = [batch[0], batch[1], m, k];
        // Transposed below, like the keys of attention.
        let right = [batch[0], batch[1], n, k];
        assert_same_gradients(
            &format!("{batch:?} of {m} x {k} x {n}"),
            &[(&left, random(count * m * k, 1)), (&right, random(count * n * k, 2))],
            |inputs| exact::<4>(inputs[0].clone().reshape(left), inputs[1].clone().reshape(right).swap_dims(2, 3)),
            |inputs| {
                let [left, right]: [Tensor<4>; 2] = [inputs[0].clone().reshape(left), inputs[1].clone().reshape(right)];
                reference::matmul(left, right.swap_dims(2, 3))
            },
            TOLERANCE,
        );
    }
}
