//! Region proposal network (Ren et al. 2015; mmdetection's `RPNHead`): an objectness score and box deltas for every anchor.

use burn::nn::Initializer;
use burn::prelude::*;
use burn::tensor::DType;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vision_ops::{Fused, Pointwise, batched_nms_on};
use vmamba::layers::Conv;
use vmamba::{FeaturePyramid, NotFinite, require_finite};

use crate::anchor_generator::AnchorGenerator;
use crate::assigner::{Assignment, MaxIouAssigner};
use crate::box_coder::BoxCoder;
use crate::detector::ImageTruth;
use crate::fpn::{Fpn, conv2d};
use crate::losses::{DeltaLoss, binary_cross_entropy, pick};
use crate::sampler::{Choose, RandomSampler};

/// The region proposal network. The defaults are those of the published COCO models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RpnConfig {
    /// Channels of its 3x3 convolution.
    pub channels: usize,
    /// Encodes boxes relative to anchors.
    pub coder: BoxCoder,
    /// Anchors that reach beyond the image by more than this, in pixels, are not trained. If absent, all anchors are trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_border: Option<f32>,
    /// Assigns anchors to objects.
    pub assigner: MaxIouAssigner,
    /// Samples the anchors that are trained.
    pub sampler: RandomSampler,
    /// The loss of the deltas.
    pub loss: DeltaLoss,
    /// Proposals in training.
    pub train: ProposalConfig,
    /// Proposals in prediction.
    pub test: ProposalConfig,
}

impl Default for RpnConfig {
    fn default() -> Self {
        let proposals = |nms_pre| ProposalConfig { nms_pre, max_per_image: 1000, nms_threshold: 0.7, min_size: 0.0 };
        Self {
            channels: 256,
            coder: BoxCoder::RPN,
            allowed_border: None,
            assigner: MaxIouAssigner::RPN,
            sampler: RandomSampler::RPN,
            loss: DeltaLoss::L1,
            train: proposals(2000),
            test: proposals(1000),
        }
    }
}

/// How proposals are selected from the outputs of the network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ProposalConfig {
    /// Number of boxes with the highest scores that each level contributes.
    pub nms_pre: usize,
    /// Largest number of proposals of an image.
    pub max_per_image: usize,
    /// NMS drops the box of the lower score when the IoU is above this.
    pub nms_threshold: f32,
    /// Both sides of a box must be longer than this, in pixels of the network's input.
    #[serde(default)]
    pub min_size: f32,
}

/// The proposals of an image by descending score.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proposals {
    /// `[x0, y0, x1, y1]` in pixels of the network's input, inside the image.
    pub boxes: Vec<[f32; 4]>,
    /// Probabilities of being an object.
    pub scores: Vec<f32>,
}

/// The outputs of the network for every level, the finest first, float32.
#[derive(Clone, Debug)]
pub struct RpnOutput {
    /// Logits of being an object, `[batch, anchors, height, width]`.
    pub objectness: Vec<Tensor<4>>,
    /// Box deltas, `[batch, anchors * 4, height, width]`.
    pub deltas: Vec<Tensor<4>>,
}

/// A sampled anchor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledAnchor {
    /// Its level.
    pub level: usize,
    /// Its index in the level, see [`AnchorGenerator::anchor`].
    pub index: usize,
    /// Deltas to the box of its object; `None` for background.
    pub target: Option<[f32; 4]>,
}

/// The sampled anchors of every image of a batch, positives first.
pub type RpnTargets = Vec<Vec<SampledAnchor>>;

/// The losses of every level.
#[derive(Clone, Debug)]
pub struct RpnLoss {
    /// Binary cross entropy of the objectness, `[1]` each.
    pub objectness: Vec<Tensor<1>>,
    /// Loss of the deltas, `[1]` each.
    pub boxes: Vec<Tensor<1>>,
}

/// The network: one 3x3 convolution, then a 1x1 convolution for the objectness and one for the deltas. All levels share the weights.
#[derive(Module, Debug)]
pub struct RpnHead {
    rpn_conv: Conv,
    rpn_cls: Conv,
    rpn_reg: Conv,
    #[module(skip)]
    anchors: AnchorGenerator,
    #[module(skip)]
    config: RpnConfig,
}

