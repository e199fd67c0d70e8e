//! Prediction and evaluation of a segmentor: every image through the network, its label map counted.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::prelude::*;
use burn::tensor::TensorData;
use image::RgbImage;
use upernet::UperNet;
use upernet::inference::{InferenceMode, View, label_map, predict_augmented, predict_labels};
use vision_datasets::ade20k::{IouMetric, IouReport};
use vision_datasets::loader::Prefetch;
use vision_datasets::sample::{SegmentationDataset, SegmentationSample};
use vision_datasets::transforms::{NetworkInput, TestPipeline};
use vmamba::zoo::Backbone;
use vmamba_types::ClassList;

use super::config::TestConfig;
use super::precision::Precision;
use crate::report::tables::{Cell, Table};

/// A model with everything its predictions depend on.
pub struct Predictor<'a> {
    /// Without gradients.
    pub model: &'a UperNet<Backbone>,
    /// Where it is.
    pub device: &'a Device,
    /// What an image goes through before the network.
    pub pipeline: &'a TestPipeline,
    /// Whole image or windows, and the scales of test-time augmentation.
    pub test: &'a TestConfig,
    /// Whether to average over scales and flips.
    pub augment: bool,
    /// Type of the activations.
    pub precision: Precision,
}

/// The figures of a data set.
pub struct Evaluation {
    /// mIoU and the rest.
    pub report: IouReport,
    /// Images a second, reading included.
    pub images_per_second: f64,
    /// Number of images.
    pub images: usize,
}

impl Predictor<'_> {
    /// The predicted class of every pixel of an image, in its original size.
    ///
    /// # Errors
    /// When test-time augmentation has no view.
    pub fn labels(&self, image: &RgbImage) -> Result<Vec<u8>> {
        let original = [image.height() as usize, image.width() as usize];
        let view = |input: NetworkInput, flipped: bool| View { input: self.to_tensor(input), flipped };
        let labels = if self.augment {
            let views = self.test.tta_ratios.0.iter().flat_map(|ratio| {
                let plain = view(self.pipeline.apply_scaled(image, *ratio), false);
                let mirrored = View { input: plain.input.clone().flip([3]), flipped: true };
                [plain, mirrored]
            });
            let scores = predict_augmented(self.model, views, self.test.mode, original);
            label_map(scores.context("test-time augmentation without a view")?)
        } else {
            predict_labels(self.model, view(self.pipeline.apply(image), false), self.test.mode, original)
        };
        Ok(labels.into_iter().map(|class| class as u8).collect())
    }

    /// Evaluates a data set that `workers` threads read ahead; `each` sees every sample with its predicted labels, in order.
    ///
    /// # Errors
    /// When a sample cannot be read, or `each` fails.
    pub fn evaluate(
        &self,
        data: &Arc<dyn SegmentationDataset>,
        workers: usize,
        mut each: impl FnMut(usize, &SegmentationSample, &[u8]) -> Result<()>,
    ) -> Result<Evaluation> {
        let begin = Instant::now();
        let mut metric = IouMetric::new(data.classes().len());
        let samples = {
            let data = Arc::clone(data);
            Prefetch::new(0..data.len() as u64, workers, 2 * workers, move |index| data.get(index as usize))
        };
        for (index, sample) in samples.enumerate() {
            let sample = sample?;
            let labels = self.labels(&sample.image)?;
            metric.add(sample.labels.as_slice(), &labels);
            each(index, &sample, &labels)?;
        }
        let images = data.len();
        Ok(Evaluation { report: metric.report(), images_per_second: images as f64 / begin.elapsed().as_secs_f64(), images })
    }

    fn to_tensor(&self, input: NetworkInput) -> Tensor<4> {
        let [height, width] = input.size;
        self.precision.input(Tensor::from_data(TensorData::new(input.values, [1, 3, height, width]), self.device))
    }
}

/// Sliding windows for a model trained on crops: windows of the crop's size, two thirds apart.
pub fn default_slide(crop: [usize; 2]) -> InferenceMode {
    InferenceMode::Slide { crop, stride: crop.map(|side| (side * 2 / 3).max(1)) }
}

/// Figures a class, in percent; classes that do not occur have none.
pub fn class_table(report: &IouReport, classes: &ClassList) -> Table {
    let mut table = Table::new(["class", "IoU", "Acc", "pixels"]);
    let percent = |value: f64| if value.is_nan() { Cell::Missing } else { Cell::percent(value) };
    for (((name, iou), accuracy), pixels) in classes.names.iter().zip(&report.iou).zip(&report.accuracy).zip(&report.labelled) {
        table.push([Cell::Text(name.clone()), percent(*iou), percent(*accuracy), Cell::Integer(*pixels as i64)]);
    }
    let total: u64 = report.labelled.iter().sum();
    table.push([Cell::Text("mean".into()), percent(report.mean_iou), percent(report.mean_accuracy), Cell::Integer(total as i64)]);
    table
}

/// The three figures of the field in one line, in percent.
pub fn summary(report: &IouReport) -> String {
    let [all, iou, accuracy] = [report.all_accuracy, report.mean_iou, report.mean_accuracy].map(|share| share * 100.0);
    format!("aAcc {all:.2}  mIoU {iou:.2}  mAcc {accuracy:.2}")
}
