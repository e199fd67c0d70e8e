//! Parameters and FLOPs of a model, counted as the official code does, from its configuration and the image size alone.
//!
//! The official tool is fvcore. A multiply-add is one FLOP; LayerNorm costs 5 per value (4 without scale and shift); BatchNorm with running
//! statistics 2; an average pool 1 per input value; activations, additions, max pools and permutations nothing. A selective scan costs
//! `9 L D N + L D`, where D is the channels of all four groups. Operations have the names of the official code: with the `ln2d` layout, for
//! example, a linear layer is a 1x1 convolution there. Results equal the published tables to the last digit.

use std::collections::BTreeMap;

use crate::family::{Family, Level};
use crate::layers::ConvConfig;
use crate::vmamba::init::GROUPS;
use crate::vmamba::{DownsampleVersion, Gate, Generation, NormLayout, OutNormKind, ScanPattern, VmambaConfig, downsample, stem};

/// Cost of one forward pass over one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complexity {
    /// Trainable parameters.
    pub params: u64,
    /// FLOPs by kind of operation.
    pub by_op: BTreeMap<OpKind, u64>,
    /// FLOPs of the scans as the paper's first versions counted them: `7/2 L D N + L D` instead of `9 L D N + L D`.
    pub early_scan: u64,
    /// Values that all layers write: the outputs of convolutions, linear layers, norms, scans, products and resizes. Most of what a training
    /// step keeps for its backward pass is proportional to it.
    pub outputs: u64,
    /// Values that the largest layer reads and writes. Most of what a prediction needs at one time is proportional to it.
    pub largest: u64,
}

/// Kinds of operations that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OpKind {
    /// Convolutions, and linear layers in the `ln2d` layout.
    Conv,
    /// Linear layers.
    Linear,
    /// Products of two activations, as in attention.
    Matmul,
    /// Projections of the vanilla scan, and products of Fourier spectra.
    Einsum,
    /// Fourier transforms.
    Fft,
    /// LayerNorm.
    LayerNorm,
    /// BatchNorm with running statistics.
    BatchNorm,
    /// The selective scan.
    SelectiveScan,
    /// Adaptive average pool.
    AdaptiveAvgPool,
    /// Bilinear upsampling.
    UpsampleBilinear,
    /// Nearest upsampling.
    UpsampleNearest,
}

impl OpKind {
    /// The name that fvcore prints.
    pub fn official_name(self) -> &'static str {
        match self {
            Self::Conv => "conv",
            Self::Linear => "linear",
            Self::Matmul => "matmul",
            Self::Einsum => "einsum",
            Self::Fft => "fft",
            Self::LayerNorm => "layer_norm",
            Self::BatchNorm => "batch_norm",
            Self::SelectiveScan => "PythonOp.SelectiveScanCuda",
            Self::AdaptiveAvgPool => "adaptive_avg_pool2d",
            Self::UpsampleBilinear => "upsample_bilinear2d",
            Self::UpsampleNearest => "upsample_nearest2d",
        }
    }
}

impl Complexity {
    /// FLOPs of all operations.
    pub fn flops(&self) -> u64 {
        self.by_op.values().sum()
    }

    /// FLOPs of all operations, with the scans counted as in the tables and code of the paper's first two versions. The official figures round
    /// every scan to four digits before adding.
    pub fn early_flops(&self) -> u64 {
        self.flops() - self.by_op.get(&OpKind::SelectiveScan).copied().unwrap_or_default() + self.early_scan
    }

    /// Adds a layer that reads `inputs` and writes `outputs` values. The methods that add a layer with its FLOPs call it.
    pub fn layer(&mut self, inputs: u64, outputs: u64) {
        self.outputs = self.outputs.saturating_add(outputs);
        self.largest = self.largest.max(inputs.saturating_add(outputs));
    }

    /// Adds a layer that changes values one by one, or writes as many as it reads.
    pub fn pointwise(&mut self, values: u64) {
        self.layer(values, values);
    }

