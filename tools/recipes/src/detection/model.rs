//! The built-in detectors. A new one is a variant of the two enums here; `docs/extend/head.md` lists the rest.

use anyhow::{Context, Result};
use burn::prelude::*;
use mask_rcnn::{HeadsConfig, MaskRcnn, MaskRcnnConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vmamba::NotFinite;
use vmamba::checkpoint::{Checkpoint, ClassRows, LoadReport, Weights};
use vmamba::complexity::Complexity;
use vmamba::zoo::{Backbone, BackboneConfig};
use vmamba_cascade::{CascadeMaskRcnn, CascadeMaskRcnnConfig};
use vmamba_detection::{Choose, DetectionLoss, Detector, DetectorConfigError, ImageInfo, ImageTruth};
use vmamba_types::{Detection, SettingError};

use crate::config::at_path;
use crate::run_config::{Section, of_backbone, rgb_only};

/// The table `model` of a detector. `kind` names the detector; without it, it is `"mask_rcnn"`. The data give the number of classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(!try_from, !into, tag = "kind", rename_all = "snake_case"))]
pub enum DetectionModelConfig {
    /// Mask R-CNN.
    MaskRcnn(MaskRcnnModel),
    /// Cascade Mask R-CNN.
    CascadeMaskRcnn(CascadeMaskRcnnModel),
}

/// Any built-in detector.
// A program has one of it, and Burn has no boxed modules.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum AnyDetector {
    /// Mask R-CNN.
    MaskRcnn(MaskRcnn<Backbone>),
    /// Cascade Mask R-CNN.
    CascadeMaskRcnn(CascadeMaskRcnn<Backbone>),
}

/// Mask R-CNN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MaskRcnnModel {
    /// The backbone: `preset = "vmamba_tiny_s1l8"` and any option that differs from the preset.
    pub backbone: BackboneConfig,
    /// Neck, RPN and RoI heads.
    #[serde(default)]
    pub heads: HeadsConfig,
}

impl MaskRcnnModel {
    /// The configuration of the whole model.
    pub fn for_classes(&self, num_classes: usize) -> MaskRcnnConfig {
        MaskRcnnConfig { backbone: self.backbone.clone(), num_classes, heads: self.heads.clone() }
    }
}

/// Cascade Mask R-CNN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CascadeMaskRcnnModel {
    /// The backbone: `preset = "vmamba_tiny_s1l8"` and any option that differs from the preset.
    pub backbone: BackboneConfig,
    /// Neck, RPN and the stages of the RoI head.
    #[serde(default)]
    pub heads: vmamba_cascade::HeadsConfig,
}

impl CascadeMaskRcnnModel {
    /// The configuration of the whole model.
    pub fn for_classes(&self, num_classes: usize) -> CascadeMaskRcnnConfig {
        CascadeMaskRcnnConfig { backbone: self.backbone.clone(), num_classes, heads: self.heads.clone() }
    }
}

impl DetectionModelConfig {
    /// The values of `kind`.
    const KINDS: [&'static str; 2] = ["mask_rcnn", "cascade_mask_rcnn"];

    /// The value of `kind`.
    fn kind(&self) -> &'static str {
        match self {
            Self::MaskRcnn(_) => "mask_rcnn",
            Self::CascadeMaskRcnn(_) => "cascade_mask_rcnn",
        }
    }

    /// The backbone.
    pub fn backbone(&self) -> &BackboneConfig {
        match self {
            Self::MaskRcnn(model) => &model.backbone,
            Self::CascadeMaskRcnn(model) => &model.backbone,
        }
    }

