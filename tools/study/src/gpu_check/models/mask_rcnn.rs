//! Mask R-CNN: every stage of prediction on the reference's boxes, and a training step with its losses and gradients.

use burn::prelude::*;
use mask_rcnn::{MaskRcnn, official_key};
use serde_json::Value;
use vision_ops::Roi;
use vmamba::FeaturePyramid;
use vmamba::checkpoint::{Checkpoint, Weights};
use vmamba::zoo::Backbone;
use vmamba_detection::{Choose, Detector, ImageTruth};
use vmamba_types::{BitMask, Instance};
use vmamba_types::{InstanceMask, Rle};

use super::super::fixtures::{Fixture, FixtureSet};
use super::super::official;
use super::{Compared, load};
use crate::error::{Result, StudyError};

/// The model with the official weights, which the fixtures hold as tensors or as a checkpoint.
fn model(fixtures: &FixtureSet, device: &Device) -> Result<MaskRcnn<Backbone>> {
    let document = fixtures.manifest("maskrcnn", "weights")?;
    let train = fixtures.manifest("maskrcnn", "train")?;
    let config = official::mask_rcnn(&document["model_config"], &train["train_cfg"])?;
    config.validate().map_err(StudyError::content("the configuration in the manifest"))?;
    let tensors = fixtures.path("maskrcnn/weights.safetensors");
    let path = if tensors.exists() { tensors } else { fixtures.path("pth/maskrcnn_mmdet.pth") };
    let weights = Checkpoint::read(&path).and_then(|file| file.state_dict(Weights::Validated))?;
    load(config.init(device), official_key, &weights)
}

/// RoIs from rows of image index and box.
fn rois(case: &Fixture, key: &str) -> Result<Vec<Roi>> {
    let roi = |[image, x0, y0, x1, y1]: [f32; 5]| Roi { image: image as usize, bbox: [x0, y0, x1, y1] };
    Ok(case.rows(key)?.into_iter().map(roi).collect())
}

/// Features, FPN levels and RPN outputs; then the heads on given boxes, so that each stage is compared alone.
pub(super) fn stages(fixtures: &FixtureSet, _name: &str, device: &Device) -> Result<Compared> {
    let model = model(fixtures, device)?;
    let case = fixtures.read("maskrcnn", "stages")?;
    let mut compared = Compared::default();
    let features = model.backbone.forward_features(case.tensor("batch_input", device)?);
    for (level, feature) in features.iter().enumerate() {
        compared.tensor(&format!("feat{level}"), feature.clone(), &case)?;
    }
    let levels = model.neck.forward(features);
    let rpn = model.rpn_head.forward(&levels);
    for (level, ((map, scores), deltas)) in levels.iter().zip(&rpn.objectness).zip(&rpn.deltas).enumerate() {
        compared.tensor(&format!("fpn{level}"), map.clone(), &case)?;
        compared.tensor(&format!("rpn_cls{level}"), scores.clone(), &case)?;
        compared.tensor(&format!("rpn_bbox{level}"), deltas.clone(), &case)?;
    }

    let all = rois(&case, "rois")?;
    let output = model.roi_head.boxes(&levels, &all);
    compared.tensor("bbox_cls_score", output.logits, &case)?;
    compared.tensor("bbox_pred", output.deltas, &case)?;
    let selected = case.indices("sel_rois_index")?.into_iter().map(|index| all.get(index).copied());
    let selected: Vec<Roi> =
        selected.collect::<Option<_>>().ok_or_else(|| StudyError::content(&case.name)("`sel_rois_index` exceeds `rois`"))?;
    compared.tensor("bbox_feats_sel", model.roi_head.box_features(&levels, &selected), &case)?;
    let count = case.get("mask_feats_sel")?.shape.first().copied().unwrap_or(0);
    let some = selected.get(..count).ok_or_else(|| StudyError::content(&case.name)("more masks than selected RoIs"))?;
    let features = model.roi_head.mask_features(&levels, some);
    compared.tensor("mask_feats_sel", features.clone(), &case)?;
    compared.tensor("mask_logits_sel", model.roi_head.mask_head.forward(features), &case)?;

    // Boxes that the RoI extractor assigns to every level.
    let fixed = rois(&case, "fixed_rois")?;
    let features = model.roi_head.box_features(&levels, &fixed);
    compared.tensor("fixed_bbox_feats", features.clone(), &case)?;
    let output = model.roi_head.bbox_head.forward(features);
    compared.tensor("fixed_cls_score", output.logits, &case)?;
    compared.tensor("fixed_bbox_pred", output.deltas, &case)?;
    let features = model.roi_head.mask_features(&levels, &fixed);
    compared.tensor("fixed_mask_feats", features.clone(), &case)?;
    compared.tensor("fixed_mask_logits", model.roi_head.mask_head.forward(features), &case)?;
    Ok(compared)
}

/// The sampler of the case: evenly strided over the candidates.
struct Strided;

impl Choose for Strided {
    fn choose(&mut self, candidates: &[usize], count: usize) -> Vec<usize> {
        (0..count).map(|i| candidates[i * candidates.len() / count]).collect()
    }
}

/// Losses and gradients of a training step.
pub(super) fn training_step(fixtures: &FixtureSet, _name: &str, device: &Device) -> Result<Compared> {
    let device = device.clone().autodiff();
    let model = model(fixtures, &device)?;
    let case = fixtures.read("maskrcnn", "train")?;
    let loss = model.loss(case.tensor("batch_input", &device)?, &truths(&case)?, &mut Strided);
    let scalar = |t: &Tensor<1>| f64::from(t.clone().into_scalar::<f32>());
    let mut compared = Compared::default();
    let expected: &Value = &case.manifest["losses"];
    compared.scalar("loss", scalar(&loss.total), official::number_of(expected, "loss")?)?;
    for (name, term) in &loss.parts {
        compared.scalar(name, scalar(term), official::number_of(expected, name)?)?;
    }
    compared.parameters(&model, official_key, &loss.total.backward(), &case)?;
    Ok(compared)
}

/// The ground truth of each image.
fn truths(case: &Fixture) -> Result<Vec<ImageTruth>> {
    let mut truths = Vec::new();
    for image in 0.. {
        let boxes = format!("gt_boxes{image}");
        if !case.keys().any(|key| key == boxes) {
            break;
        }
        let bitmaps = case.get(&format!("gt_bitmaps{image}"))?;
        let [_, height, width] = bitmaps.shape[..] else {
            return Err(StudyError::content(&case.name)(format!("`gt_bitmaps{image}` has the shape {:?}", bitmaps.shape)));
        };
        let objects = case.rows::<4>(&boxes)?.into_iter().zip(case.indices(&format!("gt_labels{image}"))?);
        let instance = |((bbox, category), bits): (([f32; 4], usize), &[f32])| {
            let bits = BitMask::new(height, width, bits.iter().map(|bit| *bit != 0.0).collect());
            Instance { bbox, category, crowd: false, mask: Some(InstanceMask::from_rle(Rle::from_bits(&bits))) }
        };
        let instances = objects.zip(bitmaps.data.chunks_exact((height * width).max(1))).map(instance).collect();
        truths.push(ImageTruth { size: [height, width], instances, crowds: Vec::new() });
    }
    Ok(truths)
}
