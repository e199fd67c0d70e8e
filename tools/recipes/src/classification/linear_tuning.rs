//! Linear tuning: trains the last layer of a frozen classifier for another image size, with the protocol of VMamba's resolution study
//! (`analyze/clseval.py`).
//!
//! The pooled features of all images are computed once, with the test transforms and without augmentation. One linear layer, initialised with
//! the trained head, is trained on them: cross entropy, SGD with momentum 0.9 and no weight decay, 30 epochs of batches of 4096 (the
//! incomplete last batch is dropped), a learning rate that falls to 0 along a cosine. As published, the report gives the best epoch *on the
//! validation images*, which is slightly optimistic; it also gives the last epoch.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use burn::prelude::*;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Distribution, TensorData};
use serde::Serialize;
use vision_datasets::imagenet::ImageFolder;
use vision_datasets::loader::shuffled;
use vmamba::zoo::{Classifier, LinearHead};

use super::evaluate::{Feed, for_each_batch};
use super::report::{Counts, Skipped};

/// Momentum of the protocol.
const MOMENTUM: f64 = 0.9;

/// Standard deviation of random initial weights.
const REINIT_DEVIATION: f64 = 0.01;

/// Rows of features in a batch of the validation.
const CHUNK: usize = 4096;

/// How a head is trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TuningConfig {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images in a step; all of them where there are fewer.
    pub batch_size: usize,
    /// Initial learning rate.
    pub lr: f64,
    /// Starts from random weights instead of the trained head.
    pub reinit: bool,
    /// Seed of the order of the images and of random weights.
    pub seed: u64,
}

/// The published initial learning rate for images of `size` pixels; for other sizes, that of the next smaller published size.
pub fn published_lr(size: usize) -> f64 {
    match size {
        ..512 => 0.05,
        512..640 => 0.2,
        640.. => 0.5,
    }
}

/// Pooled features of a data set.
#[derive(Clone, Debug)]
pub struct FeatureTable {
    /// `[images, features]`, float32.
    pub features: Tensor<2>,
    /// The class of every row.
    pub labels: Vec<usize>,
    /// Images that could not be read.
    pub skipped: Vec<Skipped>,
}

/// The figures of an epoch. Accuracies are shares of 1 on the validation images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TuningEpoch {
    /// The epoch, from 1; 0 is the head before training.
    pub epoch: usize,
    /// Mean cross entropy over the steps of the epoch; none before training.
    pub loss: Option<f64>,
    /// Top-1 accuracy.
    pub top1: f64,
    /// Top-5 accuracy.
    pub top5: f64,
}

/// The figures of linear tuning.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TuningReport {
    /// How the head was trained.
    pub config: TuningConfig,
    /// Number of training images.
    pub train_images: usize,
    /// Training images that could not be read.
    pub train_skipped: Vec<Skipped>,
    /// Images in a step.
    pub batch_size: usize,
    /// The head before training.
    pub before: TuningEpoch,
    /// The epoch with the highest top-1 accuracy; ties rank the earlier epoch first.
    pub best: TuningEpoch,
    /// The last epoch.
    pub last: TuningEpoch,
    /// All epochs.
    pub epochs: Vec<TuningEpoch>,
}

/// Computes the pooled features of all readable images and keeps them in memory as float32. `progress` is called with the number of images
/// since its last call.
///
/// # Errors
/// When a feature is NaN or infinite, or no image can be read.
pub fn extract_features(model: &Classifier, data: &Arc<ImageFolder>, feed: &Feed, progress: &dyn Fn(u64)) -> Result<FeatureTable> {
    let (mut values, mut labels, mut width) = (Vec::new(), Vec::new(), 0);
    let skipped = for_each_batch(data, feed, progress, |images, batch| {
        let features = model.features(images);
        width = features.dims()[1];
        let begin = values.len();
        values.extend(features.into_data().iter::<f32>());
        if let Some(at) = values.iter().skip(begin).position(|value| !value.is_finite()) {
            bail!("the features of {} are not finite", batch.name(data, at / width.max(1)));
        }
        labels.extend(&batch.labels);
        Ok(())
    })?;
    let features = Tensor::from_data(TensorData::new(values, [labels.len(), width]), &feed.device);
    Ok(FeatureTable { features, labels, skipped })
}

