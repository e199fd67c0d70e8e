//! Semantic segmentation: the recipe that trains a segmentor.

pub mod config;
pub mod evaluate;
pub mod load;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use upernet::{SegmentationLoss, Segmentor, UperNet};
use vision_datasets::ade20k::IouReport;
use vision_datasets::check::{Purpose, label_fault};
use vision_datasets::loader::{Batch, LoaderConfig, TrainLoader};
use vision_datasets::sample::SegmentationDataset;
use vision_datasets::transforms::{TestPipeline, TrainPipeline};
use vmamba::checkpoint::{Checkpoint, LoadReport};
use vmamba::complexity::Complexity;
use vmamba::zoo::{Backbone, BackboneConfig};
use vmamba_train::optimizer::Groups;
use vmamba_train::{BatchOrder, Batches, BoxError, KeyMap, Precision, Recipe, Scalars, StepContext, StepLoss, TrainConfig};

pub use config::{
    SegmentationConfig, SegmentationDataConfig, SegmentationModelConfig, SegmentationSource, SegmentationTask, TASK, TestConfig,
};
pub use evaluate::{PredictionSettings, Predictor, SegmentationEvaluation};
pub use load::{LoadedSegmentor, load_segmentor};

use crate::configured::{Configured, describe};
use crate::init::class_rows;
use crate::memory::{MemoryEstimate, TrainingImages, Validation, largest_image};
use crate::run_config::DataConfig;
use crate::split::Split;
use crate::supervised::{Supervised, Task, check_classes, check_norms, check_resumed, first_non_finite, images, step_loss};

/// Training of a segmentor `M` on any dataset.
pub type Segmentation<M> = Supervised<SegmentationTask, M>;

impl Task for SegmentationTask {
    type Dataset = dyn SegmentationDataset;
    type TrainTransforms = TrainPipeline;
    type TestTransforms = TestPipeline;
    type Report = IouReport;

    fn transforms(data: &mut SegmentationDataConfig) -> (&mut TrainPipeline, &mut TestPipeline, &mut usize) {
        (&mut data.train, &mut data.test, &mut data.workers)
    }

    fn backbone(model: &SegmentationModelConfig) -> &BackboneConfig {
        &model.backbone
    }
}

impl<M: Segmentor> Segmentation<M> {
    /// Trains on `train` and validates on `val`, which must have the same classes. Transforms are those of the published ADE20K recipe, on two
    /// worker threads.
    ///
    /// Call [`Supervised::model`] for a built-in model. Without it, the checkpoints have no configuration, so [`load_segmentor`] needs one,
    /// and the optimiser does not know the backbone: the published weight decay goes by dimension, and layer-wise learning rates are refused.
    pub fn new(train: impl SegmentationDataset + 'static, val: impl SegmentationDataset + 'static) -> Self {
        let source = SegmentationSource::Own;
        let data = DataConfig { source, train: TrainPipeline::ade20k(), test: TestPipeline::ade20k(), workers: 2 };
        Self::on(Arc::new(train), Arc::new(val), data)
    }

    /// Predicts as the validation does.
    pub fn predictor<'a>(&'a self, model: &'a M, device: &'a Device) -> Predictor<'a, M> {
        let (pipeline, test) = (&self.data.test, &self.test);
        Predictor { model, device, pipeline, test, augment: false, precision: Precision::Float32, memory: None }
    }
}