    /// Cost of the whole model for one image of `[height, width]` pixels.
    pub fn complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        match self {
            Self::MaskRcnn(model) => model.for_classes(num_classes).complexity(image),
            Self::CascadeMaskRcnn(model) => model.for_classes(num_classes).complexity(image),
        }
    }

    /// Cost of the forward pass of a training step for one image of `[height, width]` pixels.
    pub fn training_complexity(&self, num_classes: usize, image: [usize; 2]) -> Complexity {
        match self {
            Self::MaskRcnn(model) => model.for_classes(num_classes).training_complexity(image),
            Self::CascadeMaskRcnn(model) => model.for_classes(num_classes).training_complexity(image),
        }
    }

    /// The model with random weights on `device`.
    ///
    /// # Errors
    /// When the options do not fit together.
    pub fn try_init(&self, num_classes: usize, device: &Device) -> Result<AnyDetector> {
        match self {
            Self::MaskRcnn(model) => Ok(AnyDetector::MaskRcnn(model.for_classes(num_classes).try_init(device)?)),
            Self::CascadeMaskRcnn(model) => Ok(AnyDetector::CascadeMaskRcnn(model.for_classes(num_classes).try_init(device)?)),
        }
    }

    /// The model on `device` with the weights of a checkpoint to start training from: a classifier's, or a detector's for any classes, of which
    /// `classes` says how they relate to those of the data.
    ///
    /// # Errors
    /// When the file cannot be read or does not fit.
    pub fn init_from(
        &self,
        num_classes: usize,
        checkpoint: &Checkpoint,
        weights: Weights,
        classes: &ClassRows,
        device: &Device,
    ) -> Result<(AnyDetector, LoadReport)> {
        match self {
            Self::MaskRcnn(model) => {
                let config = model.for_classes(num_classes);
                let (model, report) = config.start_from(config.try_init(device)?, checkpoint, weights, classes)?;
                Ok((AnyDetector::MaskRcnn(model), report))
            }
            Self::CascadeMaskRcnn(model) => {
                let config = model.for_classes(num_classes);
                let (model, report) = config.start_from(config.try_init(device)?, checkpoint, weights, classes)?;
                Ok((AnyDetector::CascadeMaskRcnn(model), report))
            }
        }
    }

    /// The model on `device` with all weights of a set of a checkpoint, to predict.
    ///
    /// # Errors
    /// When the file cannot be read or does not fit.
    pub fn load(
        &self,
        num_classes: usize,
        checkpoint: &Checkpoint,
        weights: Weights,
        device: &Device,
    ) -> Result<(AnyDetector, LoadReport)> {
        match self {
            Self::MaskRcnn(model) => {
                let (model, report) = model.for_classes(num_classes).load_checkpoint(checkpoint, weights, device)?;
                Ok((AnyDetector::MaskRcnn(model), report))
            }
            Self::CascadeMaskRcnn(model) => {
                let (model, report) = model.for_classes(num_classes).load_checkpoint(checkpoint, weights, device)?;
                Ok((AnyDetector::CascadeMaskRcnn(model), report))
            }
        }
    }

    /// The number of classes of a set of weights in a checkpoint; `None` when they are not this detector's.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn num_classes(&self, checkpoint: &Checkpoint, weights: Weights) -> Result<Option<usize>> {
        match self {
            Self::MaskRcnn(_) => Ok(mask_rcnn::num_classes(checkpoint, weights)?),
            Self::CascadeMaskRcnn(_) => Ok(vmamba_cascade::num_classes(checkpoint, weights)?),
        }
    }
}

impl From<MaskRcnnConfig> for DetectionModelConfig {
    fn from(config: MaskRcnnConfig) -> Self {
        Self::MaskRcnn(MaskRcnnModel { backbone: config.backbone, heads: config.heads })
    }
}

impl From<CascadeMaskRcnnConfig> for DetectionModelConfig {
    fn from(config: CascadeMaskRcnnConfig) -> Self {
        Self::CascadeMaskRcnn(CascadeMaskRcnnModel { backbone: config.backbone, heads: config.heads })
    }
}

impl Section for DetectionModelConfig {
    fn validate(&self) -> Result<(), SettingError> {
        rgb_only(self.backbone())?;
        let validated = match self {
            Self::MaskRcnn(model) => model.for_classes(1).validate(),
            Self::CascadeMaskRcnn(model) => model.for_classes(1).validate(),
        };
        validated.map_err(|error| match error {
            DetectorConfigError::Backbone(error) => of_backbone(error),
            DetectorConfigError::Heads(error) => error,
        })
    }
}

impl TryFrom<Map<String, Value>> for DetectionModelConfig {
    type Error = String;

    fn try_from(mut table: Map<String, Value>) -> Result<Self, String> {
        let kind = table.remove("kind").unwrap_or_else(|| json!("mask_rcnn"));
        match kind.as_str() {
            Some("mask_rcnn") => Ok(Self::MaskRcnn(at_path(table)?)),
            Some("cascade_mask_rcnn") => Ok(Self::CascadeMaskRcnn(at_path(table)?)),
            _ => Err(format!("unknown variant `{}`, expected one of `{}`", kind.to_string().trim_matches('"'), Self::KINDS.join("`, `"))),
        }
    }
}

