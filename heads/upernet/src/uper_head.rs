//! The decode head: pyramid pooling on the coarsest level, a top-down feature pyramid, fusion at the finest level (mmsegmentation's
//! `UPerHead`).

use burn::prelude::*;
use burn::tensor::DType;
use vmamba::layers::Conv;

use crate::config::UperHeadConfig;
use crate::conv_module::{ConvModule, Dropout2d, classifier};
use crate::pyramid_pooling::{PyramidPooling, resized};

/// Class logits at the finest level from the features of all levels.
#[derive(Module, Debug)]
pub struct UperHead {
    pub(crate) psp_modules: PyramidPooling,
    pub(crate) bottleneck: ConvModule,
    pub(crate) lateral_convs: Vec<ConvModule>,
    pub(crate) fpn_convs: Vec<ConvModule>,
    pub(crate) fpn_bottleneck: ConvModule,
    pub(crate) dropout: Dropout2d,
    pub(crate) conv_seg: Conv,
}

impl UperHead {
    /// A head for a pyramid with levels of `inputs` channels, the finest first.
    ///
    /// # Panics
    /// When `inputs` is empty.
    pub fn new(inputs: &[usize], num_classes: usize, config: &UperHeadConfig, device: &Device) -> Self {
        let Some((coarsest, finer)) = inputs.split_last() else { panic!("UperHead: a head needs at least one level") };
        let channels = config.channels;
        Self {
            psp_modules: PyramidPooling::new(*coarsest, channels, &config.pool_scales, device),
            bottleneck: ConvModule::new(coarsest + config.pool_scales.len() * channels, channels, 3, device),
            lateral_convs: finer.iter().map(|inputs| ConvModule::new(*inputs, channels, 1, device)).collect(),
            fpn_convs: finer.iter().map(|_| ConvModule::new(channels, channels, 3, device)).collect(),
            fpn_bottleneck: ConvModule::new(inputs.len() * channels, channels, 3, device),
            dropout: Dropout2d::new(config.dropout),
            conv_seg: classifier(channels, num_classes, device),
        }
    }

    /// Number of classes. It does not initialise the layer: Burn draws random weights at their first use, and the order of the draws decides
    /// which weights a seed gives.
    pub fn num_classes(&self) -> usize {
        self.conv_seg.weight.lazy_shape()[0]
    }

    /// The fewest values of a channel that a batch norm in training takes from one image, whose levels have `positions` pixels each, the finest
    /// first; `None` when none is trained.
    pub(crate) fn fewest_norm_values(&self, positions: &[usize]) -> Option<usize> {
        let (Some(finest), Some(coarsest)) = (positions.first(), positions.last()) else { return self.psp_modules.fewest_norm_values() };
        let laterals = self.lateral_convs.iter().zip(&self.fpn_convs).zip(positions);
        let laterals = laterals.filter(|((lateral, fpn), _)| lateral.bn.trains() || fpn.bn.trains()).map(|(_, positions)| *positions);
        let fused = [(&self.bottleneck, coarsest), (&self.fpn_bottleneck, finest)].into_iter().filter(|(conv, _)| conv.bn.trains());
        self.psp_modules.fewest_norm_values().into_iter().chain(laterals).chain(fused.map(|(_, positions)| *positions)).min()
    }

    /// Features `[batch, inputs[i], height, width]`, the finest first, float32 or bf16, to float32 logits `[batch, classes, height, width]`
    /// at the size of the finest level.
    pub fn forward(&self, features: Vec<Tensor<4>>) -> Tensor<4> {
        self.forward_observed(features, |_, _| ())
    }

    /// As [`UperHead::forward`]; calls `observe` with the official name and the output `[batch, channels, height, width]` of every layer
    /// before the classifier.
    pub fn forward_observed(&self, features: Vec<Tensor<4>>, mut observe: impl FnMut(String, &Tensor<4>)) -> Tensor<4> {
        let mut observe = |name: String, x: &Tensor<4>| observe(name, &x.clone().permute([0, 3, 1, 2]));
        let mut features: Vec<Tensor<4>> = features.into_iter().map(|x| x.permute([0, 2, 3, 1])).collect();
        let coarsest = features.split_off(features.len().saturating_sub(1));
        let mut above = Vec::new();
        for x in coarsest {
            let pooled = self.psp_modules.pooled(&x);
            pooled.iter().enumerate().for_each(|(i, branch)| observe(format!("psp_modules.{i}"), branch));
            let x = self.bottleneck.forward(PyramidPooling::concatenate(x, pooled));
            observe("bottleneck".into(), &x);
            above.push(x);
        }
        let mut laterals = Vec::with_capacity(features.len());
        for (i, (x, conv)) in features.into_iter().zip(&self.lateral_convs).enumerate() {
            let x = conv.forward(x);
            observe(format!("lateral_convs.{i}"), &x);
            laterals.push(x);
        }

        // Top-down: every level adds the next coarser one; `above` collects the sums from coarse to fine.
        for lateral in laterals.into_iter().rev() {
            let [_, height, width, _] = lateral.dims();
            let sum = match above.last() {
                Some(coarser) => lateral + resized(coarser.clone(), [height, width]),
                None => lateral,
            };
            above.push(sum);
        }
        let mut levels: Vec<_> = above.into_iter().rev().collect();
        for (i, (level, conv)) in levels.iter_mut().zip(&self.fpn_convs).enumerate() {
            *level = conv.forward(level.clone());
            observe(format!("fpn_convs.{i}"), level);
        }

        let size = levels.first().map_or([1, 1], |finest| [finest.dims()[1], finest.dims()[2]]);
        let levels = levels.into_iter().map(|level| resized(level, size)).collect();
        let fused = self.fpn_bottleneck.forward(Tensor::cat(levels, 3));
        observe("fpn_bottleneck".into(), &fused);
        self.conv_seg.forward(self.dropout.forward(fused)).cast(DType::F32).permute([0, 3, 1, 2])
    }
}
