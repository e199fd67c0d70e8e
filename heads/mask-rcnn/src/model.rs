//! Mask R-CNN: backbone, pyramid, proposals, heads (mmdetection's `MaskRCNN`).

use burn::prelude::*;
use burn::tensor::activation::sigmoid;
use vmamba::zoo::Backbone;
use vmamba::{FeaturePyramid, NotFinite, require_finite};
use vmamba_detection::{
    AnchorGenerator, BoxOutput, Choose, DetectionLoss, Detector, DetectorConfigError, Fpn, ImageInfo, ImageTruth, Proposals, RoiSample,
    RpnHead, RpnOutput, RpnTargets, ScoredBox, observe_proposals, paste_masks, rois_of,
};
use vmamba_types::Detection;

use crate::config::{HeadsConfig, MaskRcnnConfig};
use crate::roi_head::RoiHead;

/// A detection and instance segmentation model on any backbone.
#[derive(Module, Debug)]
pub struct MaskRcnn<P> {
    /// The backbone.
    pub backbone: P,
    /// The feature pyramid network.
    pub neck: Fpn,
    /// The region proposal network.
    pub rpn_head: RpnHead,
    /// The heads on RoIs.
    pub roi_head: RoiHead,
    #[module(skip)]
    config: HeadsConfig,
}

impl MaskRcnnConfig {
    /// Builds the model with random weights on `device`.
    ///
    /// # Errors
    /// See [`MaskRcnnConfig::validate`].
    pub fn try_init(&self, device: &Device) -> Result<MaskRcnn<Backbone>, DetectorConfigError> {
        self.validate()?;
        Ok(MaskRcnn::new(self.backbone.try_init(device)?, self.num_classes, &self.heads, device))
    }

    /// Builds the model with random weights on `device`.
    ///
    /// # Panics
    /// When the configuration is invalid; [`MaskRcnnConfig::try_init`] returns the error instead.
    pub fn init(&self, device: &Device) -> MaskRcnn<Backbone> {
        match self.try_init(device) {
            Ok(model) => model,
            Err(error) => panic!("{error}"),
        }
    }
}

impl<P: FeaturePyramid> MaskRcnn<P> {
    /// Puts pyramid and heads for `num_classes` classes on a backbone. For a backbone of the zoo see
    /// [`MaskRcnnConfig`](crate::MaskRcnnConfig).
    pub fn new(backbone: P, num_classes: usize, config: &HeadsConfig, device: &Device) -> Self {
        let strides = backbone.strides();
        let anchors = config.anchors.init(&config.fpn.strides(&strides));
        Self {
            neck: config.fpn.init(&backbone.channels(), device),
            rpn_head: config.rpn.init(config.fpn.channels, anchors, device),
            roi_head: RoiHead::new(config.fpn.channels, &strides, num_classes, config, device),
            backbone,
            config: config.clone(),
        }
    }

    /// The configuration of everything behind the backbone.
    pub fn config(&self) -> &HeadsConfig {
        &self.config
    }

    /// The anchors.
    pub fn anchors(&self) -> &AnchorGenerator {
        self.rpn_head.anchors()
    }

    /// The levels of the pyramid for `images` as in [`Detector`]: `[batch, channels, height, width]` in the type of the images, the finest
    /// first.
    pub fn pyramid(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        self.neck.forward(self.backbone.forward_features(images))
    }

    /// Samples the anchors that a batch is trained on.
    pub fn rpn_targets(&self, rpn: &RpnOutput, truth: &[ImageTruth], choose: &mut dyn Choose) -> RpnTargets {
        self.rpn_head.targets(&rpn.sizes(), truth, self.size_divisor(), choose)
    }

    /// Proposals of every image in training.
    pub fn train_proposals(&self, rpn: &RpnOutput, truth: &[ImageTruth]) -> Vec<Proposals> {
        let sizes: Vec<[usize; 2]> = truth.iter().map(|image| image.size).collect();
        self.rpn_head.train_proposals(rpn, &sizes)
    }

    /// Samples the RoIs that a batch is trained on.
    pub fn sample_rois(&self, proposals: &[Proposals], truth: &[ImageTruth], choose: &mut dyn Choose) -> Vec<RoiSample> {
        proposals.iter().zip(truth).map(|(own, truth)| self.config.roi.sample(&own.boxes, truth, choose)).collect()
    }

    /// Proposals of every image in prediction.
    pub fn test_proposals(&self, rpn: &RpnOutput, infos: &[ImageInfo]) -> Vec<Proposals> {
        let sizes: Vec<[usize; 2]> = infos.iter().map(|info| info.size).collect();
        self.rpn_head.test_proposals(rpn, &sizes)
    }

    /// Boxes with classes of every image by descending score, in pixels of the network's input.
    ///
    /// # Errors
    /// When an output of the box head is not finite.
    pub fn detect_boxes(
        &self,
        levels: &[Tensor<4>],
        proposals: &[Proposals],
        infos: &[ImageInfo],
    ) -> Result<Vec<Vec<ScoredBox>>, NotFinite> {
        let rois = rois_of(proposals.iter().map(|own| own.boxes.iter().copied()));
        if rois.is_empty() {
            return Ok(vec![Vec::new(); infos.len()]);
        }
        let output = self.roi_head.boxes(levels, &rois);
        output.require_finite()?;
        let outputs = output.split(proposals.iter().map(|own| own.boxes.len()));
        let detect = |((output, own), info): ((Option<BoxOutput>, &Proposals), &ImageInfo)| match output {
            Some(output) => self.roi_head.bbox_head.detect(&output, &own.boxes, info.size, &self.config.test),
            None => Vec::new(),
        };
        Ok(outputs.zip(proposals).zip(infos).map(detect).collect())
    }

