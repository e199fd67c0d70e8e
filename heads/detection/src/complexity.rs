//! Parameters and FLOPs of the parts, counted as in the published tables: the box head for 1000 RoIs, the mask head for 100. RoIAlign and
//! NMS are not counted.

use vmamba::complexity::{Complexity, OpKind};

use crate::box_head::{BoxHeadConfig, BoxHeadLayers, ConvNorm};
use crate::fpn::FpnConfig;
use crate::mask_head::MaskHeadConfig;
use crate::rpn::RpnConfig;

/// Number of RoIs in the published FLOPs of the box head.
pub const BOX_ROIS: usize = 1000;
/// Number of RoIs in the published FLOPs of the mask head.
pub const MASK_ROIS: usize = 100;

/// A convolution with bias on `times` maps of `[height, width]` cells.
fn conv(cost: &mut Complexity, inputs: usize, outputs: usize, kernel: usize, [height, width]: [usize; 2], times: usize) {
    cost.conv(inputs, outputs, [kernel; 2], [times * height, width]);
    cost.add_params(outputs);
}

impl FpnConfig {
    /// Adds the cost of the pyramid over backbone levels of `(channels, [height, width])`, and returns the sizes of all its levels.
    pub fn add_cost(&self, cost: &mut Complexity, backbone: &[(usize, [usize; 2])]) -> Vec<[usize; 2]> {
        let mut levels: Vec<[usize; 2]> = backbone.iter().map(|(_, size)| *size).collect();
        for (inputs, size) in backbone {
            conv(cost, *inputs, self.channels, 1, *size, 1);
            conv(cost, self.channels, self.channels, 3, *size, 1);
        }
        // Every level except the coarsest adds the level above it, upsampled.
        for [height, width] in levels.iter().rev().skip(1) {
            cost.add(OpKind::UpsampleNearest, (self.channels * height * width) as u64);
            cost.pointwise((self.channels * height * width) as u64);
        }
        while levels.len() < self.levels {
            let Some(coarsest) = levels.last() else { break };
            levels.push(coarsest.map(|side| side.div_ceil(2)));
        }
        levels
    }
}

impl RpnConfig {
    /// Adds the cost of the network on pyramid levels of `inputs` channels and these sizes `[height, width]`, with `anchors` per cell.
    pub fn add_cost(&self, cost: &mut Complexity, inputs: usize, anchors: usize, levels: &[[usize; 2]]) {
        // All levels share the weights: the parameters count once.
        let before = cost.params;
        for size in levels {
            conv(cost, inputs, self.channels, 3, *size, 1);
            conv(cost, self.channels, anchors, 1, *size, 1);
            conv(cost, self.channels, 4 * anchors, 1, *size, 1);
        }
        cost.params = before + (cost.params - before) / levels.len().max(1) as u64;
    }
}

impl BoxHeadConfig {
    /// Adds the cost of the head on the features of `rois` RoIs with `inputs` channels.
    pub fn add_cost(&self, cost: &mut Complexity, inputs: usize, num_classes: usize, rois: usize) {
        cost.pointwise((inputs * rois * self.roi_size * self.roi_size) as u64);
        let (convs, fcs) = self.depths();
        let mut features = inputs;
        if let BoxHeadLayers::Shared4Conv1Fc { channels, norm } = self.layers {
            for _ in 0..convs {
                cost.conv(features, channels, [3; 2], [rois * self.roi_size, self.roi_size]);
                match norm {
                    ConvNorm::None => cost.add_params(channels),
                    ConvNorm::BatchNorm => {
                        cost.add_params(2 * channels);
                        let values = (channels * rois * self.roi_size * self.roi_size) as u64;
                        cost.add(OpKind::BatchNorm, 2 * values);
                        cost.pointwise(values);
                    }
                }
                features = channels;
            }
        }
        features *= self.roi_size * self.roi_size;
        let mut linear = |inputs: usize, outputs: usize| {
            cost.add(OpKind::Linear, (rois * inputs * outputs) as u64);
            cost.layer((rois * inputs) as u64, (rois * outputs) as u64);
            cost.add_params((inputs + 1) * outputs);
        };
        for _ in 0..fcs {
            linear(features, self.channels);
            features = self.channels;
        }
        linear(features, num_classes + 1);
        linear(features, self.regression_outputs(num_classes));
    }
}

impl MaskHeadConfig {
    /// Adds the cost of the head on the features of `rois` RoIs with `inputs` channels.
    pub fn add_cost(&self, cost: &mut Complexity, mut inputs: usize, num_classes: usize, rois: usize) {
        let (side, hidden) = (self.roi_size, self.channels);
        cost.pointwise((inputs * rois * side * side) as u64);
        for _ in 0..self.num_convs {
            conv(cost, inputs, hidden, 3, [side; 2], rois);
            inputs = hidden;
        }
        // A transposed convolution with stride and kernel 2 multiplies at every position of its input, and writes four times as many.
        cost.layer(0, (3 * hidden * rois * side * side) as u64);
        conv(cost, inputs, hidden, 2, [side; 2], rois);
        conv(cost, hidden, num_classes, 1, [2 * side; 2], rois);
    }
}