/// Trains the last layer of `model` on the features `train`. `each` is called after every epoch with its accuracy on `val`. Training is
/// deterministic.
///
/// # Errors
/// When the settings give no step, or the loss is NaN or infinite.
pub fn tune_head(
    model: &Classifier,
    train: FeatureTable,
    val: &FeatureTable,
    config: &TuningConfig,
    mut each: impl FnMut(&TuningEpoch),
) -> Result<TuningReport> {
    let head = model.head();
    let device = train.features.device();
    let images = train.labels.len();
    let batch_size = config.batch_size.min(images);
    let steps = images.checked_div(batch_size).unwrap_or(0);
    if steps == 0 || config.epochs == 0 {
        bail!("linear tuning has no step to take: {images} images in batches of {}, {} epochs", config.batch_size, config.epochs);
    }
    let mut layer = Layer::new(head, config, &device);
    let before = layer.evaluate(val, 0, None)?;
    let total = (steps * config.epochs) as f64;
    let mut epochs = Vec::with_capacity(config.epochs);
    for epoch in 0..config.epochs {
        let order = shuffled(images, config.seed, epoch as u64);
        let mut loss = Tensor::<1>::zeros([1], &device);
        for (step, rows) in order.chunks_exact(batch_size).enumerate() {
            let progress = (epoch * steps + step) as f64 / total;
            let lr = config.lr * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
            loss = loss + layer.step(&train, rows, lr, &device);
        }
        let loss = f64::from(loss.into_scalar::<f32>()) / steps as f64;
        if !loss.is_finite() {
            bail!("the loss of epoch {} is not finite; lower the learning rate of {}", epoch + 1, config.lr);
        }
        let figures = layer.evaluate(val, epoch + 1, Some(loss))?;
        each(&figures);
        epochs.push(figures);
    }
    let best = epochs.iter().copied().fold(None, |best: Option<TuningEpoch>, epoch| match best {
        Some(best) if best.top1 >= epoch.top1 => Some(best),
        _ => Some(epoch),
    });
    let (Some(best), Some(last)) = (best, epochs.last().copied()) else { bail!("linear tuning ran no epoch") };
    Ok(TuningReport { config: config.clone(), train_images: images, train_skipped: train.skipped, batch_size, before, best, last, epochs })
}

/// The trained layer and the momentum of its parameters. The gradient of one linear layer is computed explicitly, without autodiff.
struct Layer {
    num_classes: usize,
    /// `[num_classes, features]`
    weight: [Tensor<2>; 2],
    /// `[1, num_classes]`
    bias: [Tensor<2>; 2],
}

impl Layer {
    fn new(head: LinearHead, config: &TuningConfig, device: &Device) -> Self {
        let [num_classes, width] = head.weight.dims();
        let none = Tensor::zeros([1, num_classes], device);
        let (weight, bias) = if config.reinit {
            device.seed(config.seed);
            (Tensor::random([num_classes, width], Distribution::Normal(0.0, REINIT_DEVIATION), device), none.clone())
        } else {
            (head.weight, head.bias.map_or_else(|| none.clone(), |bias| bias.reshape([1, num_classes])))
        };
        Self { num_classes, weight: [weight, Tensor::zeros([num_classes, width], device)], bias: [bias, none] }
    }

    /// `[batch, features]` to `[batch, num_classes]`.
    fn logits(&self, features: Tensor<2>) -> Tensor<2> {
        vision_ops::matmul(features, self.weight[0].clone().transpose()) + self.bias[0].clone()
    }

