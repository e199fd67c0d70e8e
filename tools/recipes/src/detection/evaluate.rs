//! Prediction and evaluation of a detector.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use image::RgbImage;
use vision_datasets::coco::{EvalConfig, EvalError, EvalReport, IouType, ResultEntry, evaluate, to_results};
use vision_datasets::ground_truth::GroundTruth;
use vision_datasets::loader::detection_samples;
use vision_datasets::sample::{DetectionDataset, DetectionSample};
use vision_datasets::transforms::{DetectionTestPipeline, padded_size};
use vmamba_detection::{Detector, ImageInfo};
use vmamba_train::Precision;
use vmamba_types::Detection;

use super::model::DetectionModelConfig;
use crate::finite::explained;
use crate::memory::{EstimateOfImage, Logits, MemoryEstimate, PredictedPhoto};

/// A detector with everything its predictions depend on.
pub struct Predictor<'a, M> {
    /// The model, without gradients.
    pub model: &'a M,
    /// The device of the model.
    pub device: &'a Device,
    /// Transforms of an image before the network.
    pub pipeline: &'a DetectionTestPipeline,
    /// Type of the activations.
    pub precision: Precision,
    /// Estimates the memory of an image, which is compared with the free memory before the image is predicted; `None` for no comparison.
    pub memory: Option<EstimateOfImage<'a>>,
}

/// The memory for the prediction of an image of `[height, width]` pixels; `drawn` counts a picture of the result.
pub fn prediction_memory(
    model: &DetectionModelConfig,
    num_classes: usize,
    pipeline: &DetectionTestPipeline,
    stored: [usize; 2],
    drawn: bool,
) -> MemoryEstimate {
    let resized = padded_size(pipeline.resized(stored));
    MemoryEstimate::photo(&model.complexity(num_classes, resized), PredictedPhoto { stored, resized, views: 1, drawn }, Logits::default())
}

/// What to do about an image that needs too much memory.
const REMEDY: &str = "make it smaller, or set a smaller data.test.scale with --config and --set";

/// Average precision of a detector.
#[derive(Clone, Debug)]
pub struct Reports {
    /// Of boxes; `None` when the annotations have no object.
    pub boxes: Option<EvalReport>,
    /// Of masks; `None` when the annotations have no object, or an object has no mask.
    pub masks: Option<EvalReport>,
    /// Category ids of the annotations by class index.
    pub category_ids: Vec<i64>,
    /// What a reader of the figures must know, one sentence each.
    pub notes: Vec<String>,
}

impl Reports {
    /// Compares results with the ground truth, as far as its annotations go.
    ///
    /// # Errors
    /// When a result does not fit the ground truth.
    pub fn new(truth: &GroundTruth, results: &[ResultEntry]) -> Result<Self, EvalError> {
        let category_ids = truth.categories.iter().map(|category| category.id).collect();
        let mut reports = Self { boxes: None, masks: None, category_ids, notes: Vec::new() };
        if !truth.has_objects() {
            reports.notes.push("the annotations have no object, so there is no AP".to_owned());
            return Ok(reports);
        }
        let report = |kind| evaluate(truth, results, &EvalConfig::mmdetection(kind));
        reports.boxes = Some(report(IouType::Bbox)?);
        match truth.without_masks() {
            Some(without) => reports.notes.push(format!("no segm AP: {without}")),
            None => reports.masks = Some(report(IouType::Segm)?),
        }
        let zero = reports.named().into_iter().filter_map(|(kind, report)| {
            let [theirs, ..] = report.with_id_0_unmatched?;
            let [theirs, ours] = [theirs, report.stats[0]].map(|share| share * 100.0);
            Some(format!(
                "annotation 0: pycocotools takes a match with id 0 as no match and would give {kind} AP {theirs:.2} instead of {ours:.2}; number \
                 annotations from 1"
            ))
        });
        let zero: Vec<String> = zero.collect();
        reports.notes.extend(zero);
        Ok(reports)
    }

    /// The reports that are there, with their kinds.
    pub fn named(&self) -> Vec<(&'static str, &EvalReport)> {
        let kinds = [(IouType::Bbox, &self.boxes), (IouType::Segm, &self.masks)];
        kinds.into_iter().filter_map(|(kind, report)| Some((kind.name(), report.as_ref()?))).collect()
    }
}

/// The figures of a detector on a data set.
pub struct DetectionEvaluation {
    /// Of boxes and masks.
    pub reports: Reports,
    /// All detections as COCO results.
    pub results: Vec<ResultEntry>,
    /// Images a second, reading included, evaluation not.
    pub images_per_second: f64,
    /// Seconds the evaluation took.
    pub evaluation_seconds: f64,
    /// Number of images.
    pub images: usize,
}

impl<M: Detector + Module> Predictor<'_, M> {
    /// The objects of an image in descending order of their scores, in pixels of the image.
    ///
    /// # Errors
    /// When an output of the network is not finite; names the first bad tensor of the weights, or the image.
    /// [`ImageTooLarge`](crate::memory::ImageTooLarge) when the image needs more memory than is free.
    pub fn predict(&self, image: &RgbImage) -> Result<Vec<Detection>> {
        let original = [image.height() as usize, image.width() as usize];
        if let Some(memory) = &self.memory {
            memory(original).check_image(original, REMEDY)?;
        }
        let (input, size) = self.pipeline.apply(image);
        let [height, width] = input.size;
        let info = ImageInfo::new(original, size);
        let images = self.precision.input(Tensor::<4>::from_data(TensorData::new(input.values, [1, 3, height, width]), self.device));
        match self.model.predict(images.clone(), &[info]) {
            Ok(found) => Ok(found.into_iter().next().unwrap_or_default()),
            Err(error) => Err(explained(&error, self.model, M::official_key, &images)),
        }
    }

    /// Evaluates a data set. `workers` threads prefetch its images; `each` is called with every sample and its detections, in order.
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
        let mut found = Vec::with_capacity(data.len());
        for (index, sample) in detection_samples(Arc::clone(data), workers).enumerate() {
            let sample = sample?;
            let detections = self.predict(&sample.image).with_context(|| sample.name.clone())?;
            each(index, &sample, &detections)?;
            found.push((sample.image_id, detections));
        }
        let images_per_second = data.len() as f64 / begin.elapsed().as_secs_f64();

        let begin = Instant::now();
        let truth = data.truth()?;
        let results = to_results(&truth, &found).context("the detections do not fit the annotations")?;
        Ok(DetectionEvaluation {
            reports: Reports::new(&truth, &results).context("evaluation")?,
            images_per_second,
            evaluation_seconds: begin.elapsed().as_secs_f64(),
            images: data.len(),
            results,
        })
    }
}
