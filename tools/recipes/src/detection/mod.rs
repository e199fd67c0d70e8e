//! Detection and instance segmentation: the recipe that trains a detector.

pub mod config;
pub mod evaluate;
pub mod load;
pub mod model;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::prelude::*;
use vision_datasets::coco::STAT_NAMES;
use vision_datasets::loader::{DetectionBatch, DetectionLoader, LoaderConfig};
use vision_datasets::sample::DetectionDataset;
use vision_datasets::transforms::{DetectionTestPipeline, DetectionTrainPipeline, SIZE_DIVISOR, padded_size};
use vmamba::checkpoint::{Checkpoint, LoadReport};
use vmamba::complexity::Complexity;
use vmamba::zoo::BackboneConfig;
use vmamba_detection::{DetectionLoss, Detector, ImageTruth, RandomChoice};
use vmamba_train::optimizer::Groups;
use vmamba_train::{BatchOrder, Batches, BoxError, KeyMap, Precision, Recipe, Scalars, StepContext, StepLoss, TrainConfig};
use vmamba_types::Instance;

pub use config::{DetectionConfig, DetectionDataConfig, DetectionSource, DetectionTask, TASK};
pub use evaluate::{DetectionEvaluation, Predictor, Reports, prediction_memory};
pub use load::{LoadedDetector, load_detector};
pub use model::{AnyDetector, DetectionModelConfig, has_detector_keys};

use crate::configured::{Configured, describe};
use crate::init::class_rows;
use crate::memory::{MemoryEstimate, TrainingImages, Validation, largest_image};
use crate::run_config::DataConfig;
use crate::split::Split;
use crate::supervised::{Supervised, Task, check_classes, check_norms, check_resumed, first_non_finite, images, step_loss};

/// Training of a detector `M` on any dataset.
pub type Detection<M> = Supervised<DetectionTask, M>;

impl Task for DetectionTask {
    type Dataset = dyn DetectionDataset;
    type TrainTransforms = DetectionTrainPipeline;
    type TestTransforms = DetectionTestPipeline;
    type Report = Reports;

    fn transforms(data: &mut DetectionDataConfig) -> (&mut DetectionTrainPipeline, &mut DetectionTestPipeline, &mut usize) {
        (&mut data.train, &mut data.test, &mut data.workers)
    }

    fn backbone(model: &DetectionModelConfig) -> &BackboneConfig {
        model.backbone()
    }
}

impl<M: Detector> Detection<M> {
    /// Trains on `train` and validates on `val`, which must have the same classes. Transforms are those of the published COCO recipe, on two
    /// worker threads.
    ///
    /// Call [`Supervised::model`] for a built-in model. Without it, the checkpoints have no configuration, so [`load_detector`] needs one, and
    /// the optimiser does not know the backbone: the published weight decay goes by dimension, and layer-wise learning rates are refused.
    pub fn new(train: impl DetectionDataset + 'static, val: impl DetectionDataset + 'static) -> Self {
        let source = DetectionSource::Own;
        let data = DataConfig { source, train: DetectionTrainPipeline::coco(), test: DetectionTestPipeline::coco(), workers: 2 };
        Self::on(Arc::new(train), Arc::new(val), data)
    }

