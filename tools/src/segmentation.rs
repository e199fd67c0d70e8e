//! What the programs do with segmentors: results of a training run, evaluation, photos.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::prelude::Device;
use clap::Args;
use image::RgbImage;
use serde_json::{Value, json};
use upernet::UperNet;
use upernet::inference::{InferenceMode, SlidingWindows};
use vision_datasets::relabelled::Relabelled;
use vision_datasets::sample::SegmentationDataset;
use vmamba::checkpoint::{LoadReport, Weights};
use vmamba::zoo::Backbone;
use vmamba_recipes::MemoryEstimate;
use vmamba_recipes::Split;
use vmamba_recipes::memory::EstimateOfImage;
use vmamba_recipes::segmentation::config::SegmentationSource;
use vmamba_recipes::segmentation::{
    LoadedSegmentor, Predictor, Segmentation, SegmentationConfig, SegmentationEvaluation, SegmentationTask, load_segmentor,
};
use vmamba_report::RunPictures;
use vmamba_report::label_maps::{self, Classes};
use vmamba_report::pictures;
use vmamba_report::println;
use vmamba_report::segmentation::{class_table, summary};
use vmamba_report::tables::Table;
use vmamba_study::published::{Measured, SegmentationRow, published, segmentation_row};
use vmamba_train::Precision;
use vmamba_types::{ClassList, ClassOrder, LabelMap};

use crate::evaluation::{Evaluate, LABEL_MAPS, PICTURES, Prediction};
use crate::photos::{LABELS, OVERLAY, ResultNames, place, with_suffix};
use crate::present::{Present, spread};

/// Opacity of the classes over a photo.
pub const OPACITY: f32 = 0.6;

/// Training of the built-in segmentor.
pub type Training = Segmentation<UperNet<Backbone>>;

/// Names and colours of classes.
fn named(classes: &ClassList) -> Classes<'_> {
    Classes { names: &classes.names, palette: &classes.palette }
}

impl Present for Training {
    fn draw(&self, model: &Self::Model, device: &Device, pictures: &mut RunPictures, count: usize) -> Result<usize> {
        let (data, predictor) = (self.validation(), self.predictor(model, device));
        let indices = spread(count, data.len());
        let drawn = indices.len();
        let mut names = ResultNames::default();
        for index in indices {
            let sample = data.get(index)?;
            let labels = predictor.predict(&sample.image)?;
            let truth = Some(sample.labels.as_slice());
            let picture = label_maps::comparison(&sample.image, truth, &labels, named(data.classes()), OPACITY)?;
            pictures.save(&format!("{}.png", names.next(&sample.name)), &picture)?;
        }
        Ok(drawn)
    }

    fn results(&self, _folder: &Path) -> Result<String> {
        let Some(report) = self.newest_report() else { return Ok(String::new()) };
        Ok(class_table(&report, self.validation().classes()).text() + &summary(&report) + "\n")
    }
}

/// How a segmentor predicts.
#[derive(Args, Clone, Copy, Debug)]
pub struct InferenceOptions {
    /// Segmentor: test-time augmentation with six scales, each with and without flip.
    #[arg(long)]
    pub tta: bool,
    /// Segmentor: sliding windows of the training crop's size over the image at its own size, with a stride of two thirds of the crop, instead
    /// of whole images that are resized for the network.
    #[arg(long)]
    pub slide: bool,
}

impl InferenceOptions {
    /// Sets the inference mode of a segmentor.
    ///
    /// Windows over an image that was resized to the size of a crop before would be whole images, so `slide` leaves out the resize. A
    /// configuration with `test.mode = { slide = ... }` keeps it: mmsegmentation's `slide_inference` gets the resized image of the test pipeline.
    pub fn apply(self, segmentor: &mut LoadedSegmentor) {
        if self.slide {
            segmentor.config.data.test.resize = None;
            segmentor.config.test.mode = InferenceMode::Slide(SlidingWindows::overlapping(segmentor.config.data.train.crop.size));
        }
    }
}

