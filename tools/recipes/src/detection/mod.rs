//! Detection and instance segmentation: the recipe that trains a detector.

pub mod config;
pub mod evaluate;
pub mod load;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use burn::prelude::*;
use burn::tensor::TensorData;
use mask_rcnn::{MaskRcnn, MaskRcnnConfig, official_key};
use vision_datasets::coco::EvalReport;
use vision_datasets::loader::{DetectionBatch, DetectionLoader, LoaderConfig};
use vision_datasets::sample::{DetectionDataset, Instance};
use vmamba::checkpoint::LoadReport;
use vmamba::complexity::Complexity;
use vmamba::zoo::Backbone;
use vmamba_detection::{Detector, ImageTruth, RandomChoice};
use vmamba_train::guard::is_finite;
use vmamba_train::optimizer::Groups;
use vmamba_train::{BatchOrder, Batches, BoxError, KeyMap, Precision, Recipe, Scalars, StepContext, StepLoss, TrainConfig};

pub use config::{DetectionConfig, TASK};
pub use evaluate::{DetectionEvaluation, Predictor};
pub use load::{LoadedDetector, load_detector};

use crate::configured::{Common, Configured};
use crate::split::Split;

/// The figures of the newest validation.
#[derive(Clone, Debug)]
pub struct Reports {
    /// Of boxes.
    pub boxes: EvalReport,
    /// Of masks.
    pub masks: EvalReport,
}

/// Training of a detector.
pub struct Detection {
    config: DetectionConfig,
    train: Arc<dyn DetectionDataset>,
    val: Arc<dyn DetectionDataset>,
    notes: Vec<String>,
    reports: Mutex<Option<Reports>>,
}

impl Detection {
    /// Trains on `train` and validates on `val`, which must have the same classes, as `config` says. The configuration's `data.source` is
    /// not opened.
    pub fn new(train: Arc<dyn DetectionDataset>, val: Arc<dyn DetectionDataset>, config: DetectionConfig) -> Self {
        Self { config, train, val, notes: Vec::new(), reports: Mutex::new(None) }
    }

    /// The configuration of the model for these data.
    pub fn model_config(&self) -> MaskRcnnConfig {
        self.config.model.for_classes(self.train.classes().len())
    }

    /// The validation set.
    pub fn validation(&self) -> &Arc<dyn DetectionDataset> {
        &self.val
    }

    /// The figures of the newest validation.
    pub fn newest_reports(&self) -> Option<Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Predicts as the validation does.
    pub fn predictor<'a>(&'a self, model: &'a MaskRcnn<Backbone>, device: &'a Device) -> Predictor<'a> {
        Predictor { model, device, pipeline: &self.config.data.test, precision: Precision::Float32 }
    }
}

/// The images of a batch, `[batch, 3, height, width]`.
fn images(batch: &DetectionBatch, device: &Device) -> Tensor<4> {
    let [height, width] = batch.size;
    Tensor::from_data(TensorData::new(batch.images.clone(), [batch.names.len(), 3, height, width]), device)
}

/// The ground truth of a batch, crowds apart.
fn truth(batch: &DetectionBatch) -> Vec<ImageTruth> {
    let of_image = |(instances, size): (&Vec<Instance>, &[usize; 2])| ImageTruth {
        size: *size,
        instances: instances.iter().filter(|instance| !instance.crowd).cloned().collect(),
        crowds: instances.iter().filter(|instance| instance.crowd).map(|instance| instance.bbox).collect(),
    };
    batch.instances.iter().zip(&batch.image_sizes).map(of_image).collect()
}

impl Recipe for Detection {
    type Model = MaskRcnn<Backbone>;
    type Batch = DetectionBatch;

    fn samples(&self) -> usize {
        self.train.len()
    }

