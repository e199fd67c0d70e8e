//! Cascade Mask R-CNN: backbone, pyramid, proposals, stages of heads (mmdetection's `CascadeRCNN`).

use burn::prelude::*;
use vmamba::zoo::Backbone;
use vmamba::{FeaturePyramid, NotFinite, require_finite};
use vmamba_detection::{
    BoxHead, Choose, DetectionLoss, Detector, DetectorConfigError, Fpn, ImageInfo, ImageTruth, Proposals, RpnHead, RpnOutput, ScoredBox,
    observe_proposals, paste_masks, rois_of,
};
use vmamba_types::Detection;

use crate::config::{CascadeMaskRcnnConfig, HeadsConfig};
use crate::roi_head::CascadeRoiHead;

/// A detection and instance segmentation model on any backbone.
#[derive(Module, Debug)]
pub struct CascadeMaskRcnn<P> {
    /// The backbone.
    pub backbone: P,
    /// The feature pyramid network.
    pub neck: Fpn,
    /// The region proposal network.
    pub rpn_head: RpnHead,
    /// The stages of heads on RoIs.
    pub roi_head: CascadeRoiHead,
    #[module(skip)]
    config: HeadsConfig,
}

impl CascadeMaskRcnnConfig {
    /// Builds the model with random weights on `device`.
    ///
    /// # Errors
    /// See [`CascadeMaskRcnnConfig::validate`].
    pub fn try_init(&self, device: &Device) -> Result<CascadeMaskRcnn<Backbone>, DetectorConfigError> {
        self.validate()?;
        Ok(CascadeMaskRcnn::new(self.backbone.try_init(device)?, self.num_classes, &self.heads, device))
    }

    /// Builds the model with random weights on `device`.
    ///
    /// # Panics
    /// When the configuration is invalid; [`CascadeMaskRcnnConfig::try_init`] returns the error instead.
    pub fn init(&self, device: &Device) -> CascadeMaskRcnn<Backbone> {
        match self.try_init(device) {
            Ok(model) => model,
            Err(error) => panic!("{error}"),
        }
    }
}

impl<P: FeaturePyramid> CascadeMaskRcnn<P> {
    /// Puts pyramid and heads for `num_classes` classes on a backbone. For a backbone of the zoo see
    /// [`CascadeMaskRcnnConfig`](crate::CascadeMaskRcnnConfig).
    pub fn new(backbone: P, num_classes: usize, config: &HeadsConfig, device: &Device) -> Self {
        let strides = backbone.strides();
        let anchors = config.anchors.init(&config.fpn.strides(&strides));
        Self {
            neck: config.fpn.init(&backbone.channels(), device),
            rpn_head: config.rpn.init(config.fpn.channels, anchors, device),
            roi_head: CascadeRoiHead::new(config.fpn.channels, &strides, num_classes, config, device),
            backbone,
            config: config.clone(),
        }
    }

    /// The configuration of everything behind the backbone.
    pub fn config(&self) -> &HeadsConfig {
        &self.config
    }

    /// The levels of the pyramid for `images` as in [`Detector`]: `[batch, channels, height, width]` in the type of the images, the finest
    /// first.
    pub fn pyramid(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        self.neck.forward(self.backbone.forward_features(images))
    }

    /// Proposals of every image in training.
    pub fn train_proposals(&self, rpn: &RpnOutput, truth: &[ImageTruth]) -> Vec<Proposals> {
        let sizes: Vec<[usize; 2]> = truth.iter().map(|image| image.size).collect();
        self.rpn_head.train_proposals(rpn, &sizes)
    }

    /// Proposals of every image in prediction.
    pub fn test_proposals(&self, rpn: &RpnOutput, infos: &[ImageInfo]) -> Vec<Proposals> {
        self.rpn_head.test_proposals(rpn, &sizes(infos))
    }