impl<M: Segmentor + Module + 'static> Recipe for Segmentation<M> {
    type Model = M;
    type Batch = Batch;

    fn samples(&self) -> usize {
        self.train.len()
    }

    fn batches(&self, order: BatchOrder) -> Batches<'_, Batch> {
        let workers = self.data.workers;
        let loader = LoaderConfig { batch_size: order.batch_size, seed: order.seed, workers, ahead: 2 * workers };
        let batches = TrainLoader::new(Arc::clone(&self.train), self.data.train.clone(), loader, order.first);
        Box::new(batches.map(|batch| batch.map_err(BoxError::from)))
    }

    fn check(&self, model: &M, config: &TrainConfig) -> Result<(), BoxError> {
        check_classes(model.num_classes(), self.train.classes(), self.val.classes())?;
        // The loader fills every batch; a batch may span two epochs.
        check_norms(config.batch_size, model.fewest_norm_values(self.data.train.crop.size))?;
        for (name, data, purpose) in [("training", &self.train, Purpose::Training), ("validation", &self.val, Purpose::Validation)] {
            if let Some(fault) = label_fault(data.as_ref(), purpose)? {
                return Err(format!("the {name} data: {fault}; {}", fault.remedy()).into());
            }
        }
        Ok(())
    }

    fn check_resumed(&self, metadata: &BTreeMap<String, String>) -> Result<(), BoxError> {
        check_resumed(metadata, self.train.classes())
    }

    fn notes(&self) -> Vec<String> {
        // Both splits may share a note about the folder of the images.
        let mut notes = self.train.notes();
        let more: Vec<String> = self.val.notes().into_iter().filter(|note| !notes.contains(note)).collect();
        notes.extend(more);
        notes
    }

    fn loss(&self, model: &M, batch: &Batch, context: &StepContext) -> StepLoss {
        let [height, width] = batch.size;
        let labels: Vec<i64> = batch.labels.iter().map(|label| i64::from(*label)).collect();
        let labels = Tensor::<3, Int>::from_data(TensorData::new(labels, [batch.len, height, width]), &context.device);
        let SegmentationLoss { total, parts, accuracies } = model.loss(images(&batch.images, batch.len, batch.size, context), labels);
        step_loss(total, parts, accuracies)
    }

    fn validate(&self, model: &M, device: &Device) -> Result<Scalars, BoxError> {
        let report = self.predictor(model, device).evaluate(&self.val, self.data.workers, |_, _, _| Ok(()))?.report;
        let figures = [("mIoU", report.mean_iou), ("mAcc", report.mean_accuracy), ("aAcc", report.all_accuracy)];
        self.keep_report(report);
        Ok(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn keys(&self) -> KeyMap {
        M::official_key
    }

    fn parameter_groups(&self) -> Groups {
        Arc::clone(&self.groups)
    }

    fn sample_names(&self, batch: &Batch) -> Vec<String> {
        batch.names.clone()
    }

    fn first_non_finite_module(&self, model: &M, batch: &Batch, context: &StepContext) -> Option<String> {
        let images = images(&batch.images, batch.len, batch.size, context);
        first_non_finite(images, |images, observe| model.observe(images, observe))
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn metric(&self) -> &'static str {
        "mIoU"
    }

    fn plotted_losses(&self) -> &'static [&'static str] {
        &["loss", "decode.loss_ce", "aux.loss_ce"]
    }

    fn metadata(&self, config: &TrainConfig) -> Result<BTreeMap<String, String>, BoxError> {
        self.describe(config, self.train.classes(), self.val.len(), self.metric())
    }
}

impl Configured for Segmentation<UperNet<Backbone>> {
    type Task = SegmentationTask;

    const DEMO: &'static str = include_str!("../../../../configs/demo/scenes_seg.toml");

    fn open(config: &SegmentationConfig) -> Result<Self> {
        let source = &config.data.source;
        let (train, val) = (source.open(Split::Train)?, source.open(Split::Val)?);
        Ok(Self::configured(train, val, config))
    }

    fn random_model(&self, config: &SegmentationConfig, device: &Device) -> Result<UperNet<Backbone>> {
        device.seed(config.train.seed);
        config.model.for_classes(self.train.classes().len()).try_init(device).context("model")
    }

    fn pretrained_model(&self, config: &SegmentationConfig, path: &Path, device: &Device) -> Result<(UperNet<Backbone>, LoadReport)> {
        device.seed(config.train.seed);
        let (model, checkpoint) = (config.model.for_classes(self.train.classes().len()), Checkpoint::read(path)?);
        let classes = class_rows::<SegmentationTask>(&checkpoint, self.train.classes())?;
        Ok(model.start_from(model.try_init(device)?, &checkpoint, config.init_set(), &classes)?)
    }

    fn complexity(&self, config: &SegmentationConfig) -> (Complexity, [usize; 2]) {
        let size = config.data.train.crop.size;
        (config.model.for_classes(self.train.classes().len()).complexity(size), size)
    }

    fn memory(&self, config: &SegmentationConfig) -> MemoryEstimate {
        let model = config.model.for_classes(self.train.classes().len());
        let input = config.data.train.crop.size;
        let stored = largest_image(self.train.len(), |index| self.train.size(index));
        let images = TrainingImages { input, stored, resized: config.data.train.largest_resized(stored) };
        let photo = largest_image(self.val.len(), |index| self.val.size(index));
        let prediction = PredictionSettings {
            model: &model,
            pipeline: &config.data.test,
            test: &config.test,
            augment: false,
            drawn: config.train.pictures > 0,
        };
        let validation = Validation { prediction: prediction.memory(photo), largest: photo, images: self.val.len() };
        let step = model.training_complexity(input);
        MemoryEstimate::training(&step, images, &config.train, config.data.workers, validation)
    }

    fn describe_data(&self) -> String {
        describe(&self.data.source.place(), self.train.classes().len(), [self.train.len(), self.val.len()])
    }
}
