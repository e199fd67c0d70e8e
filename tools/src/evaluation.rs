//! Programs that evaluate a trained model: load it, predict every image of a data set, print tables, write results.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::prelude::Device;
use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use vmamba::checkpoint::{LoadReport, Weights};
use vmamba_recipes::MemoryEstimate;
use vmamba_recipes::TaskConfig;
use vmamba_recipes::run_config::RunConfig;
use vmamba_report::console::{progress_bar, weights_line};
use vmamba_report::files::create_folder;
use vmamba_report::tables::Table;
use vmamba_report::{print, println};
use vmamba_train::Precision;

use crate::options::{ComputeOptions, JsonOption, MemoryOption, ModelOptions, PhotoOptions, check_out};

/// Folder of the pictures below that of the results.
pub const PICTURES: &str = "pictures";
/// Folder of the label maps below that of the results.
pub const LABEL_MAPS: &str = "labels";

/// Options of a program that evaluates a trained model.
#[derive(Args, Clone, Debug)]
pub struct EvaluationOptions {
    #[command(flatten)]
    model: ModelOptions,
    /// Folder of the data, instead of the configuration's.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    json: JsonOption,
    /// Folder for pictures of image, ground truth and prediction; for a detector also for results in COCO's format and precision-recall
    /// curves, for a segmentor also for label maps.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    limit: PhotoOptions,
    #[command(flatten)]
    compute: ComputeOptions,
    #[command(flatten)]
    memory: MemoryOption,
}

/// How a data set is predicted.
pub struct Prediction<'a> {
    /// The device of the model.
    pub device: &'a Device,
    /// Type of the activations.
    pub precision: Precision,
    /// Whether the estimated memory of each image is compared with the free memory.
    pub check_memory: bool,
    /// Folder for pictures and results, if they are wanted.
    pub out: Option<&'a Path>,
    /// Counts the images.
    pub bar: &'a ProgressBar,
}

impl Prediction<'_> {
    /// Creates a folder below [`Prediction::out`], if that is given.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn folder(&self, name: &str) -> Result<Option<PathBuf>> {
        let Some(folder) = self.out.map(|out| out.join(name)) else { return Ok(None) };
        create_folder(&folder)?;
        Ok(Some(folder))
    }
}

/// A trained model that programs evaluate.
pub trait Evaluate: Sized {
    /// Options of this task.
    type Options;
    /// The task of the model, which determines its configuration.
    type Task: TaskConfig;
    /// The data to evaluate on.
    type Data;
    /// The figures of an evaluation.
    type Figures;

    /// Loads the model of a checkpoint, with `config` where it is given. `root` is the folder of the data, if it is not the configuration's;
    /// the classes of a foreign checkpoint come from there.
    ///
    /// # Errors
    /// When the checkpoint is of another task or model, or needs a configuration.
    fn load(
        checkpoint: &Path,
        config: Option<RunConfig<Self::Task>>,
        root: Option<&Path>,
        weights: Weights,
        device: &Device,
    ) -> Result<Self>;

    /// Opens the data of the configuration, or those in the folder `root` and of the options.
    ///
    /// # Errors
    /// When the data are missing, or have other classes than the model.
    fn open_data(&mut self, root: Option<&Path>, options: &Self::Options) -> Result<Self::Data>;

    /// Which set and which keys of the checkpoint were loaded.
    fn report(&self) -> &LoadReport;

    /// The memory for the prediction of an image.
    fn memory(&self) -> MemoryEstimate;

    /// The number of images.
    fn images(data: &Self::Data) -> usize;

    /// Checks, before any image is predicted, that there will be a result: figures, or files in the folder `out`.
    ///
    /// # Errors
    /// When there would be none.
    fn check(&self, _data: &Self::Data, _out: Option<&Path>) -> Result<()> {
        Ok(())
    }

    /// Predicts all images, draws them where a folder is given, and evaluates the predictions.
    ///
    /// # Errors
    /// When an image cannot be read, or a file cannot be written.
    fn evaluate(&self, data: &Self::Data, how: &Prediction, options: &Self::Options) -> Result<Self::Figures>;

    /// The tables of the figures and a summary, as text.
    ///
    /// # Errors
    /// When the data cannot be read.
    fn tables(&self, data: &Self::Data, figures: &Self::Figures) -> Result<String>;

    /// The published row of this configuration beside the figures, and its source.
    ///
    /// # Errors
    /// When the published tables are damaged.
    fn published(&self, figures: &Self::Figures, options: &Self::Options) -> Result<Option<(Table, String)>>;

    /// Writes results into `out` that need all images; there are none by default.
    ///
    /// # Errors
    /// When a file cannot be written.
    fn write_results(&self, _figures: &Self::Figures, _out: &Path) -> Result<()> {
        Ok(())
    }

    /// The model and the figures as a JSON object, to which checkpoint and precision are added.
    ///
    /// # Errors
    /// When the data cannot be read.
    fn json(&self, data: &Self::Data, figures: &Self::Figures, options: &Self::Options) -> Result<Value>;
}

/// Prints which set of a checkpoint was loaded.
pub fn say_weights(checkpoint: &Path, report: &LoadReport) {
    report.origin.iter().for_each(|origin| println!("{}", weights_line(checkpoint, origin)));
}

/// Runs a program that evaluates a trained model.
///
/// # Errors
/// On the first failure.
pub fn run<E: Evaluate>(options: &EvaluationOptions, task: &E::Options) -> Result<()> {
    let (checkpoint, precision) = (&options.model.checkpoint, options.compute.precision);
    options.limit.apply();
    options.json.reserve()?;
    if let Some(out) = &options.out {
        check_out(out)?;
        // Results have the names of the images, so nothing in these folders is safe.
        [PICTURES, LABEL_MAPS].iter().for_each(|inner| vmamba_files::reserve_all_in("--out", &out.join(inner)));
    }
    let device = options.compute.open()?;
    let weights = options.model.weights.chosen();
    let mut model = E::load(checkpoint, options.model.config()?, options.data.as_deref(), weights, &device)?;
    say_weights(checkpoint, model.report());
    let data = model.open_data(options.data.as_deref(), task)?;
    model.check(&data, options.out.as_deref())?;
    options.memory.check(model.memory(), options.compute.on_cpu())?;
    let bar = progress_bar(E::images(&data) as u64);
    let check_memory = options.memory.applies(options.compute.on_cpu());
    let how = Prediction { device: &device, precision, check_memory, out: options.out.as_deref(), bar: &bar };
    let figures = model.evaluate(&data, &how, task)?;
    bar.finish_and_clear();

    print!("{}", model.tables(&data, &figures)?);
    if let Some((table, source)) = model.published(&figures, task)? {
        print!("{}", table.text());
        println!("source: {source}");
    }
    if let Some(out) = &options.out {
        model.write_results(&figures, out)?;
        println!("results and pictures are in {}", out.display());
    }
    let figures = model.json(&data, &figures, task)?;
    options.json.write(|| {
        let set = model.report().origin.as_ref().map(|origin| origin.set.clone());
        let mut document = json!({"checkpoint": checkpoint, "weights": set, "precision": precision});
        if let (Value::Object(document), Value::Object(figures)) = (&mut document, figures) {
            document.extend(figures);
        }
        document
    })
}
