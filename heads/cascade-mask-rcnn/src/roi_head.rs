//! The stages of heads on RoIs and their losses (mmdetection's `CascadeRoIHead`).

use burn::prelude::*;
use burn::tensor::activation::sigmoid;
use vision_ops::Roi;
use vmamba_detection::{
    BoxHead, BoxOutput, Choose, ImageTruth, MaskBatch, MaskHead, Proposals, RoiBatch, RoiExtractor, RoiSample, ScoredBox, TestConfig,
    rois_of,
};

use crate::config::{HeadsConfig, StageConfig};

/// The box heads and mask heads of all stages with their RoI extractors.
#[derive(Module, Debug)]
pub struct CascadeRoiHead {
    /// Classes and boxes, one head for each stage.
    pub bbox_head: Vec<BoxHead>,
    /// Masks, one head for each stage or one for all.
    pub mask_head: Vec<MaskHead>,
    #[module(skip)]
    stages: Vec<StageConfig>,
    #[module(skip)]
    boxes: Vec<RoiExtractor>,
    #[module(skip)]
    masks: RoiExtractor,
}

/// The losses of a stage, with its loss weight.
#[derive(Clone, Debug)]
pub struct StageLoss {
    /// Cross entropy of the classes, `[1]`.
    pub cls: Tensor<1>,
    /// Loss of the boxes, `[1]`.
    pub bbox: Tensor<1>,
    /// Binary cross entropy of the masks, `[1]`.
    pub mask: Tensor<1>,
    /// Percentage of RoIs with the right class.
    pub accuracy: f64,
}

impl CascadeRoiHead {
    /// Heads on a pyramid of `channels` channels whose levels have these strides, in pixels.
    pub fn new(channels: usize, strides: &[usize], num_classes: usize, config: &HeadsConfig, device: &Device) -> Self {
        let extractor = |size| RoiExtractor { strides: strides.to_vec(), size };
        Self {
            bbox_head: config.stages.iter().map(|stage| stage.box_head.init(channels, num_classes, device)).collect(),
            mask_head: (0..config.mask_head_count()).map(|_| config.mask_head.init(channels, num_classes, device)).collect(),
            stages: config.stages.clone(),
            boxes: config.stages.iter().map(|stage| extractor(stage.box_head.roi_size)).collect(),
            masks: extractor(config.mask_head.roi_size),
        }
    }

    /// Classes and boxes of at least one RoI from the box head of a stage.
    ///
    /// # Panics
    /// When the stage does not exist.
    pub fn boxes(&self, stage: usize, levels: &[Tensor<4>], rois: &[Roi]) -> BoxOutput {
        self.bbox_head[stage].forward(self.boxes[stage].forward(levels, rois))
    }

    /// Losses of every stage of a batch. A stage samples its RoIs with `choose` among the ground truth boxes and the boxes that the stage
    /// before has refined; the first stage takes `proposals`, `[x0, y0, x1, y1]` for each image. `canvas` is the size `[height, width]` of
    /// the batch in pixels, since masks are padded like images.
    pub fn loss(
        &self,
        levels: &[Tensor<4>],
        proposals: &[Proposals],
        truth: &[ImageTruth],
        canvas: [usize; 2],
        choose: &mut dyn Choose,
    ) -> Vec<StageLoss> {
        let mut candidates: Vec<Vec<[f32; 4]>> = proposals.iter().map(|own| own.boxes.clone()).collect();
        let mut losses = Vec::with_capacity(self.stages.len());
        for stage in 0..self.stages.len() {
            let samples = self.sample(stage, &candidates, truth, choose);
            let batch = RoiBatch::new(&samples, truth);
            let output = self.boxes(stage, levels, &batch.rois);
            losses.push(self.stage_loss(stage, levels, &output, &batch, &samples, truth, canvas));
            if stage + 1 < self.stages.len() {
                candidates = self.refine_samples(stage, &output, &samples, truth);
            }
        }
        losses
    }

    /// Samples the RoIs of a stage in every image, among its ground truth boxes and `candidates`, `[x0, y0, x1, y1]`.
    ///
    /// # Panics
    /// When the stage does not exist.
    pub fn sample(&self, stage: usize, candidates: &[Vec<[f32; 4]>], truth: &[ImageTruth], choose: &mut dyn Choose) -> Vec<RoiSample> {
        let roi = &self.stages[stage].roi;
        candidates.iter().zip(truth).map(|(own, truth)| roi.sample(own, truth, choose)).collect()
    }

    /// The candidates of the next stage in training: the sampled RoIs of every image, refined. `output` holds one row for each sampled RoI,
    /// image by image. Positives move by the deltas of their true class; ground truth boxes are left out, since every stage adds them itself
    /// (mmdetection's `refine_bboxes`).
    ///
    /// # Panics
    /// When the stage does not exist.
    pub fn refine_samples(&self, stage: usize, output: &BoxOutput, samples: &[RoiSample], truth: &[ImageTruth]) -> Vec<Vec<[f32; 4]>> {
        let outputs = output.split(samples.iter().map(|sample| sample.rois.len()));
        let refine = |((output, sample), truth): ((Option<BoxOutput>, &RoiSample), &ImageTruth)| {
            let Some(output) = output else { return Vec::new() };
            let category = |index: usize| Some(truth.instances.get(*sample.objects.get(index)?)?.category);
            let known: Vec<Option<usize>> = (0..sample.rois.len()).map(category).collect();
            let refined = self.bbox_head[stage].refine(&output, &sample.rois, &known, truth.size);
            refined.into_iter().enumerate().filter(|(index, _)| !sample.is_ground_truth(*index)).map(|(_, bbox)| bbox).collect()
        };
        outputs.zip(samples).zip(truth).map(refine).collect()
    }

