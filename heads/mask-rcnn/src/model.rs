//! Mask R-CNN: backbone, pyramid, proposals, heads (mmdetection's `MaskRCNN`).

use burn::prelude::*;
use burn::tensor::activation::sigmoid;
use rayon::prelude::*;
use vision_ops::{Roi, paste_mask};
use vmamba::FeaturePyramid;
use vmamba_types::{Detection, Instance, Rle};

use crate::anchor_generator::AnchorGenerator;
use crate::box_head::ScoredBox;
use crate::config::HeadsConfig;
use crate::fpn::Fpn;
use crate::loss::{DetectionLoss, sum};
use crate::roi_head::{RoiHead, RoiSample, sample_rois};
use crate::rpn::{Proposals, RpnHead, RpnOutput, RpnTargets, rpn_targets};
use crate::sampler::Choose;

/// Images are padded to multiples of this many pixels.
pub const SIZE_DIVISOR: usize = 32;

/// A detection and instance segmentation model on any backbone.
#[derive(Module, Debug)]
pub struct MaskRcnn<P> {
    /// The backbone.
    pub backbone: P,
    /// The feature pyramid.
    pub neck: Fpn,
    /// The region proposals.
    pub rpn_head: RpnHead,
    /// The heads on RoIs.
    pub roi_head: RoiHead,
    #[module(skip)]
    anchors: AnchorGenerator,
    #[module(skip)]
    config: HeadsConfig,
}

/// The objects of a training image.
#[derive(Clone, Debug, Default)]
pub struct ImageTruth {
    /// `[height, width]` of the image in the batch, padding not counted.
    pub size: [usize; 2],
    /// Its objects, in pixels of the network's input.
    pub instances: Vec<Instance>,
    /// Boxes of its crowds, which are no objects.
    pub crowds: Vec<[f32; 4]>,
}

impl ImageTruth {
    /// `[height, width]` after padding of this image alone: anchors beyond are not trained.
    pub fn padded(&self) -> [usize; 2] {
        self.size.map(|side| side.next_multiple_of(SIZE_DIVISOR))
    }
}

/// How an image of a batch relates to its file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageInfo {
    /// `[height, width]` in the batch, padding not counted.
    pub size: [usize; 2],
    /// `[height, width]` of the file.
    pub original: [usize; 2],
    /// Size in the batch over size of the file: width, then height.
    pub scale: [f32; 2],
}

impl ImageInfo {
    /// Of an image of `original` size that was resized to `size`.
    pub fn new(original: [usize; 2], size: [usize; 2]) -> Self {
        let ratio = |axis: usize| (size[axis] as f64 / original[axis].max(1) as f64) as f32;
        Self { size, original, scale: [ratio(1), ratio(0)] }
    }
}

impl<P: FeaturePyramid> MaskRcnn<P> {
    /// Puts pyramid and heads for `num_classes` classes on a backbone; see [`MaskRcnnConfig`](crate::MaskRcnnConfig) for VMamba.
    pub fn new(backbone: P, num_classes: usize, config: &HeadsConfig, device: &Device) -> Self {
        let strides = backbone.strides();
        // Every level beyond the backbone's has twice the stride of the one before.
        let all: Vec<usize> = (0..config.fpn.levels)
            .map(|level| {
                strides.get(level).copied().unwrap_or_else(|| strides.last().map_or(1, |last| last << (level + 1 - strides.len())))
            })
            .collect();
        Self {
            neck: config.fpn.init(&backbone.channels(), device),
            rpn_head: RpnHead::new(config.fpn.channels, config.rpn.channels, config.anchors.per_cell(), device),
            roi_head: RoiHead::new(config.fpn.channels, &strides, num_classes, config, device),
            anchors: config.anchors.init(&all),
            config: config.clone(),
            backbone,
        }
    }

    /// The configuration of everything behind the backbone.
    pub fn config(&self) -> &HeadsConfig {
        &self.config
    }

    /// The anchors.
    pub fn anchors(&self) -> &AnchorGenerator {
        &self.anchors
    }

    /// Normalised RGB images `[batch, 3, height, width]`, float32 or bf16, padded to multiples of [`SIZE_DIVISOR`], to the levels of the
    /// pyramid in the same type.
    pub fn pyramid(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        self.neck.forward(self.backbone.forward_features(images))
    }

    /// Loss of a batch: images as for [`MaskRcnn::pyramid`], the objects of each, and what picks the boxes that are trained on.
    pub fn loss(&self, images: Tensor<4>, truth: &[ImageTruth], choose: &mut dyn Choose) -> DetectionLoss {
        let [_, _, height, width] = images.dims();
        let device = images.device();
        let levels = self.pyramid(images);
        let rpn = self.rpn_head.forward(&levels);
        let rpn_loss = rpn.loss(&self.rpn_targets(&rpn, truth, choose));
        let proposals = self.train_proposals(&rpn, truth);
        let samples = self.sample_rois(&proposals, truth, choose);
        let roi_loss = self.roi_head.loss(&levels, &samples, truth, [height, width]);
        let total = sum(&rpn_loss.objectness, &device)
            + sum(&rpn_loss.boxes, &device)
            + roi_loss.cls.clone()
            + roi_loss.bbox.clone()
            + roi_loss.mask.clone();
        DetectionLoss {
            total,
            rpn_cls: rpn_loss.objectness,
            rpn_bbox: rpn_loss.boxes,
            cls: roi_loss.cls,
            bbox: roi_loss.bbox,
            mask: roi_loss.mask,
            accuracy: roi_loss.accuracy,
        }
    }

