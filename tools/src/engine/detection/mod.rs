//! Detection and instance segmentation: data, model, starting weights, and the task the trainer runs.

pub mod config;
pub mod evaluate;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anstream::{print, println};
use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use mask_rcnn::{MaskRcnn, MaskRcnnConfig, official_key};
use vision_datasets::coco::{CocoDataset, CocoOptions, EvalReport};
use vision_datasets::loader::{DetectionBatch, DetectionLoader, LoaderConfig};
use vision_datasets::sample::{ClassList, DataError, DetectionDataset};
use vision_datasets::scenes::SceneObjects;
use vmamba::checkpoint::{Checkpoint, LoadReport};
use vmamba::complexity::Complexity;
use vmamba::zoo::Backbone;
use vmamba_detection::{Detector as _, ImageTruth, RandomChoice};

use self::config::{DetectionConfig, DetectionSource};
use self::evaluate::{Detector, category_table, statistics_table, summary};
use super::config::{Init, TrainConfig};
use super::guard::is_finite;
use super::logging::Scalars;
use super::parameters::KeyMap;
use super::precision::Precision;
use super::run::Training;
use super::trainer::{StepLoss, Task};
use crate::report::curves::precision_recall;
use crate::report::objects;
use crate::report::pictures;

/// What a detection checkpoint calls itself in its metadata.
pub const TASK: &str = "detection";

/// Opens a split of the configured data. `classes` are those of a model, where their order is given.
///
/// # Errors
/// When annotations or images are missing or wrong.
pub fn open_data(source: &DetectionSource, validation: bool, classes: Option<&[String]>) -> Result<Arc<dyn DetectionDataset>> {
    if let Some(scenes) = source.scenes(validation) {
        return Ok(Arc::new(SceneObjects::new(scenes)?));
    }
    match source {
        DetectionSource::Coco { root, train_annotations, train_images, val_annotations, val_images } => {
            let (annotations, images) = if validation { (val_annotations, val_images) } else { (train_annotations, train_images) };
            let options = if validation { CocoOptions::default() } else { CocoOptions::train() };
            let options = CocoOptions { classes: classes.map(<[String]>::to_vec), ..options };
            let data = CocoDataset::open(&root.join(annotations), &root.join(images), &options)?;
            let dropped = data.dropped();
            if let Some(first) = dropped.first_annotation {
                let count = dropped.annotations;
                println!("{}: {count} annotations without area in their image are left out, first {first}", annotations.display());
            }
            if dropped.empty_images + dropped.small_images > 0 {
                let (empty, small) = (dropped.empty_images, dropped.small_images);
                println!("{}: {empty} images without annotation and {small} tiny ones are left out of training", annotations.display());
            }
            Ok(Arc::new(data))
        }
        DetectionSource::Scenes { .. } => bail!("data.source: no scenes"),
    }
}

/// Builds the model with the weights the configuration starts from. Random weights are drawn with `seed`.
///
/// # Errors
/// When the checkpoint is missing or does not fit: training never starts from other weights than were asked for.
pub fn initial_model(config: &MaskRcnnConfig, init: &Init, seed: u64, device: &Device) -> Result<(MaskRcnn<Backbone>, Option<LoadReport>)> {
    device.seed(seed);
    let Init::Checkpoint(path) = init else { return Ok((config.try_init(device).context("model")?, None)) };
    let (model, report) = config.init_from(path, device).with_context(|| format!("init = \"{}\"", path.display()))?;
    Ok((model, Some(report)))
}

/// What the newest validation found.
#[derive(Clone)]
struct Reports {
    boxes: EvalReport,
    masks: EvalReport,
}

/// Training of a detector.
pub struct DetectionTask {
    config: DetectionConfig,
    train: Arc<dyn DetectionDataset>,
    val: Arc<dyn DetectionDataset>,
    reports: Mutex<Option<Reports>>,
}

impl DetectionTask {
    /// Opens the data.
    ///
    /// # Errors
    /// When they are missing or wrong.
    pub fn new(config: &DetectionConfig) -> Result<Self> {
        let train = open_data(&config.data.source, false, None)?;
        let val = open_data(&config.data.source, true, Some(&train.classes().names))?;
        Ok(Self { config: config.clone(), train, val, reports: Mutex::new(None) })
    }

    /// The configuration of the model for these data.
    pub fn model_config(&self) -> MaskRcnnConfig {
        self.config.model.for_classes(self.train.classes().len())
    }

    /// Predicts as the validation does.
    pub fn detector<'a>(&'a self, model: &'a MaskRcnn<Backbone>, device: &'a Device) -> Detector<'a> {
        Detector { model, device, pipeline: &self.config.data.test, precision: Precision::Float32 }
    }
}

