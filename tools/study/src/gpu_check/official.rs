//! Reads configurations of mmsegmentation and mmdetection from the manifests of fixtures. Dropout and stochastic depth are off, as in all
//! cases.

use mask_rcnn::{HeadsConfig, MaskRcnnConfig};
use serde_json::Value;
use upernet::{FcnHeadConfig, UperHeadConfig, UperNetConfig};
use vmamba::{OfficialConfig, VmambaConfig};
use vmamba_detection::{AnchorConfig, MaxIouAssigner, ProposalConfig, RandomSampler};

use crate::error::{Result, StudyError};

/// An error in a manifest.
fn manifest(reason: String) -> StudyError {
    StudyError::content("the manifest")(reason)
}

/// A field by its path, such as `decode_head.channels`.
fn field<'a>(value: &'a Value, path: &str) -> Result<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name)).ok_or_else(|| manifest(format!("no `{path}`")))
}

/// A whole number.
fn size(value: &Value, path: &str) -> Result<usize> {
    let number = field(value, path)?;
    number.as_u64().map(|number| number as usize).ok_or_else(|| manifest(format!("`{path}` is {number}, not a size")))
}

/// A number.
fn number(value: &Value, path: &str) -> Result<f64> {
    let number = field(value, path)?;
    number.as_f64().ok_or_else(|| manifest(format!("`{path}` is {number}, not a number")))
}

/// A number by a name that may contain dots.
pub(super) fn number_of(value: &Value, name: &str) -> Result<f64> {
    value.get(name).and_then(Value::as_f64).ok_or_else(|| manifest(format!("no number `{name}`")))
}

/// A list of numbers.
fn numbers(value: &Value, path: &str) -> Result<Vec<f64>> {
    let list = field(value, path)?;
    let numbers = list.as_array().map(|list| list.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>());
    numbers.flatten().ok_or_else(|| manifest(format!("`{path}` is {list}, not a list of numbers")))
}

/// The backbone from the arguments of `MM_VSSM`.
fn backbone(model: &Value) -> Result<VmambaConfig> {
    // The official configurations have leftover options of Swin, which the official model ignores and ours refuses.
    let known = serde_json::to_value(VmambaConfig::official_defaults()).map_err(StudyError::content("the default options"))?;
    let arguments = field(model, "backbone")?.as_object().cloned();
    let mut arguments = arguments.ok_or_else(|| manifest("`backbone` is not an object".to_owned()))?;
    arguments.retain(|key, _| key == "forward_type" || known.get(key).is_some());
    classifier(&Value::Object(arguments)).map(|official| official.config)
}

/// The configuration of a classifier or of a backbone alone.
pub(super) fn classifier(arguments: &Value) -> Result<OfficialConfig> {
    let mut official = OfficialConfig::parse(arguments).map_err(|error| manifest(format!("config: {error}")))?;
    official.config.drop_path_rate = 0.0;
    Ok(official)
}

/// UperNet from mmsegmentation's `model`.
pub(super) fn upernet(model: &Value) -> Result<UperNetConfig> {
    let scales = numbers(model, "decode_head.pool_scales")?;
    Ok(UperNetConfig {
        backbone: backbone(model)?.into(),
        num_classes: size(model, "decode_head.num_classes")?,
        head: UperHeadConfig {
            channels: size(model, "decode_head.channels")?,
            pool_scales: scales.into_iter().map(|scale| scale as usize).collect(),
            dropout: 0.0,
        },
        auxiliary: Some(FcnHeadConfig {
            in_index: size(model, "auxiliary_head.in_index")?,
            channels: size(model, "auxiliary_head.channels")?,
            num_convs: size(model, "auxiliary_head.num_convs")?,
            dropout: 0.0,
            loss_weight: number(model, "auxiliary_head.loss_decode.loss_weight")?,
        }),
    })
}

fn assigner(config: &Value, path: &str) -> Result<MaxIouAssigner> {
    let at = |name: &str| number(config, &format!("{path}.{name}")).map(|number| number as f32);
    Ok(MaxIouAssigner {
        positive: at("pos_iou_thr")?,
        negative: at("neg_iou_thr")?,
        minimum: at("min_pos_iou")?,
        match_low_quality: field(config, &format!("{path}.match_low_quality"))? == &Value::Bool(true),
        ignore_crowd: Some(at("ignore_iof_thr")?).filter(|share| *share > 0.0),
    })
}

fn sampler(config: &Value, path: &str) -> Result<RandomSampler> {
    Ok(RandomSampler { num: size(config, &format!("{path}.num"))?, positive_fraction: number(config, &format!("{path}.pos_fraction"))? })
}

fn proposals(config: &Value, path: &str) -> Result<ProposalConfig> {
    Ok(ProposalConfig {
        nms_pre: size(config, &format!("{path}.nms_pre"))?,
        max_per_image: size(config, &format!("{path}.max_per_img"))?,
        nms_threshold: number(config, &format!("{path}.nms.iou_threshold"))? as f32,
        min_size: number(config, &format!("{path}.min_bbox_size"))? as f32,
    })
}

/// Mask R-CNN from mmdetection's `model` and `train_cfg`. The selection of detections keeps its defaults.
pub(super) fn mask_rcnn(model: &Value, train: &Value) -> Result<MaskRcnnConfig> {
    let mut heads = HeadsConfig::default();
    heads.fpn.channels = size(model, "neck.out_channels")?;
    heads.fpn.levels = size(model, "neck.num_outs")?;
    let floats = |path: &str| numbers(model, path).map(|list| list.into_iter().map(|number| number as f32).collect());
    heads.anchors =
        AnchorConfig { scales: floats("rpn_head.anchor_generator.scales")?, ratios: floats("rpn_head.anchor_generator.ratios")? };
    heads.rpn.channels = size(model, "rpn_head.feat_channels")?;
    heads.rpn.assigner = assigner(train, "rpn.assigner")?;
    heads.rpn.sampler = sampler(train, "rpn.sampler")?;
    heads.rpn.train = proposals(train, "rpn_proposal")?;
    heads.roi.assigner = assigner(train, "rcnn.assigner")?;
    heads.roi.sampler = sampler(train, "rcnn.sampler")?;
    heads.box_head.channels = size(model, "roi_head.bbox_head.fc_out_channels")?;
    heads.box_head.roi_size = size(model, "roi_head.bbox_head.roi_feat_size")?;
    heads.mask_head.num_convs = size(model, "roi_head.mask_head.num_convs")?;
    heads.mask_head.channels = size(model, "roi_head.mask_head.conv_out_channels")?;
    heads.mask_head.roi_size = size(model, "roi_head.mask_roi_extractor.roi_layer.output_size")?;
    Ok(MaskRcnnConfig { backbone: backbone(model)?.into(), num_classes: size(model, "roi_head.bbox_head.num_classes")?, heads })
}
