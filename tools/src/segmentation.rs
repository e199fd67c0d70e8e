//! What the programs do with segmentors: results of a training run, evaluation, photos.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use burn::prelude::Device;
use clap::Args;
use image::RgbImage;
use serde_json::{Value, json};
use upernet::UperNet;
use vision_datasets::sample::SegmentationDataset;
use vmamba::zoo::Backbone;
use vmamba_recipes::Split;
use vmamba_recipes::segmentation::config::{FolderSource, SegmentationSource, default_slide};
use vmamba_recipes::segmentation::{LoadedSegmentor, Predictor, Segmentation, SegmentationConfig, SegmentationEvaluation, load_segmentor};
use vmamba_report::label_maps::{self, Classes};
use vmamba_report::pictures;
use vmamba_report::segmentation::{class_table, summary};
use vmamba_report::tables::Table;
use vmamba_study::published::{Measured, segmentation_row};
use vmamba_train::Precision;
use vmamba_types::ClassList;

use crate::evaluation::{Evaluate, Prediction};
use crate::options::replace;
use crate::photos::{LABELS, OVERLAY, with_suffix};
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
    fn draw(&self, model: &Self::Model, device: &Device, folder: &Path, count: usize) -> Result<usize> {
        let (data, predictor) = (self.validation(), self.predictor(model, device));
        let indices = spread(count, data.len());
        let drawn = indices.len();
        for index in indices {
            let sample = data.get(index)?;
            let labels = predictor.predict(&sample.image)?;
            let truth = Some(sample.labels.as_slice());
            let picture = label_maps::comparison(&sample.image, truth, &labels, named(data.classes()), OPACITY)?;
            pictures::save(&folder.join(format!("{}.png", sample.name)), &picture)?;
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
    /// Segmentor: sliding windows of the training crop's size, with a stride of two thirds of it, instead of whole images.
    #[arg(long)]
    pub slide: bool,
}

impl InferenceOptions {
    /// Sets the inference mode of a segmentor.
    pub fn apply(self, segmentor: &mut LoadedSegmentor) {
        if self.slide {
            segmentor.config.test.mode = default_slide(segmentor.config.data.train.crop.size);
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

impl Evaluate for LoadedSegmentor {
    type Options = SegmentationOptions;
    type Config = SegmentationConfig;
    type Data = Arc<dyn SegmentationDataset>;
    type Figures = SegmentationEvaluation;

    fn load(checkpoint: &Path, mut config: Option<SegmentationConfig>, root: Option<&Path>, device: &Device) -> Result<Self> {
        if let Some(SegmentationSource::Folder(source)) = config.as_mut().map(|config| &mut config.data.source) {
            replace(&mut source.root, root);
        }
        load_segmentor(checkpoint, config, device)
    }

    fn open_data(&mut self, root: Option<&Path>, options: &SegmentationOptions) -> Result<Self::Data> {
        if let SegmentationSource::Folder(FolderSource { root: own, val_split, .. }) = &mut self.config.data.source {
            replace(own, root);
            if let Some(split) = &options.split {
                val_split.clone_from(split);
            }
        } else if root.is_some() || options.split.is_some() {
            bail!("--data and --split need a model that was trained on a folder; this one was not");
        }
        options.inference.apply(self);
        let data = self.config.data.source.open(Split::Val)?;
        if data.classes().len() != self.classes.len() {
            bail!("the model knows {} classes, the data have {}", self.classes.len(), data.classes().len());
        }
        Ok(data)
    }

    fn images(data: &Self::Data) -> usize {
        data.len()
    }

    fn evaluate(&self, data: &Self::Data, how: &Prediction, options: &SegmentationOptions) -> Result<SegmentationEvaluation> {
        let folders = how.folder("pictures")?.zip(how.folder("labels")?);
        predictor(self, how.device, how.precision, options.inference.tta).evaluate(data, self.config.data.workers, |_, sample, labels| {
            if let Some((drawn, maps)) = &folders {
                let (image, file) = (&sample.image, format!("{}.png", sample.name));
                let truth = Some(sample.labels.as_slice());
                pictures::save(&drawn.join(&file), &label_maps::comparison(image, truth, labels, named(&self.classes), OPACITY)?)?;
                label_maps::save_labels(&maps.join(&file), labels, image.width(), image.height())?;
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
        Ok(segmentation_row(&self.config.name)?.map(|row| (row.compare(measured), row.source.clone())))
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
    device: &'a Device,
    precision: Precision,
    augment: bool,
) -> Predictor<'a, UperNet<Backbone>> {
    let (pipeline, test) = (&segmentor.config.data.test, &segmentor.config.test);
    Predictor { model: &segmentor.model, device, pipeline, test, augment, precision }
}

/// Predicts a photo and writes `<prefix>_overlay.png` and `<prefix>_labels.png`; `augment` turns test-time augmentation on, `alpha` is the
/// opacity of the overlay.
///
/// # Errors
/// When a file cannot be written.
pub fn predict_photo(
    segmentor: &LoadedSegmentor,
    (device, precision): (&Device, Precision),
    photo: &RgbImage,
    (augment, alpha): (bool, f32),
    prefix: &Path,
) -> Result<()> {
    let labels = predictor(segmentor, device, precision, augment).predict(photo)?;
    let picture = label_maps::comparison(photo, None, &labels, named(&segmentor.classes), alpha)?;
    pictures::save(&with_suffix(prefix, OVERLAY), &picture)?;
    Ok(label_maps::save_labels(&with_suffix(prefix, LABELS), &labels, photo.width(), photo.height())?)
}
