//! The operations with the shapes of their checks.

mod boxes;
mod map;
mod pointwise;
mod product;
mod scan;

use burn::prelude::*;
use vision_ops::{Operation, gelu, silu, softplus};

use crate::gpu_check::precision::Product;

/// An operation with the shapes of its inputs.
pub(super) struct Case {
    pub operation: Operation,
    pub shape: String,
    pub inputs: Vec<Input>,
    pub run: Run,
    /// Its float32 products, which the device may compute in TF32.
    pub products: Vec<Product>,
}

/// A tensor of normally distributed values.
pub(super) struct Input {
    pub name: &'static str,
    pub shape: Vec<usize>,
    pub mean: f32,
    /// Standard deviation.
    pub spread: f32,
    /// Activations may be bf16; weights stay float32.
    pub activation: bool,
}

/// A function of the flattened inputs.
pub(super) type Function<T> = Box<dyn Fn(&[Tensor<1>]) -> T>;

/// A function of the values of the inputs, with the device to compute on.
pub(super) type HostFunction<T> = Box<dyn Fn(&[Vec<f32>], &Device) -> T>;

/// The result of an operation.
pub(super) enum Run {
    /// A tensor, flattened; every input has a gradient.
    Function(Function<Tensor<1>>),
    /// The best class of each pixel.
    Labels { scores: Scores, labels: Function<Vec<u32>> },
    /// Indices of the boxes that remain.
    Kept(HostFunction<Vec<usize>>),
}

/// The scores that decide the labels, `[batch, classes, pixels]`.
pub(super) struct Scores {
    pub resized: Function<Tensor<1>>,
    pub batch: usize,
    pub classes: usize,
    pub pixels: usize,
}

/// The cases of one operation; none for operations that always run on the host.
///
/// The match is exhaustive: an operation that is added to `vision_ops` does not compile without its cases here.
pub(super) fn of(operation: Operation) -> Vec<Case> {
    match operation {
        Operation::SelectiveScan => scan::selective_scans(),
        Operation::SelectiveScan2d => scan::selective_scans_2d(),
        Operation::CrossScan => scan::cross_scans(),
        Operation::CrossMerge => scan::cross_merges(),
        Operation::Gelu => pointwise::activations(operation, gelu),
        Operation::Silu => pointwise::activations(operation, silu),
        Operation::Softplus => pointwise::activations(operation, softplus),
        Operation::ChannelNorm => pointwise::channel_norms(),
        Operation::BatchNorm => pointwise::batch_norms(),
        Operation::Linear => product::linears(),
        Operation::LinearFused => product::fused_linears(),
        Operation::Mlp => product::mlps(),
        Operation::Matmul => product::matmuls(),
        Operation::Conv2d => product::convolutions(),
        Operation::Conv2dFused => product::fused_convolutions(),
        Operation::DepthwiseConv2d => product::depthwise_convolutions(),
        Operation::DepthwiseConv2dFused => product::fused_depthwise_convolutions(),
        Operation::ResizeBilinear => map::resizes(),
        Operation::SoftmaxChannels => map::softmaxes(),
        Operation::CrossEntropyMap => map::cross_entropies(),
        Operation::RoiAlign => map::roi_aligns(),
        Operation::ArgmaxChannels => map::argmaxes(),
        Operation::ArgmaxResized => map::resized_argmaxes(),
        Operation::BatchedNmsOn => boxes::suppressions(),
        Operation::BatchedNms | Operation::Nms | Operation::PasteMask => Vec::new(),
    }
}

fn activation(name: &'static str, shape: &[usize]) -> Input {
    Input { name, shape: shape.to_vec(), mean: 0.0, spread: 1.0, activation: true }
}

fn weight(name: &'static str, shape: &[usize], spread: f32) -> Input {
    Input { name, shape: shape.to_vec(), mean: 0.0, spread, activation: false }
}

fn flat<const D: usize>(t: Tensor<D>) -> Tensor<1> {
    let count = t.shape().num_elements();
    t.reshape([count])
}

fn case(operation: Operation, shape: String, inputs: Vec<Input>, function: impl Fn(&[Tensor<1>]) -> Tensor<1> + 'static) -> Case {
    Case { operation, shape, inputs, run: Run::Function(Box::new(function)), products: Vec::new() }
}

/// `2x7x5`, then `more`.
fn text(shape: &[usize], more: &str) -> String {
    let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
    if more.is_empty() { shape.join("x") } else { format!("{}, {more}", shape.join("x")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_that_runs_on_a_device_has_cases_of_its_own() {
        for operation in Operation::ALL.iter().copied() {
            let cases = of(operation);
            assert_eq!(cases.is_empty(), operation.is_host_only(), "{}", operation.name());
            assert!(cases.iter().all(|case| case.operation == operation), "{}", operation.name());
            let differentiable = |case: &Case| matches!(case.run, Run::Function(_));
            assert!(cases.iter().all(|case| differentiable(case) == operation.is_differentiable()), "{}", operation.name());
        }
    }
}
