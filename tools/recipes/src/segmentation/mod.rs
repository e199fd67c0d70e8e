//! Semantic segmentation: the recipe that trains a segmentor.

pub mod config;
pub mod evaluate;
pub mod load;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use burn::prelude::*;
use burn::tensor::TensorData;
use upernet::{Segmentor, UperNet, UperNetConfig, official_key};
use vision_datasets::ade20k::IouReport;
use vision_datasets::loader::{Batch, LoaderConfig, TrainLoader};
use vision_datasets::sample::SegmentationDataset;
use vmamba::checkpoint::LoadReport;
use vmamba::complexity::Complexity;
use vmamba::zoo::Backbone;
use vmamba_train::guard::is_finite;
use vmamba_train::optimizer::Groups;
use vmamba_train::{BatchOrder, Batches, BoxError, KeyMap, Precision, Recipe, Scalars, StepContext, StepLoss, TrainConfig};

pub use config::{SegmentationConfig, TASK};
pub use evaluate::{Predictor, SegmentationEvaluation};
pub use load::{LoadedSegmentor, load_segmentor};

use crate::configured::{Common, Configured};
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
        let parts = loss.parts.iter().map(|(name, part)| (name.clone(), scalar(part))).chain(loss.accuracies).collect();
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
        let mut first = None;
        model.observe(images, &mut |module, index, output| {
            if first.is_none() && !is_finite(output) {
                first = Some(format!("{module}, output {index}"));
            }
        });
        first
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
        let config = SegmentationConfig { task: Some(TASK.to_owned()), train: config.clone(), ..self.config.clone() };
        Ok(BTreeMap::from([
            ("task".to_owned(), TASK.to_owned()),
            ("metric".to_owned(), self.metric().to_owned()),
            ("config".to_owned(), serde_json::to_string(&config)?),
            ("classes".to_owned(), serde_json::to_string(self.train.classes())?),
            ("validation_images".to_owned(), self.val.len().to_string()),
        ]))
    }
}

impl Configured for Segmentation {
    type Config = SegmentationConfig;

    const TASK: &'static str = TASK;
    const DEMO: &'static str = include_str!("../../../../configs/demo/scenes_seg.toml");

    fn common(config: &SegmentationConfig) -> Common<'_> {
        Common { task: config.task.as_deref(), name: &config.name, init: &config.init, train: &config.train }
    }

    fn name_task(config: &mut SegmentationConfig) {
        config.task.get_or_insert_with(|| TASK.to_owned());
    }

    fn validate_config(config: &SegmentationConfig) -> Result<()> {
        config.validate()
    }

    fn open(config: &SegmentationConfig) -> Result<Self> {
        let source = &config.data.source;
        Ok(Self::new(source.open(Split::Train)?, source.open(Split::Val)?, config.clone()))
    }

    fn random_model(&self, config: &SegmentationConfig, device: &Device) -> Result<UperNet<Backbone>> {
        device.seed(config.train.seed);
        self.model_config().try_init(device).context("model")
    }

    fn initial_model(&self, config: &SegmentationConfig, device: &Device) -> Result<(UperNet<Backbone>, Option<LoadReport>)> {
        load::start_from(self.random_model(config, device)?, &self.model_config(), &config.init)
    }

    fn complexity(&self, config: &SegmentationConfig) -> (Complexity, [usize; 2]) {
        let size = config.data.train.crop.size;
        (self.model_config().complexity(size), size)
    }

    fn describe_data(&self) -> String {
        let (from, classes) = (self.config.data.source.place(), self.train.classes().len());
        format!("data: {from}, {classes} classes, {} training and {} validation images", self.train.len(), self.val.len())
    }
}