    /// Takes a step on a batch of rows; returns its mean cross entropy.
    fn step(&mut self, table: &FeatureTable, rows: &[usize], lr: f64, device: &Device) -> Tensor<1> {
        let integers = |values: Vec<i64>| Tensor::<1, Int>::from_data(TensorData::new(values, [rows.len()]), device);
        let labels = rows.iter().map(|row| table.labels.get(*row).map_or(0, |label| *label as i64)).collect();
        let features = table.features.clone().select(0, integers(rows.iter().map(|row| *row as i64).collect()));
        let truth: Tensor<2> = integers(labels).one_hot::<2>(self.num_classes).float();
        let log_shares = log_softmax(self.logits(features.clone()), 1);
        let loss = (log_shares.clone() * truth.clone()).sum().neg() / rows.len() as f64;
        let slope = (log_shares.exp() - truth) / rows.len() as f64;
        update(&mut self.weight, vision_ops::matmul(slope.clone().transpose(), features), lr);
        update(&mut self.bias, slope.sum_dim(0), lr);
        loss
    }

    fn evaluate(&self, table: &FeatureTable, epoch: usize, loss: Option<f64>) -> Result<TuningEpoch> {
        let mut counts = Counts::new(self.num_classes);
        for (chunk, labels) in table.labels.chunks(CHUNK).enumerate() {
            let rows = chunk * CHUNK..chunk * CHUNK + labels.len();
            let logits: Vec<f32> = self.logits(table.features.clone().slice(rows)).into_data().iter::<f32>().collect();
            counts.add(&logits, labels).map_err(|_| anyhow!("the logits after epoch {epoch} are not finite"))?;
        }
        let [top1, top5] = counts.accuracy();
        Ok(TuningEpoch { epoch, loss, top1, top5 })
    }
}

/// SGD with momentum as in PyTorch: the learning rate does not enter the momentum.
fn update([value, momentum]: &mut [Tensor<2>; 2], gradient: Tensor<2>, lr: f64) {
    *momentum = momentum.clone() * MOMENTUM + gradient;
    *value = value.clone() - momentum.clone() * lr;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rates_are_those_of_the_protocol() {
        let published = [(224, 0.05), (288, 0.05), (384, 0.05), (512, 0.2), (640, 0.5), (768, 0.5), (1024, 0.5)];
        for (size, lr) in published {
            assert_eq!(published_lr(size), lr, "{size}");
        }
    }

    #[test]
    fn a_step_is_that_of_sgd_on_the_cross_entropy() {
        let device = Device::flex();
        let table = FeatureTable {
            features: Tensor::from_floats([[1.0, -2.0], [0.5, 3.0], [2.0, 0.25]], &device),
            labels: vec![2, 0, 1],
            skipped: Vec::new(),
        };
        let config = TuningConfig { epochs: 1, batch_size: 3, lr: 1.0, reinit: false, seed: 0 };
        let weight = [[0.1, 0.2], [-0.3, 0.4], [0.5, -0.6]];
        let layer =
            |weight: [[f32; 2]; 3]| Layer::new(LinearHead { weight: Tensor::from_floats(weight, &device), bias: None }, &config, &device);
        let values = |tensor: &Tensor<2>| tensor.to_data().iter::<f32>().collect::<Vec<_>>();
        let mut trained = layer(weight);
        trained.step(&table, &[0, 1, 2], 0.1, &device);
        let gradient = values(&trained.weight[1]);
        for (at, found) in gradient.iter().enumerate() {
            let shifted = |by: f32| {
                let mut weight = weight;
                weight[at / 2][at % 2] += by;
                layer(weight).step(&table, &[0, 1, 2], 0.0, &device).into_scalar::<f32>()
            };
            let difference = (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
            assert!((difference - found).abs() < 1e-3, "{at}: {difference} {found}");
        }
        let first = values(&trained.weight[0]);
        for ((new, old), slope) in first.iter().zip(weight.as_flattened()).zip(&gradient) {
            assert!((old - 0.1 * slope - new).abs() < 1e-6);
        }
        trained.step(&table, &[0, 1, 2], 0.1, &device);
        for ((new, old), momentum) in values(&trained.weight[0]).iter().zip(&first).zip(values(&trained.weight[1])) {
            assert!((old - 0.1 * momentum - new).abs() < 1e-6);
        }
    }
}
