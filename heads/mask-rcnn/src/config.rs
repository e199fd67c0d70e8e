//! Configuration of Mask R-CNN. The defaults are those of the published COCO models.

use serde::{Deserialize, Serialize};
use vmamba::zoo::BackboneConfig;
use vmamba_detection::{AnchorConfig, BoxHeadConfig, DetectorConfigError, FpnConfig, MaskHeadConfig, RoiConfig, RpnConfig, TestConfig};
use vmamba_types::setting::{self, SettingError};

/// Mask R-CNN on any backbone of the zoo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskRcnnConfig {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// Number of classes without the background.
    pub num_classes: usize,
    /// Everything behind the backbone.
    #[serde(default)]
    pub heads: HeadsConfig,
}

/// Everything behind the backbone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HeadsConfig {
    /// The feature pyramid network.
    pub fpn: FpnConfig,
    /// The anchors.
    pub anchors: AnchorConfig,
    /// The region proposal network.
    pub rpn: RpnConfig,
    /// Sampling of RoIs in training.
    pub roi: RoiConfig,
    /// The box head.
    pub box_head: BoxHeadConfig,
    /// The mask head.
    pub mask_head: MaskHeadConfig,
    /// Selection of detections.
    pub test: TestConfig,
}

/// The image size at which [`BackboneConfig::levels`] counts the levels of a backbone; every size gives the same number.
const ANY_IMAGE: [usize; 2] = [224, 224];

impl HeadsConfig {
    /// Validates value ranges for a backbone with `backbone_levels` levels.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self, backbone_levels: usize) -> Result<(), SettingError> {
        self.fpn.validate(backbone_levels).map_err(|error| error.within("fpn"))?;
        self.anchors.validate().map_err(|error| error.within("anchors"))?;
        self.rpn.validate().map_err(|error| error.within("rpn"))?;
        self.roi.validate().map_err(|error| error.within("roi"))?;
        self.box_head.validate().map_err(|error| error.within("box_head"))?;
        self.mask_head.validate().map_err(|error| error.within("mask_head"))?;
        self.test.validate().map_err(|error| error.within("test"))
    }
}

impl MaskRcnnConfig {
    /// The published heads for `num_classes` classes on a backbone.
    pub fn on(backbone: impl Into<BackboneConfig>, num_classes: usize) -> Self {
        Self { backbone: backbone.into(), num_classes, heads: HeadsConfig::default() }
    }

    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field.
    pub fn validate(&self) -> Result<(), DetectorConfigError> {
        self.backbone.validate_pyramid()?;
        setting::whole("num_classes", self.num_classes, setting::CHANNELS)?;
        Ok(self.heads.validate(self.backbone.levels(ANY_IMAGE).len()).map_err(|error| error.within("heads"))?)
    }
}