/// The images of a batch, `[batch, 3, height, width]`.
fn images(batch: &DetectionBatch, device: &Device) -> Tensor<4> {
    let [height, width] = batch.size;
    Tensor::from_data(TensorData::new(batch.images.clone(), [batch.names.len(), 3, height, width]), device)
}

/// The objects of a batch.
fn truth(batch: &DetectionBatch) -> Vec<ImageTruth> {
    let of_image = |(instances, size): (&Vec<vision_datasets::sample::Instance>, &[usize; 2])| ImageTruth {
        size: *size,
        instances: instances.iter().filter(|instance| !instance.crowd).cloned().collect(),
        crowds: instances.iter().filter(|instance| instance.crowd).map(|instance| instance.bbox).collect(),
    };
    batch.instances.iter().zip(&batch.image_sizes).map(of_image).collect()
}

impl LoadedDetector {
    /// Opens the validation data of its configuration for its classes; where their names are not known, they are those of the data in the
    /// order of the file.
    ///
    /// # Errors
    /// When the data are missing or wrong, or have other classes.
    pub fn open_data(&mut self) -> Result<Arc<dyn DetectionDataset>> {
        let names = self.names_known.then_some(self.classes.names.as_slice());
        let data = open_data(&self.config.data.source, true, names)?;
        if data.classes().len() != self.classes.len() {
            bail!("the model knows {} classes, the data have {}", self.classes.len(), data.classes().len());
        }
        self.classes = data.classes().clone();
        Ok(data)
    }
}

impl Task for DetectionTask {
    type Model = MaskRcnn<Backbone>;
    type Batch = DetectionBatch;

    fn samples(&self) -> usize {
        self.train.len()
    }

    fn batches(&self, first: u64) -> Box<dyn Iterator<Item = Result<DetectionBatch, DataError>>> {
        let loader = LoaderConfig {
            batch_size: self.config.train.batch_size,
            seed: self.config.train.seed,
            workers: self.config.data.workers,
            ahead: 2 * self.config.data.workers,
        };
        Box::new(DetectionLoader::new(Arc::clone(&self.train), self.config.data.train.clone(), loader, first))
    }

    fn names(&self, batch: &DetectionBatch) -> Vec<String> {
        batch.names.clone()
    }

    fn loss(&self, model: &MaskRcnn<Backbone>, batch: &DetectionBatch, device: &Device, seed: u64) -> StepLoss {
        let images = self.config.train.precision.input(images(batch, device));
        let loss = model.loss(images, &truth(batch), &mut RandomChoice::new(seed));
        let scalar = |t: &Tensor<1>| f64::from(t.clone().into_scalar::<f32>());
        let parts = loss.parts.iter().map(|(name, part)| (name.clone(), scalar(part))).chain(loss.accuracies).collect();
        StepLoss { total: loss.total, parts }
    }

    fn diagnose(&self, model: &MaskRcnn<Backbone>, batch: &DetectionBatch, device: &Device) -> Option<String> {
        let images = self.config.train.precision.input(images(batch, device));
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

    fn validate(&self, model: &MaskRcnn<Backbone>, device: &Device) -> Result<Scalars> {
        let found = self.detector(model, device).evaluate(&self.val, self.config.data.workers, |_, _, _| Ok(()))?;
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

    fn name(&self) -> String {
        self.config.name.clone()
    }

    fn metric(&self) -> &'static str {
        "bbox_AP"
    }

    fn plotted(&self) -> &'static [&'static str] {
        &["loss", "loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"]
    }

    fn metadata(&self) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::from([
            ("task".to_owned(), TASK.to_owned()),
            ("metric".to_owned(), self.metric().to_owned()),
            ("config".to_owned(), serde_json::to_string(&self.config)?),
            ("classes".to_owned(), serde_json::to_string(self.train.classes())?),
            ("validation_images".to_owned(), self.val.len().to_string()),
        ]))
    }
}

/// What `train_det` trains.
pub struct DetectionTraining;

/// Scores from which on an object is drawn.
const DRAWN_SCORE: f32 = 0.3;

impl Training for DetectionTraining {
    type Config = DetectionConfig;
    type Task = DetectionTask;

    const DEMO: &'static str = include_str!("../../../../configs/demo/scenes_det.toml");

    fn validate(config: &DetectionConfig) -> Result<()> {
        config.validate()
    }

    fn name(config: &DetectionConfig) -> &str {
        &config.name
    }

    fn init(config: &DetectionConfig) -> &Init {
        &config.init
    }

    fn train(config: &DetectionConfig) -> &TrainConfig {
        &config.train
    }

