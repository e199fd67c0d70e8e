use super::{linear, linear_fused, mlp, reference};
use crate::epilogue::{Fused, Pointwise};
use crate::testing::{assert_close, assert_reference_keeps_bf16, assert_same_gradients, cpu, random, random_tensor};

/// Float32 rounding of two summation orders over up to 130 terms.
const TOLERANCE: f32 = 1e-5;

#[test]
fn the_composed_projection_keeps_bf16() {
    let device = cpu();
    let (weight, bias) = (random_tensor([5, 12], 1, &device), Some(random_tensor([5], 2, &device)));
    assert_reference_keeps_bf16(
        random_tensor([9, 12], 3, &device),
        |x| reference::linear(x, weight.clone(), bias.clone()),
        |x| linear(x, weight.clone(), bias.clone()),
    );
}

#[test]
fn kernels_and_their_gradients_equal_the_reference() {
    for (rows, inputs, outputs, biased) in [(130, 24, 40, true), (130, 24, 40, false), (1, 1, 1, true), (7, 5, 3, false)] {
        let run = |f: fn(burn::tensor::Tensor<3>, burn::tensor::Tensor<2>, Option<burn::tensor::Tensor<1>>) -> burn::tensor::Tensor<3>| {
            move |t: &[burn::tensor::Tensor<1>]| {
                let bias = biased.then(|| t[2].clone());
                let y = f(t[0].clone().reshape([1, rows, inputs]), t[1].clone().reshape([outputs, inputs]), bias);
                // Keeps an unused bias in the graph, so that it has a gradient.
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

#[test]
fn the_fused_epilogue_equals_separate_steps() {
    let device = cpu();
    for rows in [5, 600] {
        let (x, weight) = (random_tensor([1, rows, 24], 1, &device), random_tensor([50, 24], 2, &device));
        let fused = Fused::bias(Some(random_tensor([50], 3, &device)))
            .residual(random_tensor([1, rows, 50], 4, &device))
            .activation(Pointwise::Silu);
        let expected = fused.clone().compose(|bias| linear(x.clone(), weight.clone(), bias));
        assert_close("fused", linear_fused(x, weight, fused), expected, TOLERANCE);
    }
}

#[test]
#[should_panic(expected = "the residual and the result differ in shape")]
fn a_residual_that_would_be_broadcast_is_refused_in_training_too() {
    let device = cpu().autodiff();
    let fused = Fused::default().residual(random_tensor([1, 3], 1, &device));
    linear_fused(random_tensor([4, 5], 2, &device), random_tensor([3, 5], 3, &device), fused);
}

#[test]
#[should_panic(expected = "linear: the bias has 1 values for 3 channels")]
fn a_bias_of_another_length_is_refused() {
    let device = cpu();
    linear(random_tensor([4, 5], 1, &device), random_tensor([3, 5], 2, &device), Some(random_tensor([1], 3, &device)));
}

#[test]
fn an_mlp_has_the_same_result_with_and_without_autodiff() {
    for rows in [5, 600] {
        for residual in [false, true] {
            let run = |device: burn::prelude::Device| {
                let x = random_tensor([1, rows, 24], 1, &device);
                let first = (random_tensor([96, 24], 2, &device), Some(random_tensor([96], 3, &device)));
                let second = (random_tensor([24, 96], 4, &device), None);
                let residual = residual.then(|| x.clone());
                mlp(x, [first, second], Pointwise::Gelu, residual)
            };
            assert_close("mlp", run(cpu()), run(cpu().autodiff()).inner(), TOLERANCE);
        }
    }
}
