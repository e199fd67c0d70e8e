//! The auxiliary head: a few convolutions on one level (mmsegmentation's `FCNHead` without input concatenation).

use burn::prelude::*;
use burn::tensor::DType;
use vmamba::layers::Conv;

use crate::config::FcnHeadConfig;
use crate::conv_module::{ConvModule, Dropout2d, classifier};

/// Class logits from one level of a pyramid.
#[derive(Module, Debug)]
pub struct FcnHead {
    pub(crate) convs: Vec<ConvModule>,
    pub(crate) dropout: Dropout2d,
    pub(crate) conv_seg: Conv,
    in_index: usize,
    loss_weight: f64,
}

impl FcnHead {
    /// A head for a pyramid with levels of `inputs` channels, the finest first; it reads one of them.
    ///
    /// # Panics
    /// When the level does not exist.
    pub fn new(inputs: &[usize], num_classes: usize, config: &FcnHeadConfig, device: &Device) -> Self {
        let Some(input) = inputs.get(config.in_index) else {
            panic!("FcnHead: level {} of a pyramid with {} levels", config.in_index, inputs.len())
        };
        let conv = |i: usize| ConvModule::new(if i == 0 { *input } else { config.channels }, config.channels, 3, device);
        Self {
            convs: (0..config.num_convs).map(conv).collect(),
            dropout: Dropout2d::new(config.dropout),
            conv_seg: classifier(config.channels, num_classes, device),
            in_index: config.in_index,
            loss_weight: config.loss_weight,
        }
    }

    /// The level that it reads.
    pub fn in_index(&self) -> usize {
        self.in_index
    }

    /// Whether a batch norm of the head trains.
    pub(crate) fn trains_norm(&self) -> bool {
        self.convs.iter().any(|conv| conv.bn.trains())
    }

    /// Factor of its loss.
    pub fn loss_weight(&self) -> f64 {
        self.loss_weight
    }

    /// The features of its level, `[batch, inputs, height, width]`, to float32 logits `[batch, classes, height, width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.convs.iter().fold(x.permute([0, 2, 3, 1]), |x, conv| conv.forward(x));
        self.conv_seg.forward(self.dropout.forward(x)).cast(DType::F32).permute([0, 3, 1, 2])
    }
}