impl RpnConfig {
    /// A network on pyramid levels of `inputs` channels, with normal weights of standard deviation 0.01.
    pub fn init(&self, inputs: usize, anchors: AnchorGenerator, device: &Device) -> RpnHead {
        let normal = || Initializer::Normal { mean: 0.0, std: 0.01 };
        let per_cell = anchors.per_cell();
        RpnHead {
            rpn_conv: conv2d(inputs, self.channels, 3, normal(), device),
            rpn_cls: conv2d(self.channels, per_cell, 1, normal(), device),
            rpn_reg: conv2d(self.channels, per_cell * 4, 1, normal(), device),
            anchors,
            config: self.clone(),
        }
    }
}

impl RpnHead {
    /// The anchors.
    pub fn anchors(&self) -> &AnchorGenerator {
        &self.anchors
    }

    /// Objectness and deltas from pyramid levels `[batch, inputs, height, width]`, the finest first.
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

    /// Samples the anchors that a batch is trained on. `sizes` are `[height, width]` of the maps of every level, in cells. `size_divisor` is
    /// the divisor that images are padded to: anchors of cells beyond the padding of an image itself are not trained.
    pub fn targets(&self, sizes: &[[usize; 2]], truth: &[ImageTruth], size_divisor: usize, choose: &mut dyn Choose) -> RpnTargets {
        let anchors = &self.anchors;
        let grid: Vec<(usize, usize, [f32; 4])> = sizes
            .iter()
            .enumerate()
            .flat_map(|(level, size)| anchors.grid(level, *size).into_iter().enumerate().map(move |(index, bbox)| (level, index, bbox)))
            .collect();
        let of_image = |image: &ImageTruth| {
            let padded = image.size.map(|side| side.next_multiple_of(size_divisor.max(1)));
            let valid = sizes.iter().enumerate().flat_map(|(level, size)| anchors.valid(level, *size, padded));
            let trained = |bbox: &[f32; 4]| self.config.allowed_border.is_none_or(|border| is_inside(bbox, image.size, border));
            let inside: Vec<_> =
                grid.iter().zip(valid).filter(|((.., bbox), valid)| *valid && trained(bbox)).map(|(anchor, _)| *anchor).collect();
            let priors: Vec<[f32; 4]> = inside.iter().map(|(_, _, bbox)| *bbox).collect();
            let objects = image.boxes();
            let assigned = self.config.assigner.assign(&priors, &objects, &image.crowds);
            let sampled = self.config.sampler.sample(&assigned, choose);
            let anchor = |at: &usize| {
                let (level, index, bbox) = inside[*at];
                let target = match assigned[*at] {
                    Assignment::Object(object) => objects.get(object).map(|object| self.config.coder.encode(bbox, *object)),
                    _ => None,
                };
                SampledAnchor { level, index, target }
            };
            sampled.positives.iter().chain(&sampled.negatives).map(anchor).collect()
        };
        truth.iter().map(of_image).collect()
    }

    /// Losses of the sampled anchors. Both are divided by the number of sampled anchors of the whole batch, in which every image counts at
    /// least one positive and one negative anchor (mmdetection's `SamplingResult.avg_factor`).
    pub fn loss(&self, output: &RpnOutput, targets: &RpnTargets) -> RpnLoss {
        let count = |image: &Vec<SampledAnchor>| {
            let positives = image.iter().filter(|anchor| anchor.target.is_some()).count();
            positives.max(1) + (image.len() - positives).max(1)
        };
        let total = targets.iter().map(count).sum::<usize>().max(1) as f64;
        let anchors = |image: usize, level: usize, objects: bool| {
            targets[image].iter().filter(move |a| a.level == level && (!objects || a.target.is_some())).copied()
        };
        let mut losses = RpnLoss { objectness: Vec::new(), boxes: Vec::new() };
        for (level, (logits, deltas)) in output.objectness.iter().zip(&output.deltas).enumerate() {
            let [_, per_cell, height, width] = logits.dims();
            let cells = height * width;
            // Position of component `part` of the `parts` components of an anchor in a map.
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
            losses.boxes.push(self.config.loss.sum(pick(deltas, &delta_at), &delta_targets) / total);
        }
        losses
    }