    fn stage_loss(
        &self,
        stage: usize,
        levels: &[Tensor<4>],
        output: &BoxOutput,
        batch: &RoiBatch,
        samples: &[RoiSample],
        truth: &[ImageTruth],
        canvas: [usize; 2],
    ) -> StageLoss {
        let weight = self.stages[stage].loss_weight;
        let boxes = self.bbox_head[stage].loss(output, batch);
        let batch = MaskBatch::new(samples, truth, canvas, 2 * self.masks.size);
        // A shared head is the head of every stage.
        let mask_head = &self.mask_head[stage.min(self.mask_head.len() - 1)];
        let mask = mask_head.loss(self.masks.forward(levels, &batch.rois), &batch);
        StageLoss { cls: boxes.cls * weight, bbox: boxes.bbox * weight, mask: mask * weight, accuracy: boxes.accuracy }
    }

    /// The RoIs of the last stage in prediction, image by image, and the outputs for the RoIs of all images: the deltas of the last stage and
    /// the mean logits of all stages. Every stage but the last moves its RoIs by the deltas of their most probable class and clips them to
    /// `images`, the sizes `[height, width]` without padding. `None` when there is no proposal.
    pub fn cascade(&self, levels: &[Tensor<4>], proposals: &[Proposals], images: &[[usize; 2]]) -> Option<(Vec<Vec<[f32; 4]>>, BoxOutput)> {
        let mut boxes: Vec<Vec<[f32; 4]>> = proposals.iter().map(|own| own.boxes.clone()).collect();
        if boxes.iter().all(Vec::is_empty) {
            return None;
        }
        let mut outputs = Vec::with_capacity(self.stages.len());
        for stage in 0..self.stages.len() {
            let output = self.boxes(stage, levels, &rois_of(boxes.iter().map(|own| own.iter().copied())));
            if stage + 1 < self.stages.len() {
                boxes = self.refine(stage, &output, &boxes, images);
            }
            outputs.push(output);
        }
        Some((boxes, BoxOutput::average_scores(&outputs)?))
    }

    /// Refines the boxes of every image: each moves by the deltas of its most probable class and is clipped to its image of `images`,
    /// `[height, width]`. `output` holds one row for each box, image by image.
    ///
    /// # Panics
    /// When the stage does not exist.
    pub fn refine(&self, stage: usize, output: &BoxOutput, boxes: &[Vec<[f32; 4]>], images: &[[usize; 2]]) -> Vec<Vec<[f32; 4]>> {
        let refine = |(rows, own, image): (BoxOutput, &[[f32; 4]], [usize; 2])| {
            self.bbox_head[stage].refine(&rows, own, &vec![None; own.len()], image)
        };
        of_images(output, boxes, images, refine)
    }

    /// Mask probabilities of at least one RoI for one class per RoI, `[rois, side, side]`: the mean over the mask heads.
    pub fn mask_probabilities(&self, levels: &[Tensor<4>], rois: &[Roi], classes: &[usize]) -> Tensor<3> {
        let features = self.masks.forward(levels, rois);
        let side = 2 * self.masks.size;
        let zero = Tensor::zeros([rois.len(), side, side], &features.device());
        let sum = self.mask_head.iter().fold(zero, |sum, head| sum + sigmoid(head.forward_of_class(features.clone(), classes)));
        sum / self.mask_head.len().max(1) as f64
    }

    /// Detections of every image by descending score, in pixels of the network's input, from the results of [`CascadeRoiHead::cascade`].
    pub fn detect(&self, output: &BoxOutput, boxes: &[Vec<[f32; 4]>], images: &[[usize; 2]], config: &TestConfig) -> Vec<Vec<ScoredBox>> {
        let Some(last) = self.bbox_head.last() else { return vec![Vec::new(); images.len()] };
        of_images(output, boxes, images, |(rows, own, image)| last.detect(&rows, own, image, config))
    }
}

/// Calls `each` with the outputs, the boxes and the size of every image. Images without boxes get an empty list.
fn of_images<T: Clone>(
    output: &BoxOutput,
    boxes: &[Vec<[f32; 4]>],
    images: &[[usize; 2]],
    each: impl Fn((BoxOutput, &[[f32; 4]], [usize; 2])) -> Vec<T>,
) -> Vec<Vec<T>> {
    let outputs = output.split(boxes.iter().map(Vec::len));
    let of_image = |(output, (own, image)): (Option<BoxOutput>, (&Vec<_>, &[usize; 2]))| match output {
        Some(output) => each((output, own, *image)),
        None => Vec::new(),
    };
    outputs.zip(boxes.iter().zip(images)).map(of_image).collect()
}
