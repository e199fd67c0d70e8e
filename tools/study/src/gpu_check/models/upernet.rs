//! UperNet: every stage of the heads, the losses, and a training step with its gradients.

use burn::prelude::*;
use burn::tensor::TensorData;
use serde_json::Value;
use upernet::{SegmentationLoss, Segmentor, UperNet, official_key};
use vmamba::FeaturePyramid;
use vmamba::zoo::Backbone;

use super::super::fixtures::{Fixture, FixtureSet};
use super::super::official;
use super::{Compared, load};
use crate::error::{Result, StudyError};

fn model(fixtures: &FixtureSet, device: &Device) -> Result<UperNet<Backbone>> {
    let weights = fixtures.read("upernet", "weights")?;
    let config = official::upernet(&weights.manifest["model_config"])?;
    config.validate().map_err(StudyError::content("the configuration in the manifest"))?;
    load(config.init(device), official_key, &weights.with_prefix(""))
}

/// The tensor `batch_gt`, `[batch, 1, height, width]`, as labels `[batch, height, width]`.
fn labels(case: &Fixture, device: &Device) -> Result<Tensor<3, Int>> {
    let labels = case.get("batch_gt")?;
    let [batch, .., height, width] = labels.shape[..] else {
        return Err(StudyError::content(&case.name)(format!("`batch_gt` has the shape {:?}", labels.shape)));
    };
    let values: Vec<i64> = labels.data.iter().map(|label| *label as i64).collect();
    Ok(Tensor::from_data(TensorData::new(values, [batch, height, width]), device))
}

/// Features, the output of every convolution of the heads, logits, and losses in evaluation mode.
pub(super) fn stages(fixtures: &FixtureSet, _name: &str, device: &Device) -> Result<Compared> {
    let model = model(fixtures, device)?;
    let case = fixtures.read("upernet", "stages_eval")?;
    let mut compared = Compared::default();
    let images = case.tensor::<4>("batch_input", device)?;
    let features = model.backbone.forward_features(images.clone());
    for (level, feature) in features.iter().enumerate() {
        compared.tensor(&format!("feat{level}"), feature.clone(), &case)?;
    }
    let mut stages = Vec::new();
    let logits = model.decode_head.forward_observed(features.clone(), |name, stage| stages.push((name.to_owned(), stage.clone())));
    for (name, stage) in stages {
        compared.tensor(&format!("stage.decode_head.{name}"), stage, &case)?;
    }
    compared.tensor("logits", logits, &case)?;
    let auxiliary = model.auxiliary_head.as_ref().ok_or_else(|| StudyError::content(&case.name)("no auxiliary head"))?;
    let feature = features
        .get(auxiliary.in_index())
        .ok_or_else(|| StudyError::content(&case.name)("the level of the auxiliary head does not exist"))?;
    compared.tensor("aux_logits", auxiliary.forward(feature.clone()), &case)?;
    let loss = model.loss(images, labels(&case, device)?);
    losses(&mut compared, &loss, &case.manifest["losses_eval_mode"])?;
    Ok(compared)
}

/// Losses and gradients of a training step.
pub(super) fn training_step(fixtures: &FixtureSet, _name: &str, device: &Device) -> Result<Compared> {
    let device = device.clone().autodiff();
    let model = model(fixtures, &device)?;
    let case = fixtures.read("upernet", "train")?;
    // Both cases have the same batch.
    let batch = fixtures.read("upernet", "stages_eval")?;
    let loss = model.loss(batch.tensor("batch_input", &device)?, labels(&batch, &device)?);
    let mut compared = Compared::default();
    losses(&mut compared, &loss, &case.manifest["losses"])?;
    compared.parameters(&model, official_key, &loss.total.backward(), &case)?;
    Ok(compared)
}

fn losses(compared: &mut Compared, loss: &SegmentationLoss, expected: &Value) -> Result<()> {
    let scalar = |term: &Tensor<1>| f64::from(term.clone().into_scalar::<f32>());
    for (name, term) in &loss.parts {
        compared.scalar(name, scalar(term), official::number_of(expected, name)?)?;
    }
    // Only the manifest of the training step has the total.
    match expected["loss"].as_f64() {
        Some(expected) => compared.scalar("loss", scalar(&loss.total), expected),
        None => Ok(()),
    }
}
