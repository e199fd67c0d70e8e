//! Prediction and evaluation of a detector.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use image::RgbImage;
use vision_datasets::coco::{EvalConfig, EvalReport, IouType, ResultEntry, evaluate, to_results};
use vision_datasets::loader::detection_samples;
use vision_datasets::sample::{DetectionDataset, DetectionSample};
use vision_datasets::transforms::DetectionTestPipeline;
use vmamba_detection::{Detector, ImageInfo};
use vmamba_train::Precision;
use vmamba_types::Detection;

use crate::finite::explained;

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
}

/// The figures of a detector on a data set.
pub struct DetectionEvaluation {
    /// Of boxes.
    pub boxes: EvalReport,
    /// Of masks.
    pub masks: EvalReport,
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
    pub fn predict(&self, image: &RgbImage) -> Result<Vec<Detection>> {
        let (input, size) = self.pipeline.apply(image);
        let [height, width] = input.size;
        let info = ImageInfo::new([image.height() as usize, image.width() as usize], size);
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