/// Options of the evaluation of a segmentor.
#[derive(Args, Clone, Debug)]
pub struct SegmentationOptions {
    /// Name of the split to evaluate, instead of the configuration's validation split.
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    #[command(flatten)]
    inference: InferenceOptions,
}

/// Data to evaluate a segmentor on, with labels in the order of its classes.
pub struct TestData {
    samples: Arc<dyn SegmentationDataset>,
    /// The index in the data's class list of every class of the model.
    numbers: Vec<u8>,
}

impl TestData {
    /// Compares the names of the classes. Where both have the same classes in another order, the labels are mapped by name.
    fn new(data: Arc<dyn SegmentationDataset>, model: &ClassList) -> Result<Self> {
        let same = (0..=u8::MAX).collect();
        let order = ClassOrder::of(model, data.classes()).map_err(anyhow::Error::msg)?;
        let ClassOrder::Other(labels) = order else { return Ok(Self { samples: data, numbers: same }) };
        println!("the data have the classes of the model in another order; labels are mapped by the names of the classes");
        let mut numbers: Vec<u8> = same;
        for (own, of_model) in (0..=u8::MAX).zip(&labels) {
            if let Some(number) = numbers.get_mut(*of_model) {
                *number = own;
            }
        }
        Ok(Self { samples: Arc::new(Relabelled::new(data, model.clone(), &labels)), numbers })
    }

    /// Predicted labels in the numbers of the data.
    fn own_labels(&self, labels: &[u8]) -> Vec<u8> {
        labels.iter().map(|label| self.numbers.get(usize::from(*label)).copied().unwrap_or(*label)).collect()
    }
}

/// Writes labels as training reads them: with `reduce_zero_label`, classes count from 1 in the file (mmsegmentation's `IoUMetric.format_only`
/// adds 1 too).
fn save_labels(path: &Path, labels: Vec<u8>, [width, height]: [u32; 2], source: &SegmentationSource) -> Result<()> {
    let labels = if source.reduce_zero_label() {
        LabelMap::new(height as usize, width as usize, labels).restore_zero_label().into_vec()
    } else {
        labels
    };
    Ok(label_maps::save_labels(path, &labels, width, height)?)
}

impl Evaluate for LoadedSegmentor {
    type Options = SegmentationOptions;
    type Task = SegmentationTask;
    type Data = TestData;
    type Figures = SegmentationEvaluation;

    fn load(
        checkpoint: &Path,
        mut config: Option<SegmentationConfig>,
        root: Option<&Path>,
        weights: Weights,
        device: &Device,
    ) -> Result<Self> {
        if let (Some(SegmentationSource::Folder(source)), Some(root)) = (config.as_mut().map(|config| &mut config.data.source), root) {
            source.move_to(root);
        }
        load_segmentor(checkpoint, config, weights, device)
    }

    fn memory(&self) -> MemoryEstimate {
        LoadedSegmentor::memory(self)
    }

    fn report(&self) -> &LoadReport {
        &self.report
    }

    fn open_data(&mut self, root: Option<&Path>, options: &SegmentationOptions) -> Result<Self::Data> {
        if let SegmentationSource::Folder(source) = &mut self.config.data.source {
            root.into_iter().for_each(|root| source.move_to(root));
            if let Some(split) = &options.split {
                source.val_split.clone_from(split);
            }
        } else if root.is_some() || options.split.is_some() {
            bail!("--data and --split need a model that was trained on a folder; this one was not");
        }
        options.inference.apply(self);
        let (data, place) = (self.config.data.source.open(Split::Val)?, self.config.data.source.place());
        println!("data: {place}");
        data.notes().iter().for_each(|note| println!("{note}"));
        TestData::new(data, &self.classes).with_context(|| format!("the classes of {} and of {place} differ", self.checkpoint.display()))
    }

    fn images(data: &Self::Data) -> usize {
        data.samples.len()
    }