    /// Proposals of every image in training; `images` are their sizes `[height, width]` without padding.
    pub fn train_proposals(&self, output: &RpnOutput, images: &[[usize; 2]]) -> Vec<Proposals> {
        self.proposals(output, images, &self.config.train)
    }

    /// Proposals of every image in prediction; `images` are their sizes `[height, width]` without padding.
    pub fn test_proposals(&self, output: &RpnOutput, images: &[[usize; 2]]) -> Vec<Proposals> {
        self.proposals(output, images, &self.config.test)
    }

    fn proposals(&self, output: &RpnOutput, images: &[[usize; 2]], config: &ProposalConfig) -> Vec<Proposals> {
        let host = |maps: &[Tensor<4>]| -> Vec<Vec<f32>> { maps.iter().map(|map| map.to_data().iter::<f32>().collect()).collect() };
        let (objectness, deltas, sizes) = (host(&output.objectness), host(&output.deltas), output.sizes());
        let per_cell = self.anchors.per_cell();
        let device = output.objectness.first().map_or_else(Device::flex, Tensor::device);
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
                        let bbox = self.config.coder.decode(self.anchors.anchor(level, width, index), delta, Some(size));
                        // A NaN fails the comparison, which drops the box.
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
}

/// [`Detector::observe`](crate::Detector::observe) of a detector with these modules under mmdetection's names.
pub fn observe_proposals(
    backbone: &impl FeaturePyramid,
    neck: &Fpn,
    rpn_head: &RpnHead,
    images: Tensor<4>,
    observe: &mut dyn FnMut(&str, usize, &Tensor<4>),
) {
    let mut all = |module: &str, outputs: &[Tensor<4>]| {
        outputs.iter().enumerate().for_each(|(index, output)| observe(module, index, output));
    };
    let features = backbone.forward_features(images);
    all("backbone", &features);
    let levels = neck.forward(features);
    all("neck", &levels);
    let rpn = rpn_head.forward(&levels);
    all("rpn_head.rpn_cls", &rpn.objectness);
    all("rpn_head.rpn_reg", &rpn.deltas);
}

impl RpnOutput {
    /// Checks that scores and deltas are finite.
    ///
    /// # Errors
    /// Names the output that is not.
    pub fn require_finite(&self) -> Result<(), NotFinite> {
        self.objectness.iter().try_for_each(|level| require_finite("the scores of the region proposal network", level))?;
        self.deltas.iter().try_for_each(|level| require_finite("the boxes of the region proposal network", level))
    }

    /// `[height, width]` of the maps of every level, in cells.
    pub fn sizes(&self) -> Vec<[usize; 2]> {
        self.objectness.iter().map(|map| [map.dims()[2], map.dims()[3]]).collect()
    }
}

impl RpnLoss {
    /// The parts `loss_rpn_cls` and `loss_rpn_bbox`, each summed over the levels.
    ///
    /// # Panics
    /// When there is no level.
    pub fn parts(self) -> [(String, Tensor<1>); 2] {
        let sum = |terms: Vec<Tensor<1>>| match terms.into_iter().reduce(|a, b| a + b) {
            Some(sum) => sum,
            None => panic!("RpnLoss: a pyramid has at least one level"),
        };
        [("loss_rpn_cls".to_owned(), sum(self.objectness)), ("loss_rpn_bbox".to_owned(), sum(self.boxes))]
    }
}

/// Whether a box lies within `border` pixels of an image of `[height, width]` pixels (mmdetection's `anchor_inside_flags`).
fn is_inside([x0, y0, x1, y1]: &[f32; 4], [height, width]: [usize; 2], border: f32) -> bool {
    *x0 >= -border && *y0 >= -border && *x1 < width as f32 + border && *y1 < height as f32 + border
}

/// Anchor index and probability of the `count` most probable anchors of a map `[anchors, cells]`, by descending probability. Ties rank the
/// lower index first.
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
