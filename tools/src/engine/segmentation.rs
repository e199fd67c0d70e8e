//! Semantic segmentation: data, model, starting weights, and the task the trainer runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anstream::{print, println};
use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use upernet::{Segmentor, UperNet, UperNetConfig, official_key};
use vision_datasets::ade20k::{self, FolderDataset, IouReport};
use vision_datasets::loader::{Batch, LoaderConfig, TrainLoader};
use vision_datasets::sample::{ClassList, DataError, SegmentationDataset};
use vision_datasets::scenes::SceneDataset;
use vmamba::checkpoint::{Checkpoint, LoadReport};
use vmamba::complexity::Complexity;
use vmamba::zoo::Backbone;

use super::config::{DataSource, Init, ModelConfig, SegmentationConfig, TrainConfig};
use super::evaluate::{Predictor, class_table, summary};
use super::guard::is_finite;
use super::logging::Scalars;
use super::parameters::KeyMap;
use super::precision::Precision;
use super::run::Training;
use super::trainer::{StepLoss, Task};
use crate::report::pictures::{self, Classes};

/// What a segmentation checkpoint calls itself in its metadata.
pub const TASK: &str = "segmentation";

/// Opens a split of the configured data.
///
/// # Errors
/// When a folder or class list is missing or wrong.
pub fn open_data(source: &DataSource, validation: bool) -> Result<Arc<dyn SegmentationDataset>> {
    if let Some(scenes) = source.scenes(validation) {
        return Ok(Arc::new(SceneDataset::new(scenes)?));
    }
    match source {
        DataSource::Folder { root, reduce_zero_label, train_split, val_split, .. } => {
            let split = if validation { val_split } else { train_split };
            Ok(Arc::new(FolderDataset::open(root, split, read_classes(source)?, *reduce_zero_label)?))
        }
        DataSource::Scenes { .. } => bail!("data.source: no scenes"),
    }
}

/// The classes of a folder.
fn read_classes(source: &DataSource) -> Result<ClassList> {
    match source {
        DataSource::Folder { root, classes: Some(file), .. } => Ok(ClassList::read(&root.join(file))?),
        _ => Ok(ade20k::classes()),
    }
}

/// The configuration of the whole model for a number of classes.
pub fn model_config(model: &ModelConfig, num_classes: usize) -> UperNetConfig {
    UperNetConfig { backbone: model.backbone.clone(), num_classes, head: model.head.clone(), auxiliary: model.auxiliary.clone() }
}

/// Builds the model with the weights the configuration starts from. Random weights are drawn with `seed`.
///
/// # Errors
/// When the checkpoint is missing or does not fit: training never starts from other weights than were asked for.
pub fn initial_model(config: &UperNetConfig, init: &Init, seed: u64, device: &Device) -> Result<(UperNet<Backbone>, Option<LoadReport>)> {
    device.seed(seed);
    let Init::Checkpoint(path) = init else { return Ok((config.try_init(device).context("model")?, None)) };
    let (model, report) = config.init_from(path, device).with_context(|| format!("init = \"{}\"", path.display()))?;
    Ok((model, Some(report)))
}

/// Training of a segmentor.
pub struct SegmentationTask {
    config: SegmentationConfig,
    train: Arc<dyn SegmentationDataset>,
    val: Arc<dyn SegmentationDataset>,
    report: Mutex<Option<IouReport>>,
}

impl SegmentationTask {
    /// Opens the data.
    ///
    /// # Errors
    /// When they are missing or wrong.
    pub fn new(config: &SegmentationConfig) -> Result<Self> {
        let (train, val) = (open_data(&config.data.source, false)?, open_data(&config.data.source, true)?);
        Ok(Self { config: config.clone(), train, val, report: Mutex::new(None) })
    }

    /// The configuration of the model for these data.
    pub fn model_config(&self) -> UperNetConfig {
        model_config(&self.config.model, self.train.classes().len())
    }

    /// The validation set.
    pub fn validation(&self) -> &Arc<dyn SegmentationDataset> {
        &self.val
    }

    /// What the newest validation found.
    pub fn newest_report(&self) -> Option<IouReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Predicts as the validation does.
    pub fn predictor<'a>(&'a self, model: &'a UperNet<Backbone>, device: &'a Device) -> Predictor<'a> {
        let (pipeline, test) = (&self.config.data.test, &self.config.test);
        Predictor { model, device, pipeline, test, augment: false, precision: Precision::Float32 }
    }
}

impl Task for SegmentationTask {
    type Model = UperNet<Backbone>;
    type Batch = Batch;

    fn samples(&self) -> usize {
        self.train.len()
    }

    fn batches(&self, first: u64) -> Box<dyn Iterator<Item = Result<Batch, DataError>>> {
        let loader = LoaderConfig {
            batch_size: self.config.train.batch_size,
            seed: self.config.train.seed,
            workers: self.config.data.workers,
            ahead: 2 * self.config.data.workers,
        };
        Box::new(TrainLoader::new(Arc::clone(&self.train), self.config.data.train.clone(), loader, first))
    }

    fn names(&self, batch: &Batch) -> Vec<String> {
        batch.names.clone()
    }

    fn diagnose(&self, model: &UperNet<Backbone>, batch: &Batch, device: &Device) -> Option<String> {
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
        first
    }