    fn evaluate(&self, data: &Self::Data, how: &Prediction, options: &SegmentationOptions) -> Result<SegmentationEvaluation> {
        let folders = how.folder(PICTURES)?.zip(how.folder(LABEL_MAPS)?);
        let memory = how.check_memory.then(|| self.memory_of_images(options.inference.tta, how.out.is_some()));
        let predictor = predictor(self, (how.device, how.precision), options.inference.tta, memory);
        let workers = self.config.data.workers;
        let mut names = ResultNames::default();
        predictor.evaluate(&data.samples, workers, |_, sample, labels| {
            if let Some((drawn, maps)) = &folders {
                let (image, file) = (&sample.image, format!("{}.png", names.next(&sample.name)));
                let truth = Some(sample.labels.as_slice());
                let picture = label_maps::comparison(image, truth, labels, named(&self.classes), OPACITY)?;
                pictures::save(&place(drawn, &file)?, &picture)?;
                save_labels(&place(maps, &file)?, data.own_labels(labels), [image.width(), image.height()], &self.config.data.source)?;
            }
            how.bar.inc(1);
            Ok(())
        })
    }

    fn tables(&self, _data: &Self::Data, figures: &SegmentationEvaluation) -> Result<String> {
        let SegmentationEvaluation { report, images, images_per_second: rate } = figures;
        Ok(format!("{}{}  ({images} images, {rate:.2} images/s)\n", class_table(report, &self.classes).text(), summary(report)))
    }

    fn published(&self, figures: &SegmentationEvaluation, options: &SegmentationOptions) -> Result<Option<(Table, String)>> {
        let own = Some(figures.report.mean_iou * 100.0);
        let measured = if options.inference.tta {
            Measured { miou_ms: own, ..Measured::default() }
        } else {
            Measured { miou_ss: own, ..Measured::default() }
        };
        // A figure of sliding windows is no match for one of whole images, nor the other way.
        let slides = matches!(self.config.test.mode, InferenceMode::Slide(_));
        let same_mode =
            |row: &&SegmentationRow| published().is_ok_and(|all| all.segmentation_setting(row).is_some_and(|s| s.slide == slides));
        Ok(segmentation_row(&self.config.name)?.filter(same_mode).map(|row| (row.compare(measured), row.source.clone())))
    }

    fn json(&self, _data: &Self::Data, figures: &SegmentationEvaluation, options: &SegmentationOptions) -> Result<Value> {
        Ok(json!({
            "config": self.config.name, "iteration": self.iteration, "tta": options.inference.tta, "mode": self.config.test.mode,
            "images": figures.images, "classes": self.classes.names, "metrics": figures.report, "configuration": self.config,
        }))
    }
}

fn predictor<'a>(
    segmentor: &'a LoadedSegmentor,
    (device, precision): (&'a Device, Precision),
    augment: bool,
    memory: Option<EstimateOfImage<'a>>,
) -> Predictor<'a, UperNet<Backbone>> {
    let (pipeline, test) = (&segmentor.config.data.test, &segmentor.config.test);
    Predictor { model: &segmentor.model, device, pipeline, test, augment, precision, memory }
}

/// Predicts a photo and writes `<prefix>_overlay.png` and `<prefix>_labels.png`; `augment` turns test-time augmentation on, `alpha` is the
/// opacity of the overlay, `check_memory` compares the estimated memory with the free memory.
///
/// # Errors
/// When the photo needs too much memory, or a file cannot be written.
pub fn predict_photo(
    segmentor: &LoadedSegmentor,
    (device, precision, check_memory): (&Device, Precision, bool),
    photo: &RgbImage,
    (augment, alpha): (bool, f32),
    prefix: &Path,
) -> Result<()> {
    let memory = check_memory.then(|| segmentor.memory_of_images(augment, true));
    let labels = predictor(segmentor, (device, precision), augment, memory).predict(photo)?;
    let picture = label_maps::comparison(photo, None, &labels, named(&segmentor.classes), alpha)?;
    pictures::save(&with_suffix(prefix, OVERLAY), &picture)?;
    save_labels(&with_suffix(prefix, LABELS), labels, [photo.width(), photo.height()], &segmentor.config.data.source)
}
