//! Region proposal network (Ren et al. 2015; mmdetection's `RPNHead`): for every anchor, whether it is an object and where its box is.

use burn::nn::Initializer;
use burn::prelude::*;
use burn::tensor::DType;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vision_ops::{Fused, Pointwise, batched_nms_on};
use vmamba::layers::Conv;

use crate::anchor_generator::AnchorGenerator;
use crate::assigner::{Assignment, MaxIouAssigner};
use crate::box_coder::BoxCoder;
use crate::config::RpnConfig;
use crate::fpn::conv2d;
use crate::loss::{binary_cross_entropy, l1, pick};
use crate::model::ImageTruth;
use crate::sampler::Choose;

/// How proposals are taken from the maps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposalConfig {
    /// Boxes of the highest scores that a level contributes.
    pub nms_pre: usize,
    /// Boxes of an image in the end.
    pub max_per_image: usize,
    /// IoU above which the box of the lower score is suppressed.
    pub nms_threshold: f32,
    /// Boxes need sides longer than this, in pixels of the network's input.
    #[serde(default)]
    pub min_size: f32,
}

/// Proposed boxes of an image by falling score.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proposals {
    /// `[x0, y0, x1, y1]` in pixels of the network's input, inside the image.
    pub boxes: Vec<[f32; 4]>,
    /// Probabilities.
    pub scores: Vec<f32>,
}

/// What the network says about the anchors of every level, the finest first, in float32.
#[derive(Clone, Debug)]
pub struct RpnOutput {
    /// Logits that an anchor is an object, `[batch, anchors, height, width]`.
    pub objectness: Vec<Tensor<4>>,
    /// Offsets of its box, `[batch, anchors * 4, height, width]`.
    pub deltas: Vec<Tensor<4>>,
}

/// One sampled anchor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledAnchor {
    /// Its level.
    pub level: usize,
    /// Its index there, see [`AnchorGenerator::anchor`].
    pub index: usize,
    /// Offsets to the box of its object; none for background.
    pub target: Option<[f32; 4]>,
}

/// The sampled anchors of every image of a batch, objects first.
pub type RpnTargets = Vec<Vec<SampledAnchor>>;

/// Losses of every level.
#[derive(Clone, Debug)]
pub struct RpnLoss {
    /// Binary cross entropy, `[1]` each.
    pub objectness: Vec<Tensor<1>>,
    /// L1 distance of the offsets, `[1]` each.
    pub boxes: Vec<Tensor<1>>,
}

/// The network: one 3x3 convolution, then one 1x1 for the scores and one for the offsets, the same for all levels.
#[derive(Module, Debug)]
pub struct RpnHead {
    rpn_conv: Conv,
    rpn_cls: Conv,
    rpn_reg: Conv,
}

impl RpnHead {
    /// For levels of `inputs` channels and `anchors` anchors a cell; normal weights of deviation 0.01.
    pub fn new(inputs: usize, channels: usize, anchors: usize, device: &Device) -> Self {
        let normal = || Initializer::Normal { mean: 0.0, std: 0.01 };
        Self {
            rpn_conv: conv2d(inputs, channels, 3, normal(), device),
            rpn_cls: conv2d(channels, anchors, 1, normal(), device),
            rpn_reg: conv2d(channels, anchors * 4, 1, normal(), device),
        }
    }

    /// The maps of every level `[batch, channels, height, width]`.
    pub fn forward(&self, levels: &[Tensor<4>]) -> RpnOutput {
        let (objectness, deltas) = levels
            .iter()
            .map(|level| {
                let x = level.clone().permute([0, 2, 3, 1]);
                let x = self.rpn_conv.forward_fused(x, Fused::default().activation(Pointwise::Relu));
                let first = |map: Tensor<4>| map.cast(DType::F32).permute([0, 3, 1, 2]);
                (first(self.rpn_cls.forward(x.clone())), first(self.rpn_reg.forward(x)))
            })
            .unzip();
        RpnOutput { objectness, deltas }
    }
}

impl RpnOutput {
    /// `[height, width]` of the maps of every level.
    pub fn sizes(&self) -> Vec<[usize; 2]> {
        self.objectness.iter().map(|map| [map.dims()[2], map.dims()[3]]).collect()
    }

    /// Proposals of every image; `images` are their sizes `[height, width]` without padding.
    pub fn proposals(&self, anchors: &AnchorGenerator, images: &[[usize; 2]], config: &ProposalConfig) -> Vec<Proposals> {
        let host = |maps: &[Tensor<4>]| -> Vec<Vec<f32>> { maps.iter().map(|map| map.to_data().iter::<f32>().collect()).collect() };
        let (objectness, deltas, sizes) = (host(&self.objectness), host(&self.deltas), self.sizes());
        let per_cell = anchors.per_cell();
        let device = self.objectness.first().map_or_else(Device::flex, Tensor::device);
        images
            .par_iter()
            .enumerate()
            .map(|(image, &size)| {
                let (mut boxes, mut scores, mut levels) = (Vec::new(), Vec::new(), Vec::new());
                for (level, &[height, width]) in sizes.iter().enumerate() {
                    let cells = height * width;
                    let own = |maps: &[Vec<f32>], channels: usize| -> std::ops::Range<usize> {
                        let length = channels * cells;
                        (image * length).min(maps[level].len())..((image + 1) * length).min(maps[level].len())
                    };
                    let logits = &objectness[level][own(&objectness, per_cell)];
                    let offsets = &deltas[level][own(&deltas, 4 * per_cell)];
                    for (index, score) in best(logits, per_cell, config.nms_pre) {
                        let (cell, anchor) = (index / per_cell, index % per_cell);
                        let delta = std::array::from_fn(|i| offsets[(anchor * 4 + i) * cells + cell]);
                        let bbox = BoxCoder::RPN.decode(anchors.anchor(level, width, index), delta, Some(size));
                        // A NaN fails the comparison and is dropped here.
                        if bbox[2] - bbox[0] > config.min_size && bbox[3] - bbox[1] > config.min_size {
                            boxes.push(bbox);
                            scores.push(score);
                            levels.push(level);
                        }
                    }
                }
                let mut kept = batched_nms_on(&device, &boxes, &scores, &levels, config.nms_threshold);
                kept.truncate(config.max_per_image);
                Proposals { boxes: kept.iter().map(|k| boxes[*k]).collect(), scores: kept.iter().map(|k| scores[*k]).collect() }
            })
            .collect()
    }

