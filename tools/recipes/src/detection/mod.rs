//! Detection and instance segmentation: the recipe that trains a detector.

pub mod config;
pub mod evaluate;
pub mod load;
pub mod model;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use vision_datasets::coco::EvalReport;
use vision_datasets::loader::{DetectionBatch, DetectionLoader, LoaderConfig};
use vision_datasets::sample::DetectionDataset;
use vision_datasets::transforms::{DetectionTestPipeline, DetectionTrainPipeline};
use vmamba::checkpoint::LoadReport;
use vmamba::complexity::Complexity;
use vmamba_detection::{Detector, ImageTruth, RandomChoice};
use vmamba_train::guard::is_finite;
use vmamba_train::optimizer::{Groups, ungrouped};
use vmamba_train::{BatchOrder, Batches, BoxError, KeyMap, Precision, Recipe, Scalars, StepContext, StepLoss, TrainConfig};
use vmamba_types::Instance;

pub use config::{DetectionConfig, DetectionDataConfig, DetectionSource, DetectionTask, TASK};
pub use evaluate::{DetectionEvaluation, Predictor};
pub use load::{LoadedDetector, load_detector};
pub use model::{AnyDetector, DetectionModelConfig, is_checkpoint};

use crate::configured::{Configured, describe};
use crate::run_config::{DataConfig, metadata};
use crate::split::Split;

/// The figures of the newest validation.
#[derive(Clone, Debug)]
pub struct Reports {
    /// Of boxes.
    pub boxes: EvalReport,
    /// Of masks.
    pub masks: EvalReport,
}

/// Training of a detector `M` on any dataset.
pub struct Detection<M> {
    name: String,
    data: DetectionDataConfig,
    /// What a checkpoint says about the model, so that it can be loaded without other files.
    model: Option<DetectionModelConfig>,
    groups: Groups,
    train: Arc<dyn DetectionDataset>,
    val: Arc<dyn DetectionDataset>,
    reports: Mutex<Option<Reports>>,
    trained: PhantomData<fn() -> M>,
}

impl<M: Detector> Detection<M> {
    /// Trains on `train` and validates on `val`, which must have the same classes. Transforms are those of the published COCO recipe, on two
    /// worker threads.
    pub fn new(train: impl DetectionDataset + 'static, val: impl DetectionDataset + 'static) -> Self {
        let source = DetectionSource::Own;
        let data = DataConfig { source, train: DetectionTrainPipeline::coco(), test: DetectionTestPipeline::coco(), workers: 2 };
        Self::with_data(Arc::new(train), Arc::new(val), TASK, data)
    }

    fn with_data(train: Arc<dyn DetectionDataset>, val: Arc<dyn DetectionDataset>, name: &str, data: DetectionDataConfig) -> Self {
        Self { name: name.to_owned(), data, model: None, groups: ungrouped(), train, val, reports: Mutex::new(None), trained: PhantomData }
    }

    /// Sets the name of the run, the title of its plots.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the transforms of training and of test images.
    #[must_use]
    pub fn transforms(mut self, train: DetectionTrainPipeline, test: DetectionTestPipeline) -> Self {
        (self.data.train, self.data.test) = (train, test);
        self
    }

    /// Sets the number of threads that read and transform images.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.data.workers = workers.max(1);
        self
    }

    /// Writes the configuration of a built-in model into the checkpoints, so that they can be loaded without other files. Weight decay and
    /// layer-wise learning rates go by its backbone.
    #[must_use]
    pub fn model(mut self, config: impl Into<DetectionModelConfig>) -> Self {
        let config = config.into();
        self.groups = Arc::new(config.backbone().clone());
        self.model = Some(config);
        self
    }

    /// Sets weight decay and layers of the parameters of a backbone from outside of this project.
    #[must_use]
    pub fn parameter_groups(mut self, groups: Groups) -> Self {
        self.groups = groups;
        self
    }

    /// The configuration of the run with a built-in model.
    fn config(&self, model: &DetectionModelConfig, train: &TrainConfig) -> DetectionConfig {
        DetectionConfig { train: train.clone(), ..DetectionConfig::new(&self.name, model.clone(), self.data.clone()) }
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
    pub fn predictor<'a>(&'a self, model: &'a M, device: &'a Device) -> Predictor<'a, M> {
        Predictor { model, device, pipeline: &self.data.test, precision: Precision::Float32 }
    }
}