    /// Predicts as the validation does.
    pub fn predictor<'a>(&'a self, model: &'a M, device: &'a Device) -> Predictor<'a, M> {
        Predictor { model, device, pipeline: &self.data.test, precision: Precision::Float32, memory: None }
    }
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

    fn check(&self, model: &M, config: &TrainConfig) -> Result<(), BoxError> {
        check_classes(model.num_classes(), self.train.classes(), self.val.classes())?;
        let rest = match self.train.len() % config.batch_size.max(1) {
            0 => config.batch_size,
            // The last batch of an epoch.
            rest => rest,
        };
        // A batch of one small image is padded to a single position of the coarsest level.
        let scales = self.data.train.scales.iter().chain(self.data.train.crop.iter().flat_map(|crop| &crop.scales));
        if scales.map(|[a, b]| *a.min(b)).min().is_some_and(|short| short <= SIZE_DIVISOR) {
            check_norms(rest, model.fewest_norm_values([SIZE_DIVISOR; 2]))?;
        }
        let divisor = model.size_divisor();
        if divisor == 0 || !SIZE_DIVISOR.is_multiple_of(divisor) {
            return Err(
                format!("the loader pads images to multiples of {SIZE_DIVISOR} pixels, the model needs multiples of {divisor}").into()
            );
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

    fn loss(&self, model: &M, batch: &DetectionBatch, context: &StepContext) -> StepLoss {
        let images = images(&batch.images, batch.names.len(), batch.size, context);
        let DetectionLoss { total, parts, accuracies } = model.loss(images, &truth(batch), &mut RandomChoice::new(context.seed));
        step_loss(total, parts, accuracies)
    }

    fn validate(&self, model: &M, device: &Device) -> Result<Scalars, BoxError> {
        let found = self.predictor(model, device).evaluate(&self.val, self.data.workers, |_, _, _| Ok(()))?;
        let reports = found.reports;
        if reports.boxes.is_none() {
            return Err("the validation data have no object, so there is no AP to choose the best weights by".into());
        }
        let mut figures = Scalars::new();
        for (kind, report) in reports.named() {
            for (name, value) in STAT_NAMES.iter().zip(report.stats).take(3) {
                figures.push((format!("{kind}_{name}"), value.max(0.0)));
            }
        }
        self.keep_report(reports);
        Ok(figures)
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
        let images = images(&batch.images, batch.names.len(), batch.size, context);
        first_non_finite(images, |images, observe| model.observe(images, observe)).or_else(|| {
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
        // The names of both built-in detectors; a name without values is not drawn.
        &[
            "loss",
            "loss_rpn_cls",
            "loss_rpn_bbox",
            "loss_cls",
            "loss_bbox",
            "loss_mask",
            "s0.loss_cls",
            "s0.loss_bbox",
            "s0.loss_mask",
            "s1.loss_cls",
            "s1.loss_bbox",
            "s1.loss_mask",
            "s2.loss_cls",
            "s2.loss_bbox",
            "s2.loss_mask",
        ]
    }

    fn metadata(&self, config: &TrainConfig) -> Result<BTreeMap<String, String>, BoxError> {
        self.describe(config, self.train.classes(), self.val.len(), self.metric())
    }
}

impl Configured for Detection<AnyDetector> {
    type Task = DetectionTask;

    const DEMO: &'static str = include_str!("../../../../configs/demo/scenes_det.toml");

    fn open(config: &DetectionConfig) -> Result<Self> {
        let source = &config.data.source;
        let train = source.open(Split::Train, None)?;
        let val = source.open(Split::Val, Some(train.classes()))?;
        Ok(Self::configured(train, val, config))
    }

    fn random_model(&self, config: &DetectionConfig, device: &Device) -> Result<AnyDetector> {
        device.seed(config.train.seed);
        config.model.try_init(self.train.classes().len(), device).context("model")
    }

    fn pretrained_model(&self, config: &DetectionConfig, path: &Path, device: &Device) -> Result<(AnyDetector, LoadReport)> {
        device.seed(config.train.seed);
        let checkpoint = Checkpoint::read(path)?;
        let classes = class_rows::<DetectionTask>(&checkpoint, self.train.classes())?;
        config.model.init_from(self.train.classes().len(), &checkpoint, config.init_set(), &classes, device)
    }

    fn complexity(&self, config: &DetectionConfig) -> (Complexity, [usize; 2]) {
        let size = complexity_size(config);
        (config.model.complexity(self.train.classes().len(), size), size)
    }

    fn memory(&self, config: &DetectionConfig) -> MemoryEstimate {
        let classes = self.train.classes().len();
        let input = padded_size(config.data.train.largest_input());
        let stored = largest_image(self.train.len(), |index| self.train.size(index));
        let images = TrainingImages { input, stored, resized: config.data.train.largest_resized(stored) };
        let photo = largest_image(self.val.len(), |index| self.val.size(index));
        let prediction = prediction_memory(&config.model, classes, &config.data.test, photo, config.train.pictures > 0);
        let validation = Validation { prediction, largest: photo, images: self.val.len() };
        let step = config.model.training_complexity(classes, input);
        MemoryEstimate::training(&step, images, &config.train, config.data.workers, validation)
    }

    fn describe_data(&self) -> String {
        describe(&self.data.source.place(), self.train.classes().len(), [self.train.len(), self.val.len()])
    }
}

/// The image size that the cost of a model is given for: `[height, width]` of the largest training scale, at the aspect ratio 1280:800 of
/// the published counts where the scale leaves room for it.
fn complexity_size(config: &DetectionConfig) -> [usize; 2] {
    let largest = config.data.train.scales.iter().max_by_key(|scale| scale[0].min(scale[1])).copied().unwrap_or([1333, 800]);
    let (short, long) = (largest[0].min(largest[1]), largest[0].max(largest[1]));
    [short, long.min(short * 8 / 5)]
}