impl From<DetectionModelConfig> for Map<String, Value> {
    fn from(config: DetectionModelConfig) -> Self {
        let fields = match &config {
            DetectionModelConfig::MaskRcnn(model) => serde_json::to_value(model),
            DetectionModelConfig::CascadeMaskRcnn(model) => serde_json::to_value(model),
        };
        let mut table = Self::from_iter([("kind".to_owned(), json!(config.kind()))]);
        // A struct with named fields serialises to an object.
        if let Ok(Value::Object(fields)) = fields.map(without_nulls) {
            table.extend(fields);
        }
        table
    }
}

/// Leaves out options that are `None`, which TOML cannot write.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(fields.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

impl Detector for AnyDetector {
    fn num_classes(&self) -> usize {
        match self {
            Self::MaskRcnn(model) => model.num_classes(),
            Self::CascadeMaskRcnn(model) => model.num_classes(),
        }
    }

    fn fewest_norm_values(&self, image: [usize; 2]) -> Option<usize> {
        match self {
            Self::MaskRcnn(model) => model.fewest_norm_values(image),
            Self::CascadeMaskRcnn(model) => model.fewest_norm_values(image),
        }
    }

    fn size_divisor(&self) -> usize {
        match self {
            Self::MaskRcnn(model) => model.size_divisor(),
            Self::CascadeMaskRcnn(model) => model.size_divisor(),
        }
    }

    fn loss(&self, images: Tensor<4>, truth: &[ImageTruth], choose: &mut dyn Choose) -> DetectionLoss {
        match self {
            Self::MaskRcnn(model) => model.loss(images, truth, choose),
            Self::CascadeMaskRcnn(model) => model.loss(images, truth, choose),
        }
    }

    fn predict(&self, images: Tensor<4>, infos: &[ImageInfo]) -> Result<Vec<Vec<Detection>>, NotFinite> {
        match self {
            Self::MaskRcnn(model) => model.predict(images, infos),
            Self::CascadeMaskRcnn(model) => model.predict(images, infos),
        }
    }

    fn observe(&self, images: Tensor<4>, observe: &mut dyn FnMut(&str, usize, &Tensor<4>)) {
        match self {
            Self::MaskRcnn(model) => model.observe(images, observe),
            Self::CascadeMaskRcnn(model) => model.observe(images, observe),
        }
    }

    fn official_key(path: &str) -> String {
        match path.split_once('.') {
            Some(("MaskRcnn", path)) => MaskRcnn::<Backbone>::official_key(path),
            Some(("CascadeMaskRcnn", path)) => CascadeMaskRcnn::<Backbone>::official_key(path),
            _ => path.to_owned(),
        }
    }
}

/// Whether keys of a checkpoint are a two-stage detector's, one of this crate or another, such as a Faster R-CNN's.
pub fn has_detector_keys<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> bool {
    keys.into_iter().any(|key| ["rpn_head.", "roi_head."].iter().any(|prefix| key.as_ref().starts_with(prefix)))
}

/// The names of the classes of an official checkpoint, which has only their number: COCO's, if there are 80.
pub(super) fn official_classes(
    config: &DetectionModelConfig,
    checkpoint: &Checkpoint,
    weights: Weights,
) -> Result<(vmamba_types::ClassList, bool)> {
    match config.num_classes(checkpoint, weights)? {
        Some(80) => Ok((vision_datasets::coco::classes(), true)),
        Some(count) => Ok((vmamba_types::ClassList::numbered(count), false)),
        None => None.with_context(|| format!("{} holds no weights of a {}", checkpoint.path().display(), config.kind())),
    }
}

#[cfg(test)]
mod tests {
    use vmamba::{Dims, VmambaConfig};
    use vmamba_train::parameters::trainable;

    use super::*;

    #[test]
    fn every_kind_is_read_written_and_saved_with_official_keys() {
        let backbone = BackboneConfig::from(VmambaConfig { depths: vec![1; 4], dims: Dims::Doubling(8), ..VmambaConfig::default() });
        for kind in DetectionModelConfig::KINDS {
            let table = Map::from_iter([("kind".to_owned(), json!(kind)), ("backbone".to_owned(), json!(backbone))]);
            let config = DetectionModelConfig::try_from(table).unwrap();
            assert_eq!(config.kind(), kind);
            assert_eq!(Map::from(config.clone())["kind"], json!(kind));
            let model = config.try_init(3, &Device::flex()).unwrap();
            // Burn's path of a parameter begins with the variant, an official key does not.
            for key in trainable(&model, AnyDetector::official_key).keys() {
                assert!(["backbone.", "neck.", "rpn_head.", "roi_head."].iter().any(|part| key.starts_with(part)), "{kind}: {key}");
            }
        }
    }
}
