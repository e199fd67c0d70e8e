//! Configuration of Mask R-CNN; the defaults are those of the published COCO models.

use burn::prelude::*;
use serde::{Deserialize, Serialize};
use vmamba::ConfigError;
use vmamba::zoo::{Backbone, BackboneConfig};

use crate::anchor_generator::AnchorConfig;
use crate::assigner::MaxIouAssigner;
use crate::box_head::BoxHeadConfig;
use crate::fpn::FpnConfig;
use crate::mask_head::MaskHeadConfig;
use crate::model::MaskRcnn;
use crate::rpn::{ProposalConfig, default_assigner};
use crate::sampler::RandomSampler;

/// Mask R-CNN on a VMamba backbone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskRcnnConfig {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// Classes, the background not counted.
    pub num_classes: usize,
    /// Everything behind the backbone.
    #[serde(default)]
    pub heads: HeadsConfig,
}

/// Everything behind the backbone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadsConfig {
    /// The feature pyramid.
    pub fpn: FpnConfig,
    /// The anchors.
    pub anchors: AnchorConfig,
    /// The region proposals.
    pub rpn: RpnConfig,
    /// Training of the heads on RoIs.
    pub roi: RoiConfig,
    /// The box head.
    pub box_head: BoxHeadConfig,
    /// The mask head.
    pub mask_head: MaskHeadConfig,
    /// Prediction.
    pub test: TestConfig,
}

/// The region proposal network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RpnConfig {
    /// Channels of its convolution.
    pub channels: usize,
    /// Which anchors are objects.
    pub assigner: MaxIouAssigner,
    /// Which of them are trained on.
    pub sampler: RandomSampler,
    /// Proposals in training.
    pub train: ProposalConfig,
    /// Proposals in prediction.
    pub test: ProposalConfig,
}

impl Default for RpnConfig {
    fn default() -> Self {
        let proposals = |nms_pre| ProposalConfig { nms_pre, max_per_image: 1000, nms_threshold: 0.7, min_size: 0.0 };
        Self { channels: 256, assigner: default_assigner(), sampler: RandomSampler::RPN, train: proposals(2000), test: proposals(1000) }
    }
}

/// Training of the heads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoiConfig {
    /// Which proposals are objects.
    pub assigner: MaxIouAssigner,
    /// Which of them are trained on.
    pub sampler: RandomSampler,
}

impl Default for RoiConfig {
    fn default() -> Self {
        Self { assigner: MaxIouAssigner::ROI, sampler: RandomSampler::ROI }
    }
}

/// What counts as a detection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TestConfig {
    /// Probabilities must be above this.
    pub score_threshold: f32,
    /// IoU above which the box of the lower score of the same class is suppressed.
    pub nms_threshold: f32,
    /// Detections of an image.
    pub max_per_image: usize,
    /// Probability from which on a pixel belongs to the mask.
    pub mask_threshold: f32,
}

impl Default for TestConfig {
    fn default() -> Self {
        Self { score_threshold: 0.05, nms_threshold: 0.5, max_per_image: 100, mask_threshold: 0.5 }
    }
}

/// An image size to ask for the number of levels with, which does not depend on it.
const ANY_IMAGE: [usize; 2] = [224, 224];