/// The images of a batch, `[batch, 3, height, width]`.
fn images(batch: &DetectionBatch, context: &StepContext) -> Tensor<4> {
    let [height, width] = batch.size;
    let shape = [batch.names.len(), 3, height, width];
    context.precision.input(Tensor::from_data(TensorData::new(batch.images.clone(), shape), &context.device))
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

impl<M: Detector + Module + 'static> Recipe for Detection<M> {
    type Model = M;
    type Batch = DetectionBatch;

    fn samples(&self) -> usize {
        self.train.len()
    }

    fn batches(&self, order: BatchOrder) -> Batches<'_, DetectionBatch> {
        let workers = self.data.workers;
        let loader = LoaderConfig { batch_size: order.batch_size, seed: order.seed, workers, ahead: 2 * workers };
        let batches = DetectionLoader::new(Arc::clone(&self.train), self.data.train.clone(), loader, order.first);
        Box::new(batches.map(|batch| batch.map_err(BoxError::from)))
    }

    fn loss(&self, model: &M, batch: &DetectionBatch, context: &StepContext) -> StepLoss {
        let loss = model.loss(images(batch, context), &truth(batch), &mut RandomChoice::new(context.seed));
        let scalar = |value: Tensor<1>| f64::from(value.into_scalar::<f32>());
        let parts = loss.parts.into_iter().map(|(name, part)| (name, scalar(part))).chain(loss.accuracies).collect();
        StepLoss { total: loss.total, parts }
    }

    fn validate(&self, model: &M, device: &Device) -> Result<Scalars, BoxError> {
        let found = self.predictor(model, device).evaluate(&self.val, self.data.workers, |_, _, _| Ok(()))?;
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
        M::official_key
    }

    fn parameter_groups(&self) -> Groups {
        Arc::clone(&self.groups)
    }

    fn sample_names(&self, batch: &DetectionBatch) -> Vec<String> {
        batch.names.clone()
    }

    fn first_non_finite_module(&self, model: &M, batch: &DetectionBatch, context: &StepContext) -> Option<String> {
        let images = images(batch, context);
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
        self.name.clone()
    }

    fn metric(&self) -> &'static str {
        "bbox_AP"
    }

    fn plotted_losses(&self) -> &'static [&'static str] {
        &["loss", "loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"]
    }

    fn metadata(&self, config: &TrainConfig) -> Result<BTreeMap<String, String>, BoxError> {
        let model = self.model.as_ref().map(|model| self.config(model, config));
        metadata::<DetectionTask>(model.as_ref(), self.train.classes(), self.val.len(), self.metric())
    }
}

impl Configured for Detection<AnyDetector> {
    type Task = DetectionTask;

    const DEMO: &'static str = include_str!("../../../../configs/demo/scenes_det.toml");

    fn open(config: &DetectionConfig) -> Result<Self> {
        let source = &config.data.source;
        let train = source.open(Split::Train, None)?;
        let val = source.open(Split::Val, Some(&train.classes().names))?;
        Ok(Self::with_data(train, val, &config.name, config.data.clone()).model(config.model.clone()))
    }

    fn random_model(&self, config: &DetectionConfig, device: &Device) -> Result<AnyDetector> {
        device.seed(config.train.seed);
        config.model.try_init(self.train.classes().len(), device).context("model")
    }

    fn pretrained_model(&self, config: &DetectionConfig, path: &Path, device: &Device) -> Result<(AnyDetector, LoadReport)> {
        device.seed(config.train.seed);
        config.model.init_from(self.train.classes().len(), path, device)
    }

    fn complexity(&self, config: &DetectionConfig) -> (Complexity, [usize; 2]) {
        let size = complexity_size(config);
        (config.model.complexity(self.train.classes().len(), size), size)
    }

    fn describe_data(&self) -> String {
        describe(
            &self.data.source.place(),
            self.train.classes().len(),
            [self.train.len(), self.val.len()],
            &[self.train.notes(), self.val.notes()],
        )
    }
}

/// The image size that the cost of a model is given for: `[height, width]` of the largest training scale, at the aspect ratio 1280:800 of
/// the published counts where the scale leaves room for it.
fn complexity_size(config: &DetectionConfig) -> [usize; 2] {
    let largest = config.data.train.scales.iter().max_by_key(|scale| scale[0].min(scale[1])).copied().unwrap_or([1333, 800]);
    let (short, long) = (largest[0].min(largest[1]), largest[0].max(largest[1]));
    [short, long.min(short * 8 / 5)]
}