    /// Losses of the sampled anchors, both divided by the number of all of them.
    pub fn loss(&self, targets: &RpnTargets) -> RpnLoss {
        let total = targets.iter().map(Vec::len).sum::<usize>().max(1) as f64;
        let anchors = |image: usize, level: usize, objects: bool| {
            targets[image].iter().filter(move |a| a.level == level && (!objects || a.target.is_some())).copied()
        };
        let mut losses = RpnLoss { objectness: Vec::new(), boxes: Vec::new() };
        for (level, (logits, deltas)) in self.objectness.iter().zip(&self.deltas).enumerate() {
            let [_, per_cell, height, width] = logits.dims();
            let cells = height * width;
            // The place of component `part` of `parts` of an anchor in a map.
            let place = |image: usize, index: usize, part: usize, parts: usize| {
                ((image * per_cell + index % per_cell) * parts + part) * cells + index / per_cell
            };
            let (mut at, mut labels) = (Vec::new(), Vec::new());
            let (mut delta_at, mut delta_targets) = (Vec::new(), Vec::new());
            for image in 0..targets.len() {
                for anchor in anchors(image, level, false) {
                    at.push(place(image, anchor.index, 0, 1));
                    labels.push(f32::from(u8::from(anchor.target.is_some())));
                }
                for anchor in anchors(image, level, true) {
                    for (part, value) in anchor.target.unwrap_or_default().into_iter().enumerate() {
                        delta_at.push(place(image, anchor.index, part, 4));
                        delta_targets.push(value);
                    }
                }
            }
            losses.objectness.push(binary_cross_entropy(pick(logits, &at), &labels) / total);
            losses.boxes.push(l1(pick(deltas, &delta_at), &delta_targets) / total);
        }
        losses
    }
}

/// Anchor and probability of the `count` most probable anchors of a map `[anchors, cells]`, by falling probability.
fn best(logits: &[f32], per_cell: usize, count: usize) -> Vec<(usize, f32)> {
    let cells = logits.len() / per_cell.max(1);
    let probability = |logit: f32| 1.0 / (1.0 + (-logit).exp());
    let mut all: Vec<(usize, f32)> =
        (0..cells * per_cell).map(|index| (index, probability(logits[index % per_cell * cells + index / per_cell]))).collect();
    let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if all.len() > count {
        all.select_nth_unstable_by(count.saturating_sub(1), order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

/// Samples the anchors that a batch is trained on. `padded` is `[height, width]` of every image after padding, `sizes` those of the maps.
pub fn rpn_targets(
    anchors: &AnchorGenerator,
    sizes: &[[usize; 2]],
    truth: &[ImageTruth],
    config: &RpnConfig,
    choose: &mut dyn Choose,
) -> RpnTargets {
    let grid: Vec<(usize, usize, [f32; 4])> = sizes
        .iter()
        .enumerate()
        .flat_map(|(level, size)| anchors.grid(level, *size).into_iter().enumerate().map(move |(index, bbox)| (level, index, bbox)))
        .collect();
    let mut of_image = |image: &ImageTruth| {
        let padded = image.padded();
        let valid = sizes.iter().enumerate().flat_map(|(level, size)| anchors.valid(level, *size, padded));
        let inside: Vec<(usize, usize, [f32; 4])> = grid.iter().zip(valid).filter(|(_, valid)| *valid).map(|(anchor, _)| *anchor).collect();
        let priors: Vec<[f32; 4]> = inside.iter().map(|(_, _, bbox)| *bbox).collect();
        let objects: Vec<[f32; 4]> = image.instances.iter().map(|instance| instance.bbox).collect();
        let assigned = config.assigner.assign(&priors, &objects, &image.crowds);
        let sampled = config.sampler.sample(&assigned, choose);
        let anchor = |at: usize| {
            let (level, index, bbox) = inside[at];
            let target = match assigned[at] {
                Assignment::Object(object) => objects.get(object).map(|object| BoxCoder::RPN.encode(bbox, *object)),
                _ => None,
            };
            SampledAnchor { level, index, target }
        };
        sampled.positives.iter().chain(&sampled.negatives).map(|at| anchor(*at)).collect::<Vec<_>>()
    };
    truth.iter().map(&mut of_image).collect()
}

/// The assigner of the proposals, for the default of a configuration.
pub(crate) fn default_assigner() -> MaxIouAssigner {
    MaxIouAssigner::RPN
}