    fn open(config: &DetectionConfig) -> Result<DetectionTask> {
        DetectionTask::new(config)
    }

    fn initial_model(task: &DetectionTask, config: &DetectionConfig, device: &Device) -> Result<(MaskRcnn<Backbone>, Option<LoadReport>)> {
        config.train.precision.adopt(device).context("train.precision")?;
        initial_model(&task.model_config(), &config.init, config.train.seed, device)
    }

    fn complexity(task: &DetectionTask, config: &DetectionConfig) -> (Complexity, [usize; 2]) {
        // The published counts are for a wide image of the largest training scale.
        let side = config.data.train.scales.iter().map(|scale| scale[0].min(scale[1])).max().unwrap_or(800);
        let size = [side, if side == 800 { 1280 } else { side }];
        (task.model_config().complexity(size), size)
    }

    fn describe_data(task: &DetectionTask, config: &DetectionConfig) -> String {
        let from = match &config.data.source {
            DetectionSource::Coco { root, .. } => root.display().to_string(),
            DetectionSource::Scenes { .. } => "built-in scenes".to_owned(),
        };
        let (train, val) = (task.train.len(), task.val.len());
        format!("data: {from}, {} classes, {train} training and {val} validation images", task.train.classes().len())
    }

    fn finish(task: &DetectionTask, model: &MaskRcnn<Backbone>, device: &Device, folder: &Path, count: usize) -> Result<usize> {
        let data = &task.val;
        let detector = task.detector(model, device);
        let count = count.min(data.len());
        for position in 0..count {
            let sample = data.get(position * data.len() / count)?;
            let found = detector.detect(&sample.image);
            let picture = objects::comparison(&sample.image, Some(&sample.instances), &found, data.classes(), DRAWN_SCORE);
            pictures::save(&folder.join(format!("{}.png", sample.name)), &picture)?;
        }
        if let Some(Reports { boxes, masks }) = task.reports.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            let truth = data.truth()?;
            let ids: Vec<i64> = truth.categories.iter().map(|category| category.id).collect();
            print!("{}", category_table(boxes, masks, data.classes(), &ids).text());
            print!("{}", statistics_table(boxes, masks).text());
            println!("{}", summary(boxes, masks));
            if let Some(run) = folder.parent() {
                precision_recall(run, boxes, "bbox")?;
                precision_recall(run, masks, "segm")?;
            }
        }
        Ok(count)
    }
}

/// A detector from a checkpoint, ready to predict.
pub struct LoadedDetector {
    /// The model, without gradients.
    pub model: MaskRcnn<Backbone>,
    /// How it was trained.
    pub config: DetectionConfig,
    /// Its classes.
    pub classes: ClassList,
    /// Whether their names are known: an official checkpoint tells only how many they are.
    pub names_known: bool,
    /// The iteration of the checkpoint, if it says so.
    pub iteration: Option<u64>,
}

/// Loads a detector. A checkpoint of these tools carries its configuration and classes; for an official one, `config` says what the model is
/// and its data give the classes.
///
/// # Errors
/// When the file is no detection checkpoint, does not fit, or needs a configuration.
pub fn load_detector(path: &Path, config: Option<DetectionConfig>, device: &Device) -> Result<LoadedDetector> {
    let checkpoint = Checkpoint::read(path)?;
    let metadata = checkpoint.metadata().clone();
    let own = checkpoint.is_ours();
    if let Some(task) = metadata.get("task").filter(|task| own && *task != TASK) {
        bail!("{} is a checkpoint for {task}, not for {TASK}", path.display());
    }
    let field = |name: &str| metadata.get(name).filter(|_| own);
    let config = match (config, field("config")) {
        (Some(config), _) => config,
        (None, Some(text)) => serde_json::from_str(text).with_context(|| format!("{}: its configuration", path.display()))?,
        (None, None) => bail!("{} does not say what model it is; name its configuration with --config", path.display()),
    };
    let (classes, names_known): (ClassList, bool) = match field("classes") {
        Some(text) => (serde_json::from_str(text).with_context(|| format!("{}: its classes", path.display()))?, true),
        None => match mask_rcnn::num_classes(&checkpoint)? {
            Some(80) => (vision_datasets::coco::classes(), true),
            Some(classes) => (ClassList::numbered(classes), false),
            None => bail!("{} has no `roi_head.bbox_head.fc_cls.weight`; is it a Mask R-CNN?", path.display()),
        },
    };
    let (model, _) = config.model.for_classes(classes.len()).load_checkpoint(&checkpoint, device)?;
    let iteration = field("iteration").and_then(|text| text.parse().ok());
    Ok(LoadedDetector { model: model.valid(), config, classes, names_known, iteration })
}
