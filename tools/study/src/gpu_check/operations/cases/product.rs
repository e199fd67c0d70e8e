//! Matrix products and convolutions, alone and with an epilogue.

use burn::prelude::*;
use vision_ops::{
    Fused, Operation, Pointwise, conv2d, conv2d_fused, depthwise_conv2d, depthwise_conv2d_fused, linear, linear_fused, matmul, mlp,
};

use super::{Case, Input, activation, case, flat, text, weight};
use crate::gpu_check::precision::Product;

/// Standard deviation of weights whose product keeps that of `inputs` factors.
fn keeping(inputs: usize) -> f32 {
    1.0 / (inputs as f32).sqrt()
}

/// The epilogue of the fused cases.
const EPILOGUE: &str = "scale, bias, residual, GELU";

/// Scale, bias and residual of a result of shape `output` with `channels` channels.
fn epilogue_inputs(channels: usize, output: &[usize]) -> [Input; 3] {
    let scale = Input { mean: 1.0, ..weight("scale", &[channels], 0.3) };
    [scale, weight("bias", &[channels], 0.5), activation("residual", output)]
}

fn epilogue(t: &[Tensor<1>], output: [usize; 4]) -> Fused<4> {
    let (scale, bias) = (t.first().cloned(), t.get(1).cloned());
    let residual = t.get(2).map(|residual| residual.clone().reshape(output));
    Fused { scale, bias, residual, activation: Pointwise::Gelu }
}

pub(super) fn linears() -> Vec<Case> {
    let mut cases = Vec::new();
    for ([batch, height, width, inputs, outputs], biased) in
        [([2, 7, 9, 33, 17], true), ([1, 1, 1, 5, 3], true), ([2, 28, 28, 96, 384], true), ([2, 14, 14, 1536, 384], false)]
    {
        let shape = [batch, height, width, inputs];
        let mut tensors = vec![activation("x", &shape), weight("weight", &[outputs, inputs], keeping(inputs))];
        tensors.extend(biased.then(|| weight("bias", &[outputs], 0.5)));
        let product = Product::Linear { rows: batch * height * width, inputs, outputs };
        let checked = case(Operation::Linear, text(&shape, &format!("to {outputs}")), tensors, move |t| {
            flat(linear(t[0].clone().reshape(shape), t[1].clone().reshape([outputs, inputs]), t.get(2).cloned()))
        });
        cases.push(Case { products: vec![product], ..checked });
    }
    cases
}

pub(super) fn fused_linears() -> Vec<Case> {
    let mut cases = Vec::new();
    for (batch, height, width, inputs, outputs) in [(2, 7, 9, 33, 17), (2, 14, 14, 384, 96)] {
        let (shape, output) = ([batch, height, width, inputs], [batch, height, width, outputs]);
        let mut tensors = vec![activation("x", &shape), weight("weight", &[outputs, inputs], keeping(inputs))];
        tensors.extend(epilogue_inputs(outputs, &output));
        let product = Product::Linear { rows: batch * height * width, inputs, outputs };
        let checked = case(Operation::LinearFused, text(&shape, &format!("to {outputs}, {EPILOGUE}")), tensors, move |t| {
            let weight = t[1].clone().reshape([outputs, inputs]);
            flat(linear_fused(t[0].clone().reshape(shape), weight, epilogue(&t[2..], output)))
        });
        cases.push(Case { products: vec![product], ..checked });
    }
    cases
}

pub(super) fn mlps() -> Vec<Case> {
    let mut cases = Vec::new();
    for [batch, height, width, channels, hidden] in [[2, 5, 7, 24, 40], [1, 14, 14, 384, 1536]] {
        let shape = [batch, height, width, channels];
        let tensors = vec![
            activation("x", &shape),
            weight("first weight", &[hidden, channels], keeping(channels)),
            weight("first bias", &[hidden], 0.5),
            weight("second weight", &[channels, hidden], keeping(hidden)),
            weight("second bias", &[channels], 0.5),
        ];
        let rows = batch * height * width;
        let products =
            vec![Product::Linear { rows, inputs: channels, outputs: hidden }, Product::Linear { rows, inputs: hidden, outputs: channels }];
        let checked = case(Operation::Mlp, text(&shape, &format!("through {hidden}, GELU, residual")), tensors, move |t| {
            let x = t[0].clone().reshape(shape);
            let first = (t[1].clone().reshape([hidden, channels]), Some(t[2].clone()));
            let second = (t[3].clone().reshape([channels, hidden]), Some(t[4].clone()));
            flat(mlp(x.clone(), [first, second], Pointwise::Gelu, Some(x)))
        });
        cases.push(Case { products, ..checked });
    }
    cases
}