    /// The anchors that a batch is trained on.
    pub fn rpn_targets(&self, rpn: &RpnOutput, truth: &[ImageTruth], choose: &mut dyn Choose) -> RpnTargets {
        rpn_targets(&self.anchors, &rpn.sizes(), truth, &self.config.rpn, choose)
    }

    /// Proposals as training takes them.
    pub fn train_proposals(&self, rpn: &RpnOutput, truth: &[ImageTruth]) -> Vec<Proposals> {
        let sizes: Vec<[usize; 2]> = truth.iter().map(|image| image.size).collect();
        rpn.proposals(&self.anchors, &sizes, &self.config.rpn.train)
    }

    /// The RoIs that a batch is trained on.
    pub fn sample_rois(&self, proposals: &[Proposals], truth: &[ImageTruth], choose: &mut dyn Choose) -> Vec<RoiSample> {
        proposals.iter().zip(truth).map(|(own, truth)| sample_rois(own, truth, &self.config.roi, choose)).collect()
    }

    /// Objects of a batch: images as for [`MaskRcnn::pyramid`]. Boxes and masks are in pixels of the files, by falling score.
    pub fn predict(&self, images: Tensor<4>, infos: &[ImageInfo]) -> Vec<Vec<Detection>> {
        let levels = self.pyramid(images);
        let rpn = self.rpn_head.forward(&levels);
        let proposals = self.test_proposals(&rpn, infos);
        let boxes = self.detect_boxes(&levels, &proposals, infos);
        self.detect_masks(&levels, &boxes, infos)
    }

    /// Proposals as prediction takes them.
    pub fn test_proposals(&self, rpn: &RpnOutput, infos: &[ImageInfo]) -> Vec<Proposals> {
        let sizes: Vec<[usize; 2]> = infos.iter().map(|info| info.size).collect();
        rpn.proposals(&self.anchors, &sizes, &self.config.rpn.test)
    }

    /// Boxes with classes, in pixels of the network's input.
    pub fn detect_boxes(&self, levels: &[Tensor<4>], proposals: &[Proposals], infos: &[ImageInfo]) -> Vec<Vec<ScoredBox>> {
        let rois = rois_of(proposals.iter().map(|own| own.boxes.iter().copied()));
        if rois.is_empty() {
            return vec![Vec::new(); infos.len()];
        }
        let output = self.roi_head.boxes(levels, &rois);
        let mut begin = 0;
        let own = |(own, info): (&Proposals, &ImageInfo)| {
            let rows = begin..begin + own.boxes.len();
            begin = rows.end;
            if rows.is_empty() { Vec::new() } else { output.rows(rows).detect(&own.boxes, info.size, &self.config.test) }
        };
        proposals.iter().zip(infos).map(own).collect()
    }

    /// Adds the masks, and brings all to pixels of the files.
    pub fn detect_masks(&self, levels: &[Tensor<4>], boxes: &[Vec<ScoredBox>], infos: &[ImageInfo]) -> Vec<Vec<Detection>> {
        let rois = rois_of(boxes.iter().map(|own| own.iter().map(|found| found.bbox)));
        if rois.is_empty() {
            return vec![Vec::new(); infos.len()];
        }
        let classes: Vec<usize> = boxes.iter().flatten().map(|found| found.category).collect();
        let probabilities = sigmoid(self.roi_head.masks(levels, &rois, &classes));
        let [_, side, _] = probabilities.dims();
        let probabilities: Vec<f32> = probabilities.into_data().iter::<f32>().collect();
        let of_object: Vec<(usize, ScoredBox)> =
            boxes.iter().enumerate().flat_map(|(image, own)| own.iter().map(move |found| (image, *found))).collect();
        let threshold = self.config.test.mask_threshold;
        let detections: Vec<(usize, Detection)> = of_object
            .par_iter()
            .zip(probabilities.par_chunks_exact(side * side))
            .filter_map(|((image, found), mask)| {
                let info = infos.get(*image)?;
                let bbox: [f32; 4] = std::array::from_fn(|i| found.bbox[i] / info.scale[i % 2]);
                let counts = paste_mask(mask, side, bbox, info.original, threshold);
                let mask = Some(Rle { size: info.original, counts });
                Some((*image, Detection { bbox, score: found.score, category: found.category, mask }))
            })
            .collect();
        let mut results = vec![Vec::new(); infos.len()];
        for (image, detection) in detections {
            results[image].push(detection);
        }
        results
    }
}

/// The boxes of all images in one list.
fn rois_of(boxes: impl Iterator<Item = impl Iterator<Item = [f32; 4]>>) -> Vec<Roi> {
    boxes.enumerate().flat_map(|(image, own)| own.map(move |bbox| Roi { image, bbox })).collect()
}