    fn batches(&self, order: BatchOrder) -> Batches<'_, DetectionBatch> {
        let workers = self.config.data.workers;
        let loader = LoaderConfig { batch_size: order.batch_size, seed: order.seed, workers, ahead: 2 * workers };
        let batches = DetectionLoader::new(Arc::clone(&self.train), self.config.data.train.clone(), loader, order.first);
        Box::new(batches.map(|batch| batch.map_err(BoxError::from)))
    }

    fn loss(&self, model: &MaskRcnn<Backbone>, batch: &DetectionBatch, context: &StepContext) -> StepLoss {
        let images = context.precision.input(images(batch, &context.device));
        let loss = model.loss(images, &truth(batch), &mut RandomChoice::new(context.seed));
        let scalar = |t: &Tensor<1>| f64::from(t.clone().into_scalar::<f32>());
        let parts = loss.parts.iter().map(|(name, part)| (name.clone(), scalar(part))).chain(loss.accuracies).collect();
        StepLoss { total: loss.total, parts }
    }

    fn validate(&self, model: &MaskRcnn<Backbone>, device: &Device) -> Result<Scalars, BoxError> {
        let found = self.predictor(model, device).evaluate(&self.val, self.config.data.workers, |_, _, _| Ok(()))?;
        let (boxes, masks) = (found.boxes, found.masks);
        let figures = [
            ("bbox_AP", boxes.stats[0]),
            ("bbox_AP50", boxes.stats[1]),
            ("bbox_AP75", boxes.stats[2]),
            ("segm_AP", masks.stats[0]),
            ("segm_AP50", masks.stats[1]),
            ("segm_AP75", masks.stats[2]),
        ];
        *self.reports.lock().unwrap_or_else(PoisonError::into_inner) = Some(Reports { boxes, masks });
        Ok(figures.into_iter().map(|(name, value)| (name.to_owned(), value.max(0.0))).collect())
    }

    fn keys(&self) -> KeyMap {
        official_key
    }

    fn parameter_groups(&self) -> Groups {
        Arc::new(self.config.model.backbone.clone())
    }

    fn sample_names(&self, batch: &DetectionBatch) -> Vec<String> {
        batch.names.clone()
    }

    fn first_non_finite_module(&self, model: &MaskRcnn<Backbone>, batch: &DetectionBatch, context: &StepContext) -> Option<String> {
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
        first.or_else(|| {
            let boxes = batch.instances.iter().flatten().all(|instance| instance.bbox.iter().all(|side| side.is_finite()));
            Some(if boxes { "roi_head" } else { "the boxes of the annotations" }.to_owned())
        })
    }

    fn name(&self) -> String {
        self.config.name.clone()
    }

    fn metric(&self) -> &'static str {
        "bbox_AP"
    }

    fn plotted_losses(&self) -> &'static [&'static str] {
        &["loss", "loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"]
    }

    fn metadata(&self, config: &TrainConfig) -> Result<BTreeMap<String, String>, BoxError> {
        let config = DetectionConfig { task: Some(TASK.to_owned()), train: config.clone(), ..self.config.clone() };
        Ok(BTreeMap::from([
            ("task".to_owned(), TASK.to_owned()),
            ("metric".to_owned(), self.metric().to_owned()),
            ("config".to_owned(), serde_json::to_string(&config)?),
            ("classes".to_owned(), serde_json::to_string(self.train.classes())?),
            ("validation_images".to_owned(), self.val.len().to_string()),
        ]))
    }
}

impl Configured for Detection {
    type Config = DetectionConfig;

    const TASK: &'static str = TASK;
    const DEMO: &'static str = include_str!("../../../../configs/demo/scenes_det.toml");

    fn common(config: &DetectionConfig) -> Common<'_> {
        Common { task: config.task.as_deref(), name: &config.name, init: &config.init, train: &config.train }
    }

    fn name_task(config: &mut DetectionConfig) {
        config.task.get_or_insert_with(|| TASK.to_owned());
    }

    fn validate_config(config: &DetectionConfig) -> Result<()> {
        config.validate()
    }

    fn open(config: &DetectionConfig) -> Result<Self> {
        let train = config.data.source.open(Split::Train, None)?;
        let val = config.data.source.open(Split::Val, Some(&train.data.classes().names))?;
        let notes = train.notes.into_iter().chain(val.notes).collect();
        Ok(Self { notes, ..Self::new(train.data, val.data, config.clone()) })
    }

    fn random_model(&self, config: &DetectionConfig, device: &Device) -> Result<MaskRcnn<Backbone>> {
        device.seed(config.train.seed);
        self.model_config().try_init(device).context("model")
    }

    fn initial_model(&self, config: &DetectionConfig, device: &Device) -> Result<(MaskRcnn<Backbone>, Option<LoadReport>)> {
        load::start_from(self.random_model(config, device)?, &self.model_config(), &config.init)
    }

    fn complexity(&self, config: &DetectionConfig) -> (Complexity, [usize; 2]) {
        let size = complexity_size(config);
        (self.model_config().complexity(size), size)
    }

    fn describe_data(&self) -> String {
        let (from, classes) = (self.config.data.source.place(), self.train.classes().len());
        let (train, val) = (self.train.len(), self.val.len());
        let notes = self.notes.iter().map(|note| format!("\n{note}")).collect::<String>();
        format!("data: {from}, {classes} classes, {train} training and {val} validation images{notes}")
    }
}

/// The image size that the cost of a model is given for: `[height, width]` of the largest training scale, at the aspect ratio 1280:800 of
/// the published counts where the scale leaves room for it.
fn complexity_size(config: &DetectionConfig) -> [usize; 2] {
    let largest = config.data.train.scales.iter().max_by_key(|scale| scale[0].min(scale[1])).copied().unwrap_or([1333, 800]);
    let (short, long) = (largest[0].min(largest[1]), largest[0].max(largest[1]));
    [short, long.min(short * 8 / 5)]
}
