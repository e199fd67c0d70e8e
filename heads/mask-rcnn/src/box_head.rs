//! Class and box of a RoI (mmdetection's `Shared2FCBBoxHead`).

use burn::module::Param;
use burn::nn::Initializer;
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::activation::softmax;
use serde::{Deserialize, Serialize};
use vision_ops::{Fused, Pointwise, batched_nms};
use vmamba::layers::Dense;

use crate::box_coder::BoxCoder;
use crate::config::TestConfig;

/// The box head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BoxHeadConfig {
    /// Channels of the hidden layers.
    pub channels: usize,
    /// Side of the features of a RoI.
    pub roi_size: usize,
}

impl Default for BoxHeadConfig {
    fn default() -> Self {
        Self { channels: 1024, roi_size: 7 }
    }
}

/// Two shared layers, then one for the classes and one for the boxes.
#[derive(Module, Debug)]
pub struct BoxHead {
    shared_fcs: Vec<Dense>,
    fc_cls: Dense,
    fc_reg: Dense,
    num_classes: usize,
}

/// What the head says about RoIs, in float32.
#[derive(Clone, Debug)]
pub struct BoxOutput {
    /// Logits of the classes, background last, `[rois, classes + 1]`.
    pub logits: Tensor<2>,
    /// Offsets of the box for every class, `[rois, classes * 4]`.
    pub deltas: Tensor<2>,
}

/// A box with its class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredBox {
    /// `[x0, y0, x1, y1]` in pixels of the network's input.
    pub bbox: [f32; 4],
    /// Probability.
    pub score: f32,
    /// Class index.
    pub category: usize,
}

fn dense(inputs: usize, outputs: usize, initializer: Initializer, device: &Device) -> Dense {
    let weight: Param<Tensor<2>> = initializer.init_with([outputs, inputs], Some(inputs), Some(outputs), device);
    Dense { weight, bias: Some(Initializer::Zeros.init([outputs], device)) }
}

impl BoxHeadConfig {
    /// A head on RoI features of `inputs` channels.
    pub fn init(&self, inputs: usize, num_classes: usize, device: &Device) -> BoxHead {
        let xavier = || Initializer::XavierUniform { gain: 1.0 };
        let normal = |std: f64| Initializer::Normal { mean: 0.0, std };
        let channels = self.channels;
        BoxHead {
            shared_fcs: vec![
                dense(inputs * self.roi_size * self.roi_size, channels, xavier(), device),
                dense(channels, channels, xavier(), device),
            ],
            fc_cls: dense(channels, num_classes + 1, normal(0.01), device),
            fc_reg: dense(channels, num_classes * 4, normal(0.001), device),
            num_classes,
        }
    }
}

impl BoxHead {
    /// Number of classes, the background not counted; its index is that number.
    pub fn num_classes(&self) -> usize {
        self.num_classes
    }

    /// Features `[rois, channels, size, size]` to classes and boxes.
    pub fn forward(&self, features: Tensor<4>) -> BoxOutput {
        let x: Tensor<2> = features.flatten(1, 3);
        let x = self.shared_fcs.iter().fold(x, |x, layer| layer.forward_fused(x, Fused::default().activation(Pointwise::Relu)));
        BoxOutput { logits: self.fc_cls.forward(x.clone()).cast(DType::F32), deltas: self.fc_reg.forward(x).cast(DType::F32) }
    }
}

impl BoxOutput {
    /// Rows `range` of the RoIs, those of one image.
    #[must_use]
    pub fn rows(&self, range: std::ops::Range<usize>) -> Self {
        let own = |values: &Tensor<2>| values.clone().narrow(0, range.start, range.len());
        Self { logits: own(&self.logits), deltas: own(&self.deltas) }
    }

    /// The boxes of an image of `[height, width]` pixels whose probability is above the threshold, after suppression of overlapping ones of
    /// the same class, by falling probability.
    pub fn detect(&self, rois: &[[f32; 4]], image: [usize; 2], config: &TestConfig) -> Vec<ScoredBox> {
        let classes = self.logits.dims()[1].saturating_sub(1);
        let host = |values: Tensor<2>| values.into_data().iter::<f32>().collect::<Vec<_>>();
        let (probabilities, deltas) = (host(softmax(self.logits.clone(), 1)), host(self.deltas.clone()));
        let mut found = Vec::new();
        let rows = probabilities.chunks_exact(classes + 1).zip(deltas.chunks_exact((classes * 4).max(1)));
        for (roi, (probabilities, deltas)) in rois.iter().zip(rows) {
            for (category, (score, delta)) in probabilities.iter().zip(deltas.as_chunks::<4>().0).enumerate() {
                if *score > config.score_threshold {
                    found.push(ScoredBox { bbox: BoxCoder::BOX_HEAD.decode(*roi, *delta, Some(image)), score: *score, category });
                }
            }
        }
        multiclass_nms(&found, config).into_iter().map(|index| found[index]).collect()
    }
}

/// Indices of the candidates that are detections, by falling score: those that no better one of the same class suppresses, up to the limit
/// (mmdetection's `multiclass_nms` behind its score threshold).
pub fn multiclass_nms(candidates: &[ScoredBox], config: &TestConfig) -> Vec<usize> {
    let boxes: Vec<[f32; 4]> = candidates.iter().map(|found| found.bbox).collect();
    let scores: Vec<f32> = candidates.iter().map(|found| found.score).collect();
    let groups: Vec<usize> = candidates.iter().map(|found| found.category).collect();
    let mut kept = batched_nms(&boxes, &scores, &groups, config.nms_threshold);
    kept.truncate(config.max_per_image);
    kept
}