    /// Adds masks to boxes, and scales both to pixels of the files.
    ///
    /// # Errors
    /// When an output of the mask head is not finite.
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
        let masks = self.roi_head.masks(levels, &rois, &classes);
        require_finite("the masks", &masks)?;
        Ok(paste_masks(sigmoid(masks), boxes, infos, self.config.test.mask_threshold))
    }
}

impl<P: FeaturePyramid> Detector for MaskRcnn<P> {
    fn num_classes(&self) -> usize {
        self.roi_head.bbox_head.num_classes()
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
        let rpn_loss = self.rpn_head.loss(&rpn, &self.rpn_targets(&rpn, truth, choose));
        let proposals = self.train_proposals(&rpn, truth);
        let samples = self.sample_rois(&proposals, truth, choose);
        let roi_loss = self.roi_head.loss(&levels, &samples, truth, [height, width]);
        let heads = [("loss_cls", roi_loss.cls), ("loss_bbox", roi_loss.bbox), ("loss_mask", roi_loss.mask)];
        let parts = rpn_loss.parts().into_iter().chain(heads.map(|(name, part)| (name.to_owned(), part)));
        DetectionLoss::new(parts.collect(), vec![("acc".to_owned(), roi_loss.accuracy)])
    }

    fn predict(&self, images: Tensor<4>, infos: &[ImageInfo]) -> Result<Vec<Vec<Detection>>, NotFinite> {
        let levels = self.pyramid(images);
        let rpn = self.rpn_head.forward(&levels);
        rpn.require_finite()?;
        let proposals = self.test_proposals(&rpn, infos);
        let boxes = self.detect_boxes(&levels, &proposals, infos)?;
        self.detect_masks(&levels, &boxes, infos)
    }

    fn observe(&self, images: Tensor<4>, observe: &mut dyn FnMut(&str, usize, &Tensor<4>)) {
        observe_proposals(&self.backbone, &self.neck, &self.rpn_head, images, observe);
    }

    fn official_key(path: &str) -> String {
        vmamba_detection::official_key(path)
    }
}

#[cfg(test)]
mod tests {
    use vmamba::{Dims, VmambaConfig};
    use vmamba_detection::RandomChoice;
    use vmamba_types::Instance;

    use super::*;

    fn config() -> MaskRcnnConfig {
        let backbone = VmambaConfig { depths: vec![1; 2], dims: Dims::Doubling(8), out_indices: vec![0, 1], ..VmambaConfig::default() };
        let mut config = MaskRcnnConfig::on(backbone, 3);
        config.heads.fpn.channels = 4;
        config.heads.fpn.levels = 3;
        config.heads.rpn.channels = 4;
        (config.heads.box_head.channels, config.heads.box_head.roi_size) = (8, 2);
        (config.heads.mask_head.channels, config.heads.mask_head.roi_size) = (4, 2);
        config.heads.test.score_threshold = 0.0;
        config
    }

    #[test]
    fn modules_are_observed_in_the_order_of_the_forward_pass() {
        let device = Device::flex();
        let model = config().init(&device);
        assert_eq!(model.size_divisor(), 8, "the levels have strides 4 and 8");
        let mut seen = Vec::new();
        model.observe(Tensor::zeros([1, 3, 32, 40], &device), &mut |module, index, output| {
            seen.push((module.to_owned(), index, output.dims()[2..].to_vec()));
        });
        let level = |module: &str, index: usize, height: usize, width: usize| (module.to_owned(), index, vec![height, width]);
        let mut expected = vec![level("backbone", 0, 8, 10), level("backbone", 1, 4, 5)];
        for module in ["neck", "rpn_head.rpn_cls", "rpn_head.rpn_reg"] {
            expected.extend([level(module, 0, 8, 10), level(module, 1, 4, 5), level(module, 2, 2, 3)]);
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_batch_without_objects_trains_every_parameter_and_is_finite() {
        let device = Device::flex().autodiff();
        let model = config().init(&device);
        let truth = [ImageTruth { size: [32, 40], ..ImageTruth::default() }];
        let loss = model.loss(Tensor::ones([1, 3, 32, 40], &device), &truth, &mut RandomChoice::new(1));
        let value = |name: &str| loss.part(name).unwrap().clone().into_scalar::<f32>();
        assert!(loss.total.clone().into_scalar::<f32>().is_finite());
        assert_eq!((value("loss_bbox"), value("loss_mask"), value("loss_rpn_bbox")), (0.0, 0.0, 0.0));
        let gradients = loss.total.backward();
        struct WithoutGradient<'a>(&'a burn::tensor::Gradients, usize);
        impl burn::module::ModuleVisitor for WithoutGradient<'_> {
            fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
                self.1 += usize::from(param.val().grad(self.0).is_none());
            }
        }
        let mut heads = WithoutGradient(&gradients, 0);
        model.roi_head.visit(&mut heads);
        model.rpn_head.visit(&mut heads);
        assert_eq!(heads.1, 0, "parameters of the heads without gradient");
    }

    #[test]
    fn an_image_with_a_box_but_no_mask_trains_classes_and_boxes() {
        let device = Device::flex().autodiff();
        let object = Instance { bbox: [4.0, 4.0, 30.0, 28.0], category: 1, crowd: false, mask: None };
        let truth = [ImageTruth { size: [32, 40], instances: vec![object], crowds: Vec::new() }];
        let loss = config().init(&device).loss(Tensor::ones([1, 3, 32, 40], &device), &truth, &mut RandomChoice::new(1));
        let value = |name: &str| loss.part(name).unwrap().clone().into_scalar::<f32>();
        assert!(value("loss_bbox") > 0.0 && value("loss_cls") > 0.0 && value("loss_mask") == 0.0);
    }
}
