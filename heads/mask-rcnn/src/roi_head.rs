//! The heads on RoIs: which proposals they are trained on, and their losses (mmdetection's `StandardRoIHead`).

use burn::prelude::*;
use vision_ops::Roi;
use vmamba_types::MaskPatch;

use crate::assigner::Assignment;
use crate::box_coder::BoxCoder;
use crate::box_head::{BoxHead, BoxOutput};
use crate::config::{HeadsConfig, RoiConfig};
use crate::loss::{cross_entropy, l1, mask_cross_entropy, pick};
use crate::mask_head::MaskHead;
use crate::mask_target::mask_target;
use crate::model::ImageTruth;
use crate::roi_extractor::RoiExtractor;
use crate::rpn::Proposals;
use crate::sampler::{Choose, Sampled};

/// The box head and the mask head, and how features reach them.
#[derive(Module, Debug)]
pub struct RoiHead {
    /// Classes and boxes.
    pub bbox_head: BoxHead,
    /// Masks.
    pub mask_head: MaskHead,
    #[module(skip)]
    boxes: RoiExtractor,
    #[module(skip)]
    masks: RoiExtractor,
}

/// The RoIs an image is trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct RoiSample {
    /// `[x0, y0, x1, y1]`, objects first.
    pub rois: Vec<[f32; 4]>,
    /// For the objects among them, which one.
    pub objects: Vec<usize>,
    /// Where they come from: places in the list of true boxes followed by the proposals.
    pub sampled: Sampled,
}

/// Losses of the heads.
#[derive(Clone, Debug)]
pub struct RoiLoss {
    /// Classes.
    pub cls: Tensor<1>,
    /// Boxes.
    pub bbox: Tensor<1>,
    /// Masks.
    pub mask: Tensor<1>,
    /// Percentage of RoIs whose class is right.
    pub accuracy: f64,
}

/// Samples the RoIs of an image among its true boxes and its proposals.
pub fn sample_rois(proposals: &Proposals, truth: &ImageTruth, config: &RoiConfig, choose: &mut dyn Choose) -> RoiSample {
    let objects: Vec<[f32; 4]> = truth.instances.iter().map(|instance| instance.bbox).collect();
    // The true boxes join after the assignment; each stands for itself.
    let mut assigned: Vec<Assignment> = (0..objects.len()).map(Assignment::Object).collect();
    assigned.extend(config.assigner.assign(&proposals.boxes, &objects, &truth.crowds));
    let candidates: Vec<[f32; 4]> = objects.iter().chain(&proposals.boxes).copied().collect();
    let sampled = config.sampler.sample(&assigned, choose);
    RoiSample {
        rois: sampled.positives.iter().chain(&sampled.negatives).map(|at| candidates[*at]).collect(),
        objects: sampled
            .positives
            .iter()
            .filter_map(|at| match assigned[*at] {
                Assignment::Object(object) => Some(object),
                _ => None,
            })
            .collect(),
        sampled,
    }
}

impl RoiHead {
    /// Heads on a pyramid of `channels` channels whose levels have these strides.
    pub fn new(channels: usize, strides: &[usize], num_classes: usize, config: &HeadsConfig, device: &Device) -> Self {
        let extractor = |size| RoiExtractor { strides: strides.to_vec(), size };
        Self {
            bbox_head: config.box_head.init(channels, num_classes, device),
            mask_head: config.mask_head.init(channels, num_classes, device),
            boxes: extractor(config.box_head.roi_size),
            masks: extractor(config.mask_head.roi_size),
        }
    }

    /// Features of at least one RoI for the box head.
    pub fn box_features(&self, levels: &[Tensor<4>], rois: &[Roi]) -> Tensor<4> {
        self.boxes.extract(levels, rois)
    }

    /// Features of at least one RoI for the mask head.
    pub fn mask_features(&self, levels: &[Tensor<4>], rois: &[Roi]) -> Tensor<4> {
        self.masks.extract(levels, rois)
    }

    /// Classes and boxes of at least one RoI.
    pub fn boxes(&self, levels: &[Tensor<4>], rois: &[Roi]) -> BoxOutput {
        self.bbox_head.forward(self.box_features(levels, rois))
    }

    /// Logits of the masks of at least one RoI, each of the class beside it: `[rois, side, side]`.
    pub fn masks(&self, levels: &[Tensor<4>], rois: &[Roi], classes: &[usize]) -> Tensor<3> {
        self.mask_head.forward_of_class(self.mask_features(levels, rois), classes)
    }

    /// Losses of the sampled RoIs of a batch. `canvas` is the size `[height, width]` of the batch: masks are padded to it as images are.
    pub fn loss(&self, levels: &[Tensor<4>], samples: &[RoiSample], truth: &[ImageTruth], canvas: [usize; 2]) -> RoiLoss {
        let background = self.bbox_head.num_classes();
        let (mut rois, mut labels) = (Vec::new(), Vec::new());
        let (mut delta_at, mut delta_targets) = (Vec::new(), Vec::new());
        let (mut mask_rois, mut mask_classes, mut mask_targets) = (Vec::new(), Vec::new(), Vec::new());
        for (image, (sample, truth)) in samples.iter().zip(truth).enumerate() {
            let mut patches: Vec<Option<MaskPatch>> = vec![None; truth.instances.len()];
            for (index, &bbox) in sample.rois.iter().enumerate() {
                let object = sample.objects.get(index).and_then(|object| Some((*object, truth.instances.get(*object)?)));
                if let Some((object, instance)) = object {
                    let row = rois.len() * background * 4 + instance.category * 4;
                    delta_at.extend(row..row + 4);
                    delta_targets.extend(BoxCoder::BOX_HEAD.encode(bbox, instance.bbox));
                    if let Some(mask) = &instance.mask {
                        let patch = patches[object].get_or_insert_with(|| {
                            let mut patch = mask.patch();
                            patch.canvas = canvas;
                            patch
                        });
                        mask_rois.push(Roi { image, bbox });
                        mask_classes.push(instance.category);
                        mask_targets.extend(mask_target(patch, bbox, 2 * self.masks.size));
                    }
                    labels.push(instance.category);
                } else {
                    labels.push(background);
                }
                rois.push(Roi { image, bbox });
            }
        }
        // Nothing sampled, nothing to say; one RoI of weight 0 keeps every parameter in the graph.
        let weight = if rois.is_empty() { 0.0 } else { 1.0 };
        if rois.is_empty() {
            rois.push(EMPTY);
            labels.push(background);
        }
        let output = self.boxes(levels, &rois);
        let (cls, accuracy) = cross_entropy(output.logits, &labels);
        let bbox = l1(pick(&output.deltas, &delta_at), &delta_targets) / rois.len() as f64;
        let mask = if mask_rois.is_empty() {
            self.masks(levels, &[EMPTY], &[0]).sum() * 0.0
        } else {
            mask_cross_entropy(self.masks(levels, &mask_rois, &mask_classes), mask_targets)
        };
        RoiLoss { cls: cls * weight, bbox, mask, accuracy: accuracy * weight }
    }
}

/// A RoI that stands for none.
const EMPTY: Roi = Roi { image: 0, bbox: [0.0, 0.0, 1.0, 1.0] };
