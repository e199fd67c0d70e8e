//! Options of a ResNet, its sizes and its cost.

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::{BlockShape, EXPANSION, Resnet, ResnetClassifier, Trunk};
use crate::complexity::{Complexity, OpKind, product};
use crate::layers::{ConvConfig, Dense, uniform_fan_in};
use crate::limits::{MAX_CHANNELS, require_depths, require_stages, require_whole};
use crate::vmamba::ConfigError;
use crate::vmamba::config::require;

/// Options of a ResNet. The default is ResNet-50. The network has no stochastic depth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ResnetConfig {
    /// Channels of the input image.
    pub in_chans: usize,
    /// Channels of the stem and of the inner convolutions of the first stage, doubled from stage to stage; 64 in every published model.
    pub width: usize,
    /// Blocks of each stage; its length is the number of stages.
    pub depths: Vec<usize>,
    /// Replaces the 7x7 convolution by three 3x3 ones, the first two of half the width (mmsegmentation's `ResNetV1c`).
    pub deep_stem: bool,
    /// Stages whose features the backbone returns, ascending.
    pub out_indices: Vec<usize>,
}

impl Default for ResnetConfig {
    fn default() -> Self {
        Self::resnet50()
    }
}

impl ResnetConfig {
    /// ResNet-50: 25.6M parameters, 4.1 GFLOPs.
    pub fn resnet50() -> Self {
        Self::of_depths([3, 4, 6, 3])
    }

    /// ResNet-101: 44.5M parameters, 7.8 GFLOPs.
    pub fn resnet101() -> Self {
        Self::of_depths([3, 4, 23, 3])
    }

    fn of_depths(depths: [usize; 4]) -> Self {
        Self { in_chans: 3, width: 64, depths: depths.to_vec(), deep_stem: false, out_indices: vec![0, 1, 2, 3] }
    }

    /// Validates the options.
    ///
    /// # Errors
    /// [`ConfigError::Field`] with the first invalid field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        require_whole("in_chans", self.in_chans, MAX_CHANNELS)?;
        require_depths(&self.depths)?;
        // A stage has four times as many channels as its inner convolutions.
        require_whole("width", self.width, MAX_CHANNELS >> (self.depths.len() + 1))?;
        require(!self.deep_stem || self.width.is_multiple_of(2), "width", "even, for a deep stem", &self.width)?;
        require_stages(&self.out_indices, self.depths.len())
    }

    /// Checks that the network can process images of `[height, width]` pixels. Sizes that a stride does not divide are rounded up, so only empty
    /// images are refused.
    ///
    /// # Errors
    /// [`ConfigError::Field`] for the field `image`.
    pub fn check_image(&self, image: [usize; 2]) -> Result<(), ConfigError> {
        require(!image.contains(&0), "image", "at least one pixel", &image)
    }

    /// A backbone with random weights on `device`.
    ///
    /// # Errors
    /// As [`ResnetConfig::validate`].
    pub fn try_init(&self, device: &Device) -> Result<Resnet, ConfigError> {
        self.validate()?;
        Ok(Resnet { trunk: Trunk::new(self, device), config: self.clone() })
    }

    /// A classifier with random weights on `device`. It does not use `out_indices`.
    ///
    /// # Errors
    /// As [`ResnetConfig::validate`].
    pub fn try_init_classifier(&self, num_classes: usize, device: &Device) -> Result<ResnetClassifier, ConfigError> {
        self.validate()?;
        let width = self.channels(self.depths.len() - 1);
        let fc =
            Dense { weight: uniform_fan_in([num_classes, width], width, device), bias: Some(uniform_fan_in([num_classes], width, device)) };
        Ok(ResnetClassifier { trunk: Trunk::new(self, device), fc, config: self.clone() })
    }

    /// Channels of the feature of stage `stage`.
    pub fn channels(&self, stage: usize) -> usize {
        (EXPANSION * self.width) << stage
    }

    /// Stride of stage `stage`, in pixels of the image.
    pub fn stride(&self, stage: usize) -> usize {
        4 << stage
    }

    /// Height and width of every stage's feature for an image of `[height, width]` pixels.
    pub fn stage_sizes(&self, image: [usize; 2]) -> Vec<[usize; 2]> {
        let halved = |size: [usize; 2]| size.map(|s| s.div_ceil(2));
        std::iter::successors(Some(halved(halved(image))), |size| Some(halved(*size))).take(self.depths.len()).collect()
    }

    /// Cost of the backbone for one image of `[height, width]` pixels. Norms use their running statistics.
    pub fn complexity(&self, image: [usize; 2]) -> Complexity {
        let mut cost = Complexity::default();
        let size = self.stem().iter().fold(image, |size, conv| conv_norm_cost(&mut cost, conv, size));
        let mut size = size.map(|s| s.div_ceil(2));
        for stage in 0..self.depths.len() {
            for block in self.blocks(stage) {
                if let Some(shortcut) = &block.shortcut {
                    conv_norm_cost(&mut cost, shortcut, size);
                }
                size = block.convs.iter().fold(size, |size, conv| conv_norm_cost(&mut cost, conv, size));
            }
        }
        cost
    }

    /// Cost of the classifier for one image of `[height, width]` pixels.
    pub fn classifier_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        let mut cost = self.complexity(image);
        if let (Some([height, width]), Some(last)) = (self.stage_sizes(image).pop(), self.depths.len().checked_sub(1)) {
            let channels = self.channels(last);
            cost.add(OpKind::AdaptiveAvgPool, product(&[channels, height, width]));
            cost.linear(OpKind::Linear, channels, num_classes, true, [1, 1]);
        }
        cost
    }

    pub(super) fn stem(&self) -> Vec<ConvConfig> {
        if !self.deep_stem {
            return vec![ConvConfig { inputs: self.in_chans, outputs: self.width, kernel: 7, stride: 2, padding: 3 }];
        }
        let half = self.width / 2;
        let conv = |inputs, outputs, stride| ConvConfig { inputs, outputs, kernel: 3, stride, padding: 1 };
        vec![conv(self.in_chans, half, 2), conv(half, half, 1), conv(half, self.width, 1)]
    }

    pub(super) fn blocks(&self, stage: usize) -> Vec<BlockShape> {
        let (inner, outputs) = (self.width << stage, self.channels(stage));
        let block = |index| {
            let inputs = match (stage, index) {
                (0, 0) => self.width,
                (_, 0) => outputs / 2,
                _ => outputs,
            };
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let pointwise = |inputs, outputs, stride| ConvConfig { inputs, outputs, kernel: 1, stride, padding: 0 };
            BlockShape {
                convs: [
                    pointwise(inputs, inner, 1),
                    ConvConfig { inputs: inner, outputs: inner, kernel: 3, stride, padding: 1 },
                    pointwise(inner, outputs, 1),
                ],
                shortcut: (index == 0).then(|| pointwise(inputs, outputs, stride)),
            }
        };
        (0..self.depths[stage]).map(block).collect()
    }
}

/// Adds a convolution without bias and its norm; returns the size of its output.
fn conv_norm_cost(cost: &mut Complexity, conv: &ConvConfig, input: [usize; 2]) -> [usize; 2] {
    let output = input.map(|size| conv.output_size(size));
    cost.conv(conv.inputs, conv.outputs, [conv.kernel; 2], output);
    cost.batch_norm(conv.outputs, output);
    output
}
