//! Prediction and evaluation of a detector: every image through the network, its objects compared with the truth.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::prelude::*;
use burn::tensor::TensorData;
use image::RgbImage;
use mask_rcnn::MaskRcnn;
use vision_datasets::coco::{EvalConfig, EvalReport, IouType, ResultEntry, evaluate, to_results};
use vision_datasets::loader::Prefetch;
use vision_datasets::sample::{ClassList, Detection, DetectionDataset, DetectionSample};
use vision_datasets::transforms::DetectionTestPipeline;
use vmamba::zoo::Backbone;
use vmamba_detection::{Detector as _, ImageInfo};

use crate::engine::precision::Precision;
use crate::report::tables::{Cell, Table};

/// A model with everything its predictions depend on.
pub struct Detector<'a> {
    /// Without gradients.
    pub model: &'a MaskRcnn<Backbone>,
    /// Where it is.
    pub device: &'a Device,
    /// What an image goes through before the network.
    pub pipeline: &'a DetectionTestPipeline,
    /// Type of the activations.
    pub precision: Precision,
}

/// The figures of a data set.
pub struct DetectionEvaluation {
    /// For boxes.
    pub boxes: EvalReport,
    /// For masks.
    pub masks: EvalReport,
    /// All detections in COCO's terms.
    pub results: Vec<ResultEntry>,
    /// Images a second, reading included, evaluation not.
    pub images_per_second: f64,
    /// Seconds the evaluation took.
    pub evaluation_seconds: f64,
    /// Number of images.
    pub images: usize,
}

impl Detector<'_> {
    /// The objects of an image, by falling score, in pixels of the image.
    pub fn detect(&self, image: &RgbImage) -> Vec<Detection> {
        let (input, size) = self.pipeline.apply(image);
        let [height, width] = input.size;
        let info = ImageInfo::new([image.height() as usize, image.width() as usize], size);
        let images = Tensor::<4>::from_data(TensorData::new(input.values, [1, 3, height, width]), self.device);
        self.model.predict(self.precision.input(images), &[info]).into_iter().next().unwrap_or_default()
    }

    /// Evaluates a data set that `workers` threads read ahead; `each` sees every sample with its objects, in order.
    ///
    /// # Errors
    /// When a sample cannot be read, or `each` fails.
    pub fn evaluate(
        &self,
        data: &Arc<dyn DetectionDataset>,
        workers: usize,
        mut each: impl FnMut(usize, &DetectionSample, &[Detection]) -> Result<()>,
    ) -> Result<DetectionEvaluation> {
        let begin = Instant::now();
        let samples = {
            let data = Arc::clone(data);
            Prefetch::new(0..data.len() as u64, workers, 2 * workers, move |index| data.get(index as usize))
        };
        let mut found = Vec::with_capacity(data.len());
        for (index, sample) in samples.enumerate() {
            let sample = sample?;
            let detections = self.detect(&sample.image);
            each(index, &sample, &detections)?;
            found.push((sample.image_id, detections));
        }
        let images_per_second = data.len() as f64 / begin.elapsed().as_secs_f64();

        let begin = Instant::now();
        let truth = data.truth()?;
        let results = to_results(&truth, &found).context("the detections do not fit the annotations")?;
        let report = |kind| evaluate(&truth, &results, &EvalConfig::mmdetection(kind)).context("evaluation");
        Ok(DetectionEvaluation {
            boxes: report(IouType::Bbox)?,
            masks: report(IouType::Segm)?,
            images_per_second,
            evaluation_seconds: begin.elapsed().as_secs_f64(),
            images: data.len(),
            results,
        })
    }
}

/// A share in percent; -1 is no value.
fn percent(share: f64) -> Cell {
    if share < 0.0 { Cell::Missing } else { Cell::percent(share) }
}

/// Names of the twelve statistics by mmdetection's limits.
pub const STATISTICS: [&str; 12] = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "AR300", "AR1000", "ARs", "ARm", "ARl"];

/// The twelve statistics for boxes and masks.
pub fn statistics_table(boxes: &EvalReport, masks: &EvalReport) -> Table {
    let mut table = Table::new(["", "bbox", "segm"]);
    for (name, (boxes, masks)) in STATISTICS.iter().zip(boxes.stats.into_iter().zip(masks.stats)) {
        table.push([Cell::from(*name), percent(boxes), percent(masks)]);
    }
    table
}

/// AP of every class.
pub fn category_table(boxes: &EvalReport, masks: &EvalReport, classes: &ClassList, ids: &[i64]) -> Table {
    let mut table = Table::new(["class", "bbox AP", "AP50", "AP75", "segm AP", "AP50", "AP75"]);
    let places = boxes.category_ids();
    for (name, id) in classes.names.iter().zip(ids) {
        let Some(place) = places.iter().position(|own| own == id) else { continue };
        let (b, m) = (boxes.of_category(place), masks.of_category(place));
        let cells = [b[0], b[1], b[2], m[0], m[1], m[2]].map(percent);
        table.push(std::iter::once(Cell::Text(name.clone())).chain(cells));
    }
    table
}

/// The line under the tables.
pub fn summary(boxes: &EvalReport, masks: &EvalReport) -> String {
    let of = |report: &EvalReport| {
        let [ap, ap50, ap75] = [0, 1, 2].map(|index| report.stats[index].max(0.0) * 100.0);
        format!("AP {ap:.2}  AP50 {ap50:.2}  AP75 {ap75:.2}")
    };
    format!("bbox {}   segm {}", of(boxes), of(masks))
}