    /// Adds the scores of `heads` heads between `queries` tokens and the `keys` tokens that each of them sees, and their products with values of
    /// `channels` channels. FLOPs are not added.
    pub(crate) fn attention(&mut self, heads: usize, queries: usize, keys: usize, channels: usize) {
        let (scores, values) = (product(&[heads, queries, keys]), product(&[queries, channels]));
        // The scores and their softmax.
        self.layer(values.saturating_mul(2), scores);
        self.layer(scores, scores);
        self.layer(scores, values);
    }

    /// Adds a selective scan of `rows` sequences of `length` positions with `state` states.
    pub(crate) fn selective_scan(&mut self, rows: usize, length: usize, state: usize) {
        self.add(OpKind::SelectiveScan, product(&[rows, length, 9 * state + 1]));
        self.pointwise(product(&[rows, length]));
        self.early_scan += product(&[rows, length, 7 * state + 2]) / 2;
    }

    /// Adds FLOPs of an operation.
    pub fn add(&mut self, op: OpKind, flops: u64) {
        let total = self.by_op.entry(op).or_default();
        *total = total.saturating_add(flops);
    }

    /// Adds parameters.
    pub fn add_params(&mut self, params: usize) {
        self.params += params as u64;
    }

    /// Adds the cost of another part of the model.
    pub fn merge(&mut self, other: &Self) {
        self.params += other.params;
        self.early_scan += other.early_scan;
        self.outputs = self.outputs.saturating_add(other.outputs);
        self.largest = self.largest.max(other.largest);
        for (op, flops) in &other.by_op {
            self.add(*op, *flops);
        }
    }

    /// Adds a dense convolution without bias: one multiply-add per weight and output position. `kernel` and `output` are `[height, width]`.
    pub fn conv(&mut self, inputs: usize, outputs: usize, kernel: [usize; 2], output: [usize; 2]) {
        let weights = inputs * outputs * kernel[0] * kernel[1];
        self.add_params(weights);
        self.add(OpKind::Conv, product(&[weights, output[0], output[1]]));
        self.layer(product(&[inputs, output[0], output[1]]), product(&[outputs, output[0], output[1]]));
    }

    /// Adds a convolution with bias; returns the size of its output.
    pub(crate) fn conv_layer(&mut self, conv: &ConvConfig, input: [usize; 2]) -> [usize; 2] {
        let output = input.map(|size| conv.output_size(size));
        self.conv(conv.inputs, conv.outputs, [conv.kernel; 2], output);
        self.add_params(conv.outputs);
        output
    }

    /// Adds a depthwise convolution with "same" padding.
    pub(crate) fn depthwise(&mut self, channels: usize, kernel: usize, bias: bool, [height, width]: [usize; 2]) {
        self.conv(1, channels, [kernel; 2], [height, width]);
        self.largest = self.largest.max(product(&[2, channels, height, width]));
        self.add_params(if bias { channels } else { 0 });
    }

    /// Adds a LayerNorm with scale and shift at every position.
    pub(crate) fn layer_norm(&mut self, channels: usize, [height, width]: [usize; 2]) {
        self.add_params(2 * channels);
        self.add(OpKind::LayerNorm, product(&[5, channels, height, width]));
        self.pointwise(product(&[channels, height, width]));
    }

    /// Adds a LayerNorm on every level of a pyramid.
    pub(crate) fn level_norms(&mut self, levels: &[Level]) {
        for level in levels {
            self.layer_norm(level.channels, level.size);
        }
    }

    /// Adds a classifier's LayerNorm of the last feature, of this size, its average over the positions and its linear layer.
    pub(crate) fn norm_and_head(&mut self, channels: usize, num_classes: usize, size: [usize; 2]) {
        self.layer_norm(channels, size);
        self.add(OpKind::AdaptiveAvgPool, product(&[channels, size[0], size[1]]));
        self.linear(OpKind::Linear, channels, num_classes, true, [1, 1]);
    }

    /// Adds a BatchNorm with running statistics at every position.
    pub(crate) fn batch_norm(&mut self, channels: usize, [height, width]: [usize; 2]) {
        self.add_params(2 * channels);
        self.add(OpKind::BatchNorm, product(&[2, channels, height, width]));
        self.pointwise(product(&[channels, height, width]));
    }

