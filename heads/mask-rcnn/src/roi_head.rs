//! The heads on RoIs and their losses (mmdetection's `StandardRoIHead`).

use burn::prelude::*;
use vision_ops::Roi;
use vmamba_detection::{BoxHead, BoxOutput, ImageTruth, MaskBatch, MaskHead, RoiBatch, RoiExtractor, RoiSample};

use crate::config::HeadsConfig;

/// The box head and the mask head with their RoI extractors.
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

/// The losses of the heads.
#[derive(Clone, Debug)]
pub struct RoiLoss {
    /// Cross entropy of the classes, `[1]`.
    pub cls: Tensor<1>,
    /// Loss of the boxes, `[1]`.
    pub bbox: Tensor<1>,
    /// Binary cross entropy of the masks, `[1]`.
    pub mask: Tensor<1>,
    /// Percentage of RoIs with the right class.
    pub accuracy: f64,
}

impl RoiHead {
    /// Heads on a pyramid of `channels` channels whose levels have these strides, in pixels.
    pub fn new(channels: usize, strides: &[usize], num_classes: usize, config: &HeadsConfig, device: &Device) -> Self {
        let extractor = |size| RoiExtractor { strides: strides.to_vec(), size };
        Self {
            bbox_head: config.box_head.init(channels, num_classes, device),
            mask_head: config.mask_head.init(channels, num_classes, device),
            boxes: extractor(config.box_head.roi_size),
            masks: extractor(config.mask_head.roi_size),
        }
    }

    /// Features of at least one RoI for the box head, `[rois, channels, size, size]`.
    pub fn box_features(&self, levels: &[Tensor<4>], rois: &[Roi]) -> Tensor<4> {
        self.boxes.forward(levels, rois)
    }

    /// Features of at least one RoI for the mask head, `[rois, channels, size, size]`.
    pub fn mask_features(&self, levels: &[Tensor<4>], rois: &[Roi]) -> Tensor<4> {
        self.masks.forward(levels, rois)
    }

    /// Classes and boxes of at least one RoI.
    pub fn boxes(&self, levels: &[Tensor<4>], rois: &[Roi]) -> BoxOutput {
        self.bbox_head.forward(self.box_features(levels, rois))
    }

    /// Mask logits of at least one RoI, for one class per RoI, `[rois, side, side]`.
    pub fn masks(&self, levels: &[Tensor<4>], rois: &[Roi], classes: &[usize]) -> Tensor<3> {
        self.mask_head.forward_of_class(self.mask_features(levels, rois), classes)
    }

    /// Losses of the sampled RoIs of a batch. `canvas` is the size `[height, width]` of the batch in pixels, since masks are padded like
    /// images.
    pub fn loss(&self, levels: &[Tensor<4>], samples: &[RoiSample], truth: &[ImageTruth], canvas: [usize; 2]) -> RoiLoss {
        let batch = RoiBatch::new(samples, truth);
        let boxes = self.bbox_head.loss(&self.boxes(levels, &batch.rois), &batch);
        let batch = MaskBatch::new(samples, truth, canvas, 2 * self.masks.size);
        let mask = self.mask_head.loss(self.mask_features(levels, &batch.rois), &batch);
        RoiLoss { cls: boxes.cls, bbox: boxes.bbox, mask, accuracy: boxes.accuracy }
    }
}
