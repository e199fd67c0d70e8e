use super::{linear, reference};
use crate::testing::{assert_same_gradients, random};

/// Float32 rounding of two summation orders over up to 130 terms.
const TOLERANCE: f32 = 1e-5;

#[test]
fn native_projection_equals_the_composed_one_with_its_gradients() {
    for (rows, inputs, outputs, biased) in [(130, 24, 40, true), (130, 24, 40, false), (1, 1, 1, true), (7, 5, 3, false)] {
        let run = |f: fn(burn::tensor::Tensor<3>, burn::tensor::Tensor<2>, Option<burn::tensor::Tensor<1>>) -> burn::tensor::Tensor<3>| {
            move |t: &[burn::tensor::Tensor<1>]| {
                let bias = biased.then(|| t[2].clone());
                let y = f(t[0].clone().reshape([1, rows, inputs]), t[1].clone().reshape([outputs, inputs]), bias);
                // Keeps the bias in the graph when it is not used, so that both gradients exist.
                y + t[2].clone().sum().reshape([1, 1, 1]) * 0.1
            }
        };
        assert_same_gradients(
            &format!("{rows} x {inputs} -> {outputs}, bias {biased}"),
            &[(&[], random(rows * inputs, 1)), (&[], random(outputs * inputs, 2)), (&[], random(outputs, 3))],
            run(linear),
            run(reference::linear),
            TOLERANCE,
        );
    }
}