    /// Adds a linear layer at every position, counted as `op`.
    pub(crate) fn linear(&mut self, op: OpKind, inputs: usize, outputs: usize, bias: bool, [height, width]: [usize; 2]) {
        self.add_params(inputs * outputs + if bias { outputs } else { 0 });
        self.add(op, product(&[inputs, outputs, height, width]));
        self.layer(product(&[inputs, height, width]), product(&[outputs, height, width]));
    }
}

impl VmambaConfig {
    /// Height and width of every stage's feature for an image of `[height, width]` pixels.
    pub fn stage_sizes(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        let first = stem::conv_configs(self).iter().fold(image, |size, conv| size.map(|s| conv.output_size(s)));
        let mut sizes = vec![first];
        for stage in 1..self.num_stages() {
            sizes.push(self.downsampled(stage - 1, sizes[stage - 1]));
        }
        sizes
    }

    /// Cost of the backbone, output norms included, for one image of `[height, width]` pixels.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = self.trunk_complexity(image);
        cost.level_norms(&self.levels(image));
        cost
    }

    /// Cost of the classifier for one image of `[height, width]` pixels.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let mut cost = self.trunk_complexity(image);
        let last = self.num_stages() - 1;
        cost.norm_and_head(self.dim(last), num_classes, self.stage_sizes(image)[last]);
        cost
    }

    fn trunk_complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = Complexity::default();
        let mut size = image;
        for conv in stem::conv_configs(self) {
            size = cost.conv_layer(&conv, size);
            if self.patch_norm {
                cost.layer_norm(conv.outputs, size);
            }
        }
        if self.posembed {
            cost.add_params(self.dim(0) * (self.imgsize / self.patch_size).pow(2));
        }
        for (stage, depth) in self.depths.iter().enumerate() {
            for _ in 0..*depth {
                self.block_complexity(&mut cost, self.dim(stage), size);
            }
            if stage + 1 < self.num_stages() {
                let (inputs, outputs) = (self.dim(stage), self.dim(stage + 1));
                if let Some(conv) = downsample::conv_config(self, stage) {
                    size = cost.conv_layer(&conv, size);
                    cost.layer_norm(outputs, size);
                } else if self.downsample_version == DownsampleVersion::V1 {
                    size = self.downsampled(stage, size);
                    cost.layer_norm(4 * inputs, size);
                    cost.linear(self.linear_op(), 4 * inputs, outputs, false, size);
                }
            }
        }
        cost
    }

    fn block_complexity(&self, cost: &mut Complexity, dim: usize, size: [usize; 2]) {
        if self.ssm_ratio > 0.0 {
            cost.layer_norm(dim, size);
            self.ss2d_complexity(cost, dim, size);
        }
        if self.mlp_ratio > 0.0 {
            let hidden = self.mlp_hidden(dim);
            cost.layer_norm(dim, size);
            cost.linear(self.linear_op(), dim, if self.gmlp { 2 * hidden } else { hidden }, true, size);
            cost.linear(self.linear_op(), hidden, dim, true, size);
        }
    }

    fn ss2d_complexity(&self, cost: &mut Complexity, dim: usize, size: [usize; 2]) {
        let (inner, state, rank) = (self.d_inner(dim), self.ssm_d_state, self.dt_rank(dim));
        let (form, positions) = (self.forward_type, size[0] * size[1]);
        cost.linear(self.linear_op(), dim, if form.gate == Gate::None { inner } else { 2 * inner }, false, size);
        if let Some(kernel) = self.ssm_conv {
            cost.depthwise(inner, kernel, self.ssm_conv_bias, size);
        }

        for (inputs, outputs) in [(inner, rank + 2 * state), (rank, inner)] {
            cost.add_params(GROUPS * inputs * outputs);
            let multiply_adds = product(&[GROUPS, inputs, outputs, positions]);
            cost.layer(product(&[GROUPS, inputs, positions]), product(&[GROUPS, outputs, positions]));
            match form.generation {
                Generation::V0 | Generation::V04 => cost.add(OpKind::Einsum, einsum_count(multiply_adds)),
                Generation::V05 => cost.add(OpKind::Conv, multiply_adds),
            }
        }
        // dt_projs_bias, A_logs, Ds.
        cost.add_params(GROUPS * inner * (1 + state + 1));
        cost.selective_scan(GROUPS * inner, positions, state);
        if form.scan_pattern == ScanPattern::Cascade {
            // Two LayerNorms without scale and shift.
            cost.add(OpKind::LayerNorm, product(&[2, 4, inner, positions]));
        }

        match form.out_norm {
            OutNormKind::LayerNorm => cost.layer_norm(inner, size),
            OutNormKind::DwConv3 => cost.depthwise(inner, 3, false, size),
            OutNormKind::CNorm => {
                cost.layer_norm(inner, size);
                cost.depthwise(inner, 3, false, size);
            }
            OutNormKind::None | OutNormKind::Softmax | OutNormKind::Sigmoid => {}
        }
        cost.linear(self.linear_op(), inner, dim, false, size);
    }

    fn downsampled(&self, stage: usize, size: [usize; 2]) -> [usize; 2] {
        match (self.downsample_version, downsample::conv_config(self, stage)) {
            (DownsampleVersion::None, _) => size,
            (_, Some(conv)) => size.map(|s| conv.output_size(s)),
            (_, None) => size.map(|s| s.div_ceil(2)),
        }
    }

    fn linear_op(&self) -> OpKind {
        match self.norm_layer {
            NormLayout::Ln => OpKind::Linear,
            NormLayout::Ln2d => OpKind::Conv,
        }
    }
}

