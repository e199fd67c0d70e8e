//! Evaluation of a segmentor: every image through the network, its label map counted.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::prelude::*;
use burn::tensor::TensorData;
use upernet::UperNet;
use upernet::inference::{InferenceMode, View, label_map, predict, predict_augmented};
use vision_datasets::ade20k::{IouMetric, IouReport};
use vision_datasets::image_io;
use vision_datasets::loader::Prefetch;
use vision_datasets::sample::{ClassList, SegmentationDataset, SegmentationSample};
use vision_datasets::transforms::{NetworkInput, TestPipeline};
use vmamba::Vmamba;

use super::config::TestConfig;
use crate::report::tables::{Cell, Table};

/// The figures of a data set.
pub struct Evaluation {
    /// mIoU and the rest.
    pub report: IouReport,
    /// Images a second, reading included.
    pub images_per_second: f64,
    /// Number of images.
    pub images: usize,
}

/// Evaluates a model; `each` sees every sample with its predicted labels, in order.
///
/// # Errors
/// When a sample cannot be read, or `each` fails.
#[expect(clippy::too_many_arguments, reason = "a flat list reads better here than a struct that is used once")]
pub fn evaluate(
    model: &UperNet<Vmamba>,
    device: &Device,
    data: &Arc<dyn SegmentationDataset>,
    pipeline: &TestPipeline,
    test: &TestConfig,
    augment: bool,
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
        let labels = predict_labels(model, device, &sample.image, pipeline, test, augment)?;
        metric.add(sample.labels.as_slice(), &labels);
        each(index, &sample, &labels)?;
    }
    let images = data.len();
    Ok(Evaluation { report: metric.report(), images_per_second: images as f64 / begin.elapsed().as_secs_f64(), images })
}

/// The predicted class of every pixel of an image, in its original size.
///
/// # Errors
/// When test-time augmentation has no view.
pub fn predict_labels(
    model: &UperNet<Vmamba>,
    device: &Device,
    image: &image::RgbImage,
    pipeline: &TestPipeline,
    test: &TestConfig,
    augment: bool,
) -> Result<Vec<u8>> {
    let original = [image.height() as usize, image.width() as usize];
    let view = |input: NetworkInput, flipped: bool| View { input: to_tensor(input, device), flipped };
    let scores = if augment {
        let views = test.tta_ratios.0.iter().flat_map(|ratio| {
            let plain = view(pipeline.apply_scaled(image, *ratio), false);
            let mirrored = View { input: plain.input.clone().flip([3]), flipped: true };
            [plain, mirrored]
        });
        predict_augmented(model, views, test.mode, original).context("test-time augmentation without a view")?
    } else {
        predict(model, view(pipeline.apply(image), false), test.mode, original)
    };
    Ok(label_map(scores).into_iter().map(|class| class as u8).collect())
}

fn to_tensor(input: NetworkInput, device: &Device) -> Tensor<4> {
    let [height, width] = input.size;
    Tensor::from_data(TensorData::new(input.values, [1, 3, height, width]), device)
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

/// Reads a photo for prediction.
///
/// # Errors
/// When it cannot be decoded.
pub fn read_photo(path: &std::path::Path) -> Result<image::RgbImage> {
    Ok(image_io::read_rgb(path)?)
}
