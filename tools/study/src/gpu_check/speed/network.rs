//! A classifier of ours on random images, ready to be run again and again.

use anyhow::{Result, bail};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::prelude::*;
use burn::tensor::{Distribution, FloatDType};
use vmamba::{Preset, VmambaClassifier};

use crate::gpu_check::numerics::values;
use vmamba_train::precision::Precision;

/// What a network is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gpu_check) enum Purpose {
    /// The forward pass.
    Inference,
    /// Forward pass, cross entropy, backward pass, update by AdamW.
    Training,
}

/// The number of classes of ImageNet.
const CLASSES: usize = 1000;
const LEARNING_RATE: f64 = 1e-4;

/// A classifier with random weights, images and labels.
pub(in crate::gpu_check) struct Network {
    images: Tensor<4>,
    model: Option<VmambaClassifier>,
    training: Option<Training>,
    /// Logits or loss of the last run.
    last: Option<Tensor<1>>,
}

struct Training {
    labels: Tensor<1, Int>,
    loss: CrossEntropyLoss,
    optimizer: ModuleOptimizer,
}

impl Network {
    pub(in crate::gpu_check) fn new(
        preset: Preset,
        purpose: Purpose,
        precision: Precision,
        batch: usize,
        side: usize,
        device: &Device,
    ) -> Self {
        let device = if purpose == Purpose::Training { device.clone().autodiff() } else { device.clone() };
        device.seed(0);
        let model = Some(preset.config().init_classifier(CLASSES, &device));
        let images = Tensor::<4>::random([batch, 3, side, side], Distribution::Normal(0.0, 1.0), &device).cast(precision.dtype());
        let training = (purpose == Purpose::Training).then(|| Training {
            labels: Tensor::<1, Int>::arange(0..batch as i64, &device).remainder_scalar(CLASSES as i64),
            loss: CrossEntropyLossConfig::new().init(&device),
            optimizer: AdamWConfig::new().with_weight_decay(0.05).with_epsilon(1e-8).init(),
        });
        Self { images, model, training, last: None }
    }

    /// One forward pass or training step. The device may still be at work when it returns.
    pub(in crate::gpu_check) fn run(&mut self) {
        // Only a step that was interrupted by an error takes the model away, and nothing is run after that.
        let Some(model) = self.model.take() else { return };
        let logits = model.forward(self.images.clone()).cast(FloatDType::F32);
        let Some(training) = &mut self.training else {
            self.last = Some(logits.flatten(0, 1));
            self.model = Some(model);
            return;
        };
        let loss = training.loss.forward(logits, training.labels.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        self.last = Some(loss.detach());
        self.model = Some(training.optimizer.step(LEARNING_RATE, model, gradients));
    }

    /// Reads what the last run computed.
    ///
    /// # Errors
    /// When the device failed to compute it, or it is no number.
    pub(in crate::gpu_check) fn check(self) -> Result<()> {
        let Some(last) = self.last else { bail!("it was not run") };
        if self.model.is_none() {
            bail!("a training step was interrupted");
        }
        if values(last)?.iter().all(|value| value.is_finite()) { Ok(()) } else { bail!("the result has values that are no numbers") }
    }
}
