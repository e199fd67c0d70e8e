//! Configuration of Cascade Mask R-CNN.

use serde::{Deserialize, Serialize};
use vmamba::zoo::BackboneConfig;
use vmamba_detection::{
    AnchorConfig, BoxCoder, BoxHeadConfig, BoxHeadLayers, BoxLoss, ConvNorm, DeltaLoss, DetectorConfigError, FpnConfig, MAX_LOSS_WEIGHT,
    MaskHeadConfig, MaxIouAssigner, RandomSampler, RoiConfig, RpnConfig, TestConfig,
};
use vmamba_types::setting::{self, SettingError};

/// Cascade Mask R-CNN on any backbone of the zoo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CascadeMaskRcnnConfig {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// Number of classes without the background.
    pub num_classes: usize,
    /// Everything behind the backbone.
    #[serde(default)]
    pub heads: HeadsConfig,
}

/// Everything behind the backbone. The default is the cascade that Swin and ConvNeXt were published with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HeadsConfig {
    /// The feature pyramid network.
    pub fpn: FpnConfig,
    /// The anchors.
    pub anchors: AnchorConfig,
    /// The region proposal network.
    pub rpn: RpnConfig,
    /// The stages, in the order in which they refine boxes.
    pub stages: Vec<StageConfig>,
    /// The layers of a mask head.
    pub mask_head: MaskHeadConfig,
    /// Whether every stage has a mask head, or all share one.
    pub mask_heads: MaskHeads,
    /// Selection of detections.
    pub test: TestConfig,
}

/// One stage of the cascade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// Sampling of RoIs in training.
    pub roi: RoiConfig,
    /// The box head with its box coder.
    pub box_head: BoxHeadConfig,
    /// Factor of all losses of the stage (mmdetection's `stage_loss_weights`).
    pub loss_weight: f64,
}

/// Whether every stage has a mask head, or all share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum MaskHeads {
    /// A mask head for every stage; prediction averages their probabilities. mmdetection builds these even from a single `mask_head`.
    #[default]
    PerStage,
    /// One mask head, trained on the RoIs of every stage. Its keys are those of the first mask head.
    Shared,
}

/// IoU threshold, standard deviations of the box coder and loss weight of the stages of every published cascade.
const STAGES: [(f32, [f32; 4], f64); 3] =
    [(0.5, [0.1, 0.1, 0.2, 0.2], 1.0), (0.6, [0.05, 0.05, 0.1, 0.1], 0.5), (0.7, [0.033, 0.033, 0.067, 0.067], 0.25)];

impl Default for HeadsConfig {
    fn default() -> Self {
        Self::published()
    }
}

impl HeadsConfig {
    /// The heads that Swin and ConvNeXt were published with: box heads of four convolutions with batch norm and one linear layer, a box for
    /// every class, and GIoU loss with weight 10.
    ///
    /// The published runs synchronised the statistics of the batch norms over their devices (SyncBN).
    pub fn published() -> Self {
        Self::with_box_head(BoxHeadConfig {
            layers: BoxHeadLayers::Shared4Conv1Fc { channels: 256, norm: ConvNorm::BatchNorm },
            loss: BoxLoss::Giou,
            loss_weight: 10.0,
            ..BoxHeadConfig::default()
        })
    }

    /// The heads of the paper, also mmdetection's `cascade-mask-rcnn_r50_fpn`: box heads of two linear layers, one box for all classes, and
    /// smooth L1 loss of the deltas.
    pub fn shared_2fc() -> Self {
        Self::with_box_head(BoxHeadConfig {
            layers: BoxHeadLayers::Shared2Fc,
            reg_class_agnostic: true,
            loss: BoxLoss::SmoothL1 { beta: 1.0 },
            ..BoxHeadConfig::default()
        })
    }

    /// The published cascade with this box head in every stage.
    fn with_box_head(box_head: BoxHeadConfig) -> Self {
        let loss = DeltaLoss::SmoothL1 { beta: 1.0 / 9.0 };
        let mut rpn = RpnConfig { allowed_border: Some(0.0), loss, ..RpnConfig::default() };
        rpn.train.max_per_image = 2000;
        let stage = |(iou, stds, loss_weight)| StageConfig {
            roi: RoiConfig { assigner: MaxIouAssigner::cascade(iou), sampler: RandomSampler::ROI },
            box_head: BoxHeadConfig { coder: BoxCoder::with_stds(stds), ..box_head.clone() },
            loss_weight,
        };
        Self {
            fpn: FpnConfig::default(),
            anchors: AnchorConfig::default(),
            rpn,
            stages: STAGES.map(stage).to_vec(),
            mask_head: MaskHeadConfig::default(),
            mask_heads: MaskHeads::default(),
            test: TestConfig::default(),
        }
    }

    /// Number of mask heads.
    pub fn mask_head_count(&self) -> usize {
        match self.mask_heads {
            MaskHeads::PerStage => self.stages.len(),
            MaskHeads::Shared => 1,
        }
    }

    /// Validates value ranges for a backbone with `backbone_levels` levels.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self, backbone_levels: usize) -> Result<(), SettingError> {
        self.fpn.validate(backbone_levels).map_err(|error| error.within("fpn"))?;
        self.anchors.validate().map_err(|error| error.within("anchors"))?;
        self.rpn.validate().map_err(|error| error.within("rpn"))?;
        setting::require(setting::COUNT.contains(&self.stages.len()), "stages", "a list of 1 to 64 stages", self.stages.len())?;
        for (index, stage) in self.stages.iter().enumerate() {
            stage.validate().map_err(|error| error.within(&format!("stages.{index}")))?;
        }
        self.mask_head.validate().map_err(|error| error.within("mask_head"))?;
        self.test.validate().map_err(|error| error.within("test"))
    }
}

impl StageConfig {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Returns the first invalid field, by its path in this configuration.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.roi.validate().map_err(|error| error.within("roi"))?;
        self.box_head.validate().map_err(|error| error.within("box_head"))?;
        setting::positive("loss_weight", self.loss_weight, MAX_LOSS_WEIGHT)
    }
}

/// The image size at which [`BackboneConfig::levels`] counts the levels of a backbone; every size gives the same number.
const ANY_IMAGE: [usize; 2] = [224, 224];

impl CascadeMaskRcnnConfig {
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
