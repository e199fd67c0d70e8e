//! The feature pyramid with its gradients, and the logits of a classifier.

use burn::prelude::*;
use vmamba::{FeaturePyramid, official_key};

use super::super::fixtures::FixtureSet;
use super::super::official;
use super::{Compared, load, parts};
use crate::error::{Result, StudyError};

/// Features of every stage, and the gradients of the image and of the parameters.
pub(super) fn pyramid(fixtures: &FixtureSet, name: &str, device: &Device) -> Result<Compared> {
    let (folder, case) = parts(name)?;
    let device = device.clone().autodiff();
    let weights = fixtures.read(folder, "weights")?;
    let config = official::classifier(&weights.manifest["config"])?.config;
    let backbone = load(config.try_init(&device)?, official_key, &weights.with_prefix(""))?;
    let case = fixtures.read(folder, case)?;
    let x = case.tensor::<4>("x", &device)?.require_grad();
    let mut compared = Compared::default();
    let mut loss = Tensor::<1>::zeros([1], &device);
    for (feature, stage) in backbone.forward_features(x.clone()).into_iter().zip(&config.out_indices) {
        loss = loss + (feature.clone() * case.tensor(&format!("grad_feat{stage}"), &device)?).sum();
        compared.tensor(&format!("feat{stage}"), feature, &case)?;
    }
    let gradients = loss.backward();
    compared.gradient("dx", &x, &gradients, &case)?;
    compared.parameters(&backbone, official_key, &gradients, &case)?;
    Ok(compared)
}

/// Logits of every image of the case.
pub(super) fn classifier(fixtures: &FixtureSet, name: &str, device: &Device) -> Result<Compared> {
    let (folder, case) = parts(name)?;
    let case = fixtures.read(folder, case)?;
    let official = official::classifier(&case.manifest["config"])?;
    official.config.validate()?;
    let classes = official.num_classes.ok_or_else(|| StudyError::content(&case.name)("the manifest has no number of classes"))?;
    let classifier = load(official.config.init_classifier(classes, device), official_key, &case.with_prefix("w."))?;
    let mut compared = Compared::default();
    for key in case.keys().filter(|key| key.starts_with("x_")) {
        compared.tensor(&key.replacen("x_", "logits_", 1), classifier.forward(case.tensor(key, device)?), &case)?;
    }
    Ok(compared)
}