    /// Boxes with classes of every image by descending score, in pixels of the network's input.
    ///
    /// # Errors
    /// When an output of the box heads is not finite.
    pub fn detect_boxes(
        &self,
        levels: &[Tensor<4>],
        proposals: &[Proposals],
        infos: &[ImageInfo],
    ) -> Result<Vec<Vec<ScoredBox>>, NotFinite> {
        let Some((boxes, output)) = self.roi_head.cascade(levels, proposals, &sizes(infos)) else {
            return Ok(vec![Vec::new(); infos.len()]);
        };
        output.require_finite()?;
        Ok(self.roi_head.detect(&output, &boxes, &sizes(infos), &self.config.test))
    }

    /// Adds masks to boxes, and scales both to pixels of the files.
    ///
    /// # Errors
    /// When an output of the mask heads is not finite.
    pub fn detect_masks(
        &self,
        levels: &[Tensor<4>],
        boxes: &[Vec<ScoredBox>],
        infos: &[ImageInfo],
    ) -> Result<Vec<Vec<Detection>>, NotFinite> {
        let rois = rois_of(boxes.iter().map(|own| own.iter().map(|found| found.bbox)));
        if rois.is_empty() {
            return Ok(vec![Vec::new(); infos.len()]);
        }
        let classes: Vec<usize> = boxes.iter().flatten().map(|found| found.category).collect();
        let probabilities = self.roi_head.mask_probabilities(levels, &rois, &classes);
        require_finite("the masks", &probabilities)?;
        Ok(paste_masks(probabilities, boxes, infos, self.config.test.mask_threshold))
    }
}

/// Sizes `[height, width]` in the batch, without padding.
fn sizes(infos: &[ImageInfo]) -> Vec<[usize; 2]> {
    infos.iter().map(|info| info.size).collect()
}

impl<P: FeaturePyramid> Detector for CascadeMaskRcnn<P> {
    fn num_classes(&self) -> usize {
        self.roi_head.bbox_head.first().map_or(0, BoxHead::num_classes)
    }

    fn size_divisor(&self) -> usize {
        self.backbone.size_divisor()
    }

    fn fewest_norm_values(&self, image: [usize; 2]) -> Option<usize> {
        // The batch norms of a box head see RoIs of at least 2x2 positions, see `BoxHeadConfig::validate`.
        self.backbone.fewest_norm_values(image)
    }

    fn loss(&self, images: Tensor<4>, truth: &[ImageTruth], choose: &mut dyn Choose) -> DetectionLoss {
        let [_, _, height, width] = images.dims();
        let levels = self.pyramid(images);
        let rpn = self.rpn_head.forward(&levels);
        let targets = self.rpn_head.targets(&rpn.sizes(), truth, self.size_divisor(), choose);
        let rpn_loss = self.rpn_head.loss(&rpn, &targets);
        let proposals = self.train_proposals(&rpn, truth);
        let stages = self.roi_head.loss(&levels, &proposals, truth, [height, width], choose);
        let mut parts = rpn_loss.parts().to_vec();
        let mut accuracies = Vec::new();
        for (stage, loss) in stages.into_iter().enumerate() {
            for (name, part) in [("loss_cls", loss.cls), ("loss_bbox", loss.bbox), ("loss_mask", loss.mask)] {
                parts.push((format!("s{stage}.{name}"), part));
            }
            accuracies.push((format!("s{stage}.acc"), loss.accuracy));
        }
        DetectionLoss::new(parts, accuracies)
    }

    fn predict(&self, images: Tensor<4>, infos: &[ImageInfo]) -> Result<Vec<Vec<Detection>>, NotFinite> {
        let levels = self.pyramid(images);
        let rpn = self.rpn_head.forward(&levels);
        rpn.require_finite()?;
        let proposals = self.test_proposals(&rpn, infos);
        let boxes = self.detect_boxes(&levels, &proposals, infos)?;
        self.detect_masks(&levels, &boxes, infos)
    }

    fn official_key(path: &str) -> String {
        vmamba_detection::official_key(path)
    }

    fn observe(&self, images: Tensor<4>, observe: &mut dyn FnMut(&str, usize, &Tensor<4>)) {
        observe_proposals(&self.backbone, &self.neck, &self.rpn_head, images, observe);
    }
}