/// Product of all factors; the largest number when it does not fit.
pub(crate) fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1_u64, |product, factor| product.saturating_mul(*factor as u64))
}

/// FLOPs of an einsum in fvcore, which parses them from numpy's printed report and so has four significant digits.
pub(crate) fn einsum_count(multiply_adds: u64) -> u64 {
    printed_half(multiply_adds.saturating_mul(2))
}

/// Half of the count that numpy's report prints for `operations`. An outer product has one operation per value.
pub(crate) fn printed_half(operations: u64) -> u64 {
    let printed = format!("{:.3e}", operations as f64);
    (printed.parse::<f64>().unwrap_or_default() / 2.0).floor() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmamba::Preset;

    #[test]
    fn einsums_are_rounded_as_the_official_tool_prints_them() {
        assert_eq!(einsum_count(1_234_567), 1_234_500);
        assert_eq!(einsum_count(12), 12);
    }

    /// From the paper's first versions, with the segmentor for which the official counter of the time printed 939.493 G.
    #[test]
    fn the_early_counting_is_that_of_the_first_versions() {
        for (preset, gflops) in
            [(Preset::VanillaVmambaTiny, "4.5"), (Preset::VanillaVmambaSmall, "9.1"), (Preset::VanillaVmambaBase, "15.2")]
        {
            let cost = preset.config().classifier_complexity(1000, [224, 224]);
            assert_eq!(format!("{:.1}", cost.early_flops() as f64 / 1e9), gflops, "{preset}");
        }
        let backbone = Preset::VanillaVmambaTiny.config().complexity([512, 2048]);
        let saved = (backbone.flops() - backbone.early_flops()) as f64 / 1e9;
        // The official counter rounds each scan to four digits.
        assert!((saved - (963.853_165_152 - 939.493_317_44)).abs() < 2e-3, "{saved}");
    }

    #[test]
    fn sizes_follow_the_published_strides() {
        let config = Preset::VmambaTinyS1l8.config();
        assert_eq!(config.stage_sizes([224, 224]), [[56, 56], [28, 28], [14, 14], [7, 7]]);
        assert_eq!(config.stage_sizes([75, 61]), [[19, 16], [10, 8], [5, 4], [3, 2]]);
        let vanilla = Preset::VanillaVmambaTiny.config();
        assert_eq!(vanilla.stage_sizes([75, 61]), [[18, 15], [9, 8], [5, 4], [3, 2]]);
    }
}