/// What is wrong with a [`MaskRcnnConfig`].
#[derive(Debug, thiserror::Error)]
pub enum MaskRcnnConfigError {
    /// The backbone's configuration.
    #[error("backbone: {0}")]
    Backbone(#[from] ConfigError),
    /// A number that must be positive is 0.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A share outside [0, 1].
    #[error("{field} must be in [0, 1], got {value}")]
    Share {
        /// The field.
        field: &'static str,
        /// Its value.
        value: f32,
    },
    /// Sizes and shapes of anchors must be positive.
    #[error("{field} must be a list of positive numbers, got {value:?}")]
    Anchors {
        /// The field.
        field: &'static str,
        /// Its value.
        value: Vec<f32>,
    },
    /// The pyramid has fewer levels than the backbone.
    #[error("heads.fpn.levels is {levels}, but the backbone alone has {backbone}")]
    Levels {
        /// Levels asked for.
        levels: usize,
        /// Levels of the backbone.
        backbone: usize,
    },
}

impl HeadsConfig {
    /// Checks every field, for a backbone of so many levels.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn validate(&self, backbone_levels: usize) -> Result<(), MaskRcnnConfigError> {
        for (field, value) in [
            ("heads.fpn.channels", self.fpn.channels),
            ("heads.rpn.channels", self.rpn.channels),
            ("heads.rpn.sampler.num", self.rpn.sampler.num),
            ("heads.rpn.train.nms_pre", self.rpn.train.nms_pre),
            ("heads.rpn.train.max_per_image", self.rpn.train.max_per_image),
            ("heads.rpn.test.nms_pre", self.rpn.test.nms_pre),
            ("heads.rpn.test.max_per_image", self.rpn.test.max_per_image),
            ("heads.roi.sampler.num", self.roi.sampler.num),
            ("heads.box_head.channels", self.box_head.channels),
            ("heads.box_head.roi_size", self.box_head.roi_size),
            ("heads.mask_head.channels", self.mask_head.channels),
            ("heads.mask_head.roi_size", self.mask_head.roi_size),
            ("heads.test.max_per_image", self.test.max_per_image),
        ] {
            if value == 0 {
                return Err(MaskRcnnConfigError::Zero(field));
            }
        }
        for (field, value) in [
            ("heads.rpn.assigner.positive", self.rpn.assigner.positive),
            ("heads.rpn.assigner.negative", self.rpn.assigner.negative),
            ("heads.rpn.assigner.minimum", self.rpn.assigner.minimum),
            ("heads.rpn.sampler.positive_fraction", self.rpn.sampler.positive_fraction as f32),
            ("heads.rpn.train.nms_threshold", self.rpn.train.nms_threshold),
            ("heads.rpn.test.nms_threshold", self.rpn.test.nms_threshold),
            ("heads.roi.assigner.positive", self.roi.assigner.positive),
            ("heads.roi.assigner.negative", self.roi.assigner.negative),
            ("heads.roi.assigner.minimum", self.roi.assigner.minimum),
            ("heads.roi.sampler.positive_fraction", self.roi.sampler.positive_fraction as f32),
            ("heads.test.score_threshold", self.test.score_threshold),
            ("heads.test.nms_threshold", self.test.nms_threshold),
            ("heads.test.mask_threshold", self.test.mask_threshold),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(MaskRcnnConfigError::Share { field, value });
            }
        }
        for (field, value) in [("heads.anchors.scales", &self.anchors.scales), ("heads.anchors.ratios", &self.anchors.ratios)] {
            if value.is_empty() || value.iter().any(|number| !(*number > 0.0 && number.is_finite())) {
                return Err(MaskRcnnConfigError::Anchors { field, value: value.clone() });
            }
        }
        if self.fpn.levels < backbone_levels {
            return Err(MaskRcnnConfigError::Levels { levels: self.fpn.levels, backbone: backbone_levels });
        }
        Ok(())
    }
}

impl MaskRcnnConfig {
    /// The published heads for `num_classes` classes.
    pub fn new(backbone: impl Into<BackboneConfig>, num_classes: usize) -> Self {
        Self { backbone: backbone.into(), num_classes, heads: HeadsConfig::default() }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that cannot be.
    pub fn validate(&self) -> Result<(), MaskRcnnConfigError> {
        self.backbone.validate()?;
        if self.num_classes == 0 {
            return Err(MaskRcnnConfigError::Zero("num_classes"));
        }
        self.heads.validate(self.backbone.levels(ANY_IMAGE).len())
    }

    /// Builds the model with random weights on `device`.
    ///
    /// # Errors
    /// As [`MaskRcnnConfig::validate`].
    pub fn try_init(&self, device: &Device) -> Result<MaskRcnn<Backbone>, MaskRcnnConfigError> {
        self.validate()?;
        Ok(MaskRcnn::new(self.backbone.try_init(device)?, self.num_classes, &self.heads, device))
    }

    /// As [`MaskRcnnConfig::try_init`].
    ///
    /// # Panics
    /// When the configuration is not valid.
    pub fn init(&self, device: &Device) -> MaskRcnn<Backbone> {
        match self.try_init(device) {
            Ok(model) => model,
            Err(error) => panic!("{error}"),
        }
    }
}