    fn loss(&self, model: &UperNet<Backbone>, batch: &Batch, device: &Device, _seed: u64) -> StepLoss {
        let [height, width] = batch.size;
        let images = self.config.train.precision.input(images(batch, device));
        let labels: Vec<i64> = batch.labels.iter().map(|label| i64::from(*label)).collect();
        let labels = Tensor::<3, Int>::from_data(TensorData::new(labels, [batch.len, height, width]), device);
        let loss = model.loss(images, labels);
        let scalar = |t: &Tensor<1>| f64::from(t.clone().into_scalar::<f32>());
        let parts = loss.parts.iter().map(|(name, part)| (name.clone(), scalar(part))).chain(loss.accuracies).collect();
        StepLoss { total: loss.total, parts }
    }

    fn validate(&self, model: &UperNet<Backbone>, device: &Device) -> Result<Scalars> {
        let report = self.predictor(model, device).evaluate(&self.val, self.config.data.workers, |_, _, _| Ok(()))?.report;
        let figures = [("mIoU", report.mean_iou), ("mAcc", report.mean_accuracy), ("aAcc", report.all_accuracy)];
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        Ok(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn keys(&self) -> KeyMap {
        official_key
    }

    fn name(&self) -> String {
        self.config.name.clone()
    }

    fn metric(&self) -> &'static str {
        "mIoU"
    }

    fn plotted(&self) -> &'static [&'static str] {
        &["loss", "decode.loss_ce", "aux.loss_ce"]
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

/// What `train_seg` trains.
pub struct SegmentationTraining;

impl Training for SegmentationTraining {
    type Config = SegmentationConfig;
    type Task = SegmentationTask;

    const DEMO: &'static str = include_str!("../../../configs/demo/scenes_seg.toml");

    fn validate(config: &SegmentationConfig) -> Result<()> {
        config.validate()
    }

    fn name(config: &SegmentationConfig) -> &str {
        &config.name
    }

    fn init(config: &SegmentationConfig) -> &Init {
        &config.init
    }

    fn train(config: &SegmentationConfig) -> &TrainConfig {
        &config.train
    }

    fn open(config: &SegmentationConfig) -> Result<SegmentationTask> {
        SegmentationTask::new(config)
    }

    fn initial_model(
        task: &SegmentationTask,
        config: &SegmentationConfig,
        device: &Device,
    ) -> Result<(UperNet<Backbone>, Option<LoadReport>)> {
        config.train.precision.adopt(device).context("train.precision")?;
        initial_model(&task.model_config(), &config.init, config.train.seed, device)
    }

    fn complexity(task: &SegmentationTask, config: &SegmentationConfig) -> (Complexity, [usize; 2]) {
        let size = config.data.train.crop.size;
        (task.model_config().complexity(size), size)
    }

    fn describe_data(task: &SegmentationTask, config: &SegmentationConfig) -> String {
        let from = match &config.data.source {
            DataSource::Folder { root, .. } => root.display().to_string(),
            DataSource::Scenes { .. } => "built-in scenes".to_owned(),
        };
        let (train, val) = (task.train.len(), task.val.len());
        format!("data: {from}, {} classes, {train} training and {val} validation images", task.train.classes().len())
    }

    fn finish(task: &SegmentationTask, model: &UperNet<Backbone>, device: &Device, folder: &Path, count: usize) -> Result<usize> {
        let data = task.validation();
        let classes = data.classes();
        let predictor = task.predictor(model, device);
        let count = count.min(data.len());
        for position in 0..count {
            let sample = data.get(position * data.len() / count)?;
            let labels = predictor.labels(&sample.image)?;
            let colours = Classes { names: &classes.names, palette: &classes.palette };
            let picture = pictures::comparison(&sample.image, Some(sample.labels.as_slice()), &labels, colours, 0.6)?;
            pictures::save(&folder.join(format!("{}.png", sample.name)), &picture)?;
        }
        if let Some(report) = task.newest_report() {
            print!("{}", class_table(&report, classes).text());
            println!("{}", summary(&report));
        }
        Ok(count)
    }
}

/// The images of a batch, `[batch, 3, height, width]`.
fn images(batch: &Batch, device: &Device) -> Tensor<4> {
    let [height, width] = batch.size;
    Tensor::from_data(TensorData::new(batch.images.clone(), [batch.len, 3, height, width]), device)
}

/// A segmentor from a checkpoint, ready to predict.
pub struct LoadedSegmentor {
    /// The model, without gradients.
    pub model: UperNet<Backbone>,
    /// How it was trained.
    pub config: SegmentationConfig,
    /// Its classes.
    pub classes: ClassList,
    /// The iteration of the checkpoint, if it says so.
    pub iteration: Option<u64>,
}

/// Loads a segmentor. A checkpoint of these tools carries its configuration and classes; for an official one, `config` says what the model
/// is and its data give the classes.
///
/// # Errors
/// When the file is no segmentation checkpoint, does not fit, or needs a configuration.
pub fn load_segmentor(path: &Path, config: Option<SegmentationConfig>, device: &Device) -> Result<LoadedSegmentor> {
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
    let classes: ClassList = match field("classes") {
        Some(text) => serde_json::from_str(text).with_context(|| format!("{}: its classes", path.display()))?,
        None => match &config.data.source {
            DataSource::Folder { .. } => read_classes(&config.data.source)?,
            DataSource::Scenes { .. } => vision_datasets::scenes::scene_classes(),
        },
    };
    let (model, _) = model_config(&config.model, classes.len()).load_checkpoint(&checkpoint, device)?;
    let iteration = field("iteration").and_then(|text| text.parse().ok());
    Ok(LoadedSegmentor { model: model.valid(), config, classes, iteration })
}