pub(super) fn matmuls() -> Vec<Case> {
    let mut cases = Vec::new();
    // Query times key of an attention, and an odd shape.
    for [batch, rows, inner, columns] in [[3, 7, 5, 9], [6, 196, 64, 196]] {
        let inputs = vec![activation("left", &[batch, rows, inner]), activation("right", &[batch, inner, columns])];
        let product = Product::Matmul { batch, rows, inner, columns };
        let checked = case(Operation::Matmul, text(&[batch, rows, inner], &format!("to {columns} columns")), inputs, move |t| {
            let (left, right) = (t[0].clone().reshape([batch, rows, inner]), t[1].clone().reshape([batch, inner, columns]));
            flat(matmul(left, right))
        });
        cases.push(Case { products: vec![product], ..checked });
    }
    cases
}

pub(super) fn convolutions() -> Vec<Case> {
    let mut cases = Vec::new();
    for ([batch, height, width, inputs, outputs, stride], biased) in
        [([1, 15, 13, 3, 16, 2], true), ([2, 9, 10, 24, 32, 1], true), ([2, 56, 56, 96, 192, 2], true), ([1, 25, 33, 64, 64, 1], false)]
    {
        let shape = [batch, height, width, inputs];
        let mut tensors = vec![activation("x", &shape), weight("weight", &[outputs, inputs, 3, 3], keeping(9 * inputs))];
        tensors.extend(biased.then(|| weight("bias", &[outputs], 0.5)));
        let product = Product::Conv { batch, size: [height, width], inputs, outputs, stride };
        let checked = case(Operation::Conv2d, text(&shape, &format!("to {outputs}, 3x3, stride {stride}")), tensors, move |t| {
            let weight = t[1].clone().reshape([outputs, inputs, 3, 3]);
            flat(conv2d(t[0].clone().reshape(shape), weight, t.get(2).cloned(), [stride; 2], [1, 1]))
        });
        cases.push(Case { products: vec![product], ..checked });
    }
    cases
}

pub(super) fn fused_convolutions() -> Vec<Case> {
    let mut cases = Vec::new();
    for [batch, height, width, inputs, outputs, stride] in [[2_usize, 9, 10, 24, 32, 1], [1, 15, 13, 3, 16, 2]] {
        let output = [batch, height.div_ceil(stride), width.div_ceil(stride), outputs];
        let shape = [batch, height, width, inputs];
        let mut tensors = vec![activation("x", &shape), weight("weight", &[outputs, inputs, 3, 3], keeping(9 * inputs))];
        tensors.extend(epilogue_inputs(outputs, &output));
        let product = Product::Conv { batch, size: [height, width], inputs, outputs, stride };
        let more = format!("to {outputs}, 3x3, stride {stride}, {EPILOGUE}");
        let checked = case(Operation::Conv2dFused, text(&shape, &more), tensors, move |t| {
            let weight = t[1].clone().reshape([outputs, inputs, 3, 3]);
            flat(conv2d_fused(t[0].clone().reshape(shape), weight, epilogue(&t[2..], output), [stride; 2], [1, 1]))
        });
        cases.push(Case { products: vec![product], ..checked });
    }
    cases
}

pub(super) fn depthwise_convolutions() -> Vec<Case> {
    let mut cases = Vec::new();
    for ([batch, height, width, channels, kernel], biased) in
        [([2, 11, 7, 24, 3], true), ([1, 5, 4, 9, 5], true), ([2, 28, 28, 96, 3], false), ([2, 28, 28, 192, 3], true)]
    {
        let shape = [batch, height, width, channels];
        let mut tensors = vec![activation("x", &shape), weight("weight", &[channels, 1, kernel, kernel], 1.0 / kernel as f32)];
        tensors.extend(biased.then(|| weight("bias", &[channels], 0.5)));
        cases.push(case(Operation::DepthwiseConv2d, text(&shape, &format!("{kernel}x{kernel}")), tensors, move |t| {
            let weight = t[1].clone().reshape([channels, 1, kernel, kernel]);
            flat(depthwise_conv2d(t[0].clone().reshape(shape), weight, t.get(2).cloned()))
        }));
    }
    cases
}

pub(super) fn fused_depthwise_convolutions() -> Vec<Case> {
    let mut cases = Vec::new();
    for [batch, height, width, channels, kernel] in [[2, 11, 7, 24, 3], [2, 28, 28, 96, 3]] {
        let shape = [batch, height, width, channels];
        let inputs = vec![
            activation("x", &shape),
            weight("weight", &[channels, 1, kernel, kernel], 1.0 / kernel as f32),
            weight("bias", &[channels], 0.5),
        ];
        let more = format!("{kernel}x{kernel}, bias, SiLU");
        cases.push(case(Operation::DepthwiseConv2dFused, text(&shape, &more), inputs, move |t| {
            let weight = t[1].clone().reshape([channels, 1, kernel, kernel]);
            flat(depthwise_conv2d_fused(t[0].clone().reshape(shape), weight, Some(t[2].clone()), Pointwise::Silu))
        }));
    }
    cases
}
