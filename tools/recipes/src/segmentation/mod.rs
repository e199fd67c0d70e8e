//! Semantic segmentation: the recipe that trains a segmentor.

pub mod config;
pub mod evaluate;
pub mod load;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use burn::prelude::*;
use burn::tensor::TensorData;
use upernet::{UperNet, UperNetConfig, official_key};
use vision_datasets::ade20k::IouReport;
use vision_datasets::loader::{Batch, LoaderConfig, TrainLoader};
use vision_datasets::sample::SegmentationDataset;
use vmamba::FeaturePyramid;
use vmamba::checkpoint::LoadReport;
use vmamba::complexity::Complexity;
use vmamba::zoo::Backbone;
use vmamba_train::guard::is_finite;
use vmamba_train::optimizer::Groups;
use vmamba_train::{BatchOrder, Batches, BoxError, KeyMap, Precision, Recipe, Scalars, StepContext, StepLoss, TrainConfig};

pub use config::{SegmentationConfig, SegmentationTask, TASK};
pub use evaluate::{Predictor, SegmentationEvaluation};
pub use load::{LoadedSegmentor, load_segmentor};

use crate::configured::Configured;
use crate::split::Split;

/// Training of a segmentor.
pub struct Segmentation {
    config: SegmentationConfig,
    train: Arc<dyn SegmentationDataset>,
    val: Arc<dyn SegmentationDataset>,
    report: Mutex<Option<IouReport>>,
}

impl Segmentation {
    /// Trains on `train` and validates on `val`, which must have the same classes, as `config` says. The configuration's `data.source` is
    /// not opened.
    pub fn new(train: Arc<dyn SegmentationDataset>, val: Arc<dyn SegmentationDataset>, config: SegmentationConfig) -> Self {
        Self { config, train, val, report: Mutex::new(None) }
    }

    /// The configuration of the model for these data.
    pub fn model_config(&self) -> UperNetConfig {
        self.config.model.for_classes(self.train.classes().len())
    }

    /// The validation set.
    pub fn validation(&self) -> &Arc<dyn SegmentationDataset> {
        &self.val
    }

    /// The figures of the newest validation.
    pub fn newest_report(&self) -> Option<IouReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Predicts as the validation does.
    pub fn predictor<'a>(&'a self, model: &'a UperNet<Backbone>, device: &'a Device) -> Predictor<'a> {
        let (pipeline, test) = (&self.config.data.test, &self.config.test);
        Predictor { model, device, pipeline, test, augment: false, precision: Precision::Float32 }
    }
}

/// The images of a batch, `[batch, 3, height, width]`.
fn images(batch: &Batch, device: &Device) -> Tensor<4> {
    let [height, width] = batch.size;
    Tensor::from_data(TensorData::new(batch.images.clone(), [batch.len, 3, height, width]), device)
}

impl Recipe for Segmentation {
    type Model = UperNet<Backbone>;
    type Batch = Batch;

    fn samples(&self) -> usize {
        self.train.len()
    }

    fn batches(&self, order: BatchOrder) -> Batches<'_, Batch> {
        let workers = self.config.data.workers;
        let loader = LoaderConfig { batch_size: order.batch_size, seed: order.seed, workers, ahead: 2 * workers };
        let batches = TrainLoader::new(Arc::clone(&self.train), self.config.data.train.clone(), loader, order.first);
        Box::new(batches.map(|batch| batch.map_err(BoxError::from)))
    }

    fn loss(&self, model: &UperNet<Backbone>, batch: &Batch, context: &StepContext) -> StepLoss {
        let [height, width] = batch.size;
        let images = context.precision.input(images(batch, &context.device));
        let labels: Vec<i64> = batch.labels.iter().map(|label| i64::from(*label)).collect();
        let labels = Tensor::<3, Int>::from_data(TensorData::new(labels, [batch.len, height, width]), &context.device);
        let loss = model.loss(images, labels);
        let scalar = |t: &Tensor<1>| f64::from(t.clone().into_scalar::<f32>());
        let mut parts = vec![("decode.loss_ce".to_owned(), scalar(&loss.decode_ce)), ("decode.acc_seg".to_owned(), loss.decode_accuracy)];
        if let (Some(ce), Some(accuracy)) = (&loss.auxiliary_ce, loss.auxiliary_accuracy) {
            parts.extend([("aux.loss_ce".to_owned(), scalar(ce)), ("aux.acc_seg".to_owned(), accuracy)]);
        }
        StepLoss { total: loss.total, parts }
    }

    fn validate(&self, model: &UperNet<Backbone>, device: &Device) -> Result<Scalars, BoxError> {
        let report = self.predictor(model, device).evaluate(&self.val, self.config.data.workers, |_, _, _| Ok(()))?.report;
        let figures = [("mIoU", report.mean_iou), ("mAcc", report.mean_accuracy), ("aAcc", report.all_accuracy)];
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        Ok(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn keys(&self) -> KeyMap {
        official_key
    }

    fn parameter_groups(&self) -> Groups {
        Arc::new(self.config.model.backbone.clone())
    }

    fn sample_names(&self, batch: &Batch) -> Vec<String> {
        batch.names.clone()
    }

    fn first_non_finite_module(&self, model: &UperNet<Backbone>, batch: &Batch, context: &StepContext) -> Option<String> {
        let images = context.precision.input(images(batch, &context.device));
        if !is_finite(&images) {
            return Some("the images".to_owned());
        }
        let features = model.backbone.forward_features(images);
        if let Some(level) = features.iter().position(|level| !is_finite(level)) {
            return Some(format!("backbone, output {level}"));
        }
        let mut first = None;
        let logits = model.decode_head.forward_observed(features, |name, x| {
            if first.is_none() && !is_finite(x) {
                first = Some(format!("decode_head.{name}"));
            }
        });
        first.or_else(|| (!is_finite(&logits)).then(|| "decode_head.conv_seg".to_owned()))
    }

    fn name(&self) -> String {
        self.config.name.clone()
    }

    fn metric(&self) -> &'static str {
        "mIoU"
    }

    fn plotted_losses(&self) -> &'static [&'static str] {
        &["loss", "decode.loss_ce", "aux.loss_ce"]
    }

    fn metadata(&self, config: &TrainConfig) -> Result<BTreeMap<String, String>, BoxError> {
        self.config.metadata(config, self.train.classes(), self.val.len(), self.metric())
    }
}

impl Configured for Segmentation {
    type Task = SegmentationTask;

    const DEMO: &'static str = include_str!("../../../../configs/demo/scenes_seg.toml");

    fn open(config: &SegmentationConfig) -> Result<Self> {
        let source = &config.data.source;
        Ok(Self::new(source.open(Split::Train)?, source.open(Split::Val)?, config.clone()))
    }

    fn random_model(&self, device: &Device) -> Result<UperNet<Backbone>> {
        device.seed(self.config.train.seed);
        self.model_config().try_init(device).context("model")
    }

    fn initial_model(&self, device: &Device) -> Result<(UperNet<Backbone>, Option<LoadReport>)> {
        load::start_from(self.random_model(device)?, &self.model_config(), &self.config.init)
    }

    fn complexity(&self) -> (Complexity, [usize; 2]) {
        let size = self.config.data.train.crop.size;
        (self.model_config().complexity(size), size)
    }

    fn describe_data(&self) -> String {
        let (from, classes) = (self.config.data.source.place(), self.train.classes().len());
        format!("data: {from}, {classes} classes, {} training and {} validation images", self.train.len(), self.val.len())
    }
}
