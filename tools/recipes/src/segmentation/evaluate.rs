//! Prediction and evaluation of a segmentor.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Error, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use burn::tensor::TensorData;
use image::RgbImage;
use upernet::inference::{InferenceMode, View, label_map, predict_augmented, predict_labels};
use upernet::{Segmentor, UperNetConfig};
use vision_datasets::ade20k::{IouMetric, IouReport};
use vision_datasets::loader::segmentation_samples;
use vision_datasets::sample::{SegmentationDataset, SegmentationSample};
use vision_datasets::transforms::{NetworkInput, TestPipeline, scaled_size};
use vmamba::NotFinite;
use vmamba_train::Precision;

use super::config::TestConfig;
use crate::finite::explained;
use crate::memory::{EstimateOfImage, Logits, MemoryEstimate, PredictedPhoto};

/// A segmentor with everything its predictions depend on.
pub struct Predictor<'a, M> {
    /// The model, without gradients.
    pub model: &'a M,
    /// The device of the model.
    pub device: &'a Device,
    /// Transforms of an image before the network.
    pub pipeline: &'a TestPipeline,
    /// Whole image or windows, and the scales of test-time augmentation.
    pub test: &'a TestConfig,
    /// Whether to average over scales and flips.
    pub augment: bool,
    /// Type of the activations.
    pub precision: Precision,
    /// Estimates the memory of an image, which is compared with the free memory before the image is predicted; `None` for no comparison.
    pub memory: Option<EstimateOfImage<'a>>,
}

/// What the memory for the prediction of an image depends on.
#[derive(Clone, Copy, Debug)]
pub struct PredictionSettings<'a> {
    /// The model.
    pub model: &'a UperNetConfig,
    /// Transforms of an image before the network.
    pub pipeline: &'a TestPipeline,
    /// Whole image or windows, and the scales of test-time augmentation.
    pub test: &'a TestConfig,
    /// Whether to average over scales and flips.
    pub augment: bool,
    /// Whether a picture of the result is drawn.
    pub drawn: bool,
}

impl PredictionSettings<'_> {
    /// The memory for the prediction of an image of `[height, width]` pixels.
    pub fn memory(&self, stored: [usize; 2]) -> MemoryEstimate {
        let resized = if self.augment {
            scaled_size(stored, self.test.tta_ratios.0.iter().copied().fold(0.0, f64::max))
        } else {
            self.pipeline.resized(stored)
        };
        let values =
            |[height, width]: [usize; 2]| [self.model.num_classes, height, width].iter().fold(1, |a, b| u64::saturating_mul(a, *b as u64));
        let times = |count: u64, size: [usize; 2]| values(size).saturating_mul(count);
        let input = match self.test.mode {
            InferenceMode::Whole => resized,
            InferenceMode::Slide(windows) => [0, 1].map(|axis| windows.crop()[axis].min(resized[axis])),
        };
        let mut logits = match self.test.mode {
            // The labels are taken from the output of the network.
            InferenceMode::Whole if resized == stored && !self.augment => Logits::default(),
            InferenceMode::Whole => Logits { beside: 0, after: times(2, resized) },
            // The rows of a window, those of the next, and a copy.
            InferenceMode::Slide(_) if resized == stored && !self.augment => Logits { beside: times(3, [input[0], resized[1]]), after: 0 },
            InferenceMode::Slide(_) => Logits { beside: times(3, resized), after: 0 },
        };
        if self.augment {
            // The sum over the views, the softmax of one of them, and the logits of the view before.
            logits.beside = logits.beside.saturating_add(times(1, stored)).saturating_add(times(1, resized));
            logits.after = logits.after.saturating_add(times(3, stored));
        }
        let photo = PredictedPhoto { stored, resized, views: if self.augment { 2 } else { 1 }, drawn: self.drawn };
        MemoryEstimate::photo(&self.model.complexity(input), photo, logits)
    }
}

/// What to do about an image that needs too much memory.
const REMEDY: &str = "predict it in windows with --slide, or set a smaller data.test.resize with --config and --set";

/// The figures of a segmentor on a data set.
pub struct SegmentationEvaluation {
    /// mIoU and the rest.
    pub report: IouReport,
    /// Images a second, reading included.
    pub images_per_second: f64,
    /// Number of images.
    pub images: usize,
}

impl<M: Segmentor + Module> Predictor<'_, M> {
    /// The predicted class of every pixel of an image, row by row.
    ///
    /// # Errors
    /// When test-time augmentation has no view, or a class does not fit the 8 bits of a label map. When a logit is not finite; names the first
    /// bad tensor of the weights, or the image. [`ImageTooLarge`](crate::memory::ImageTooLarge) when the image needs more memory than is free.
    pub fn predict(&self, image: &RgbImage) -> Result<Vec<u8>> {
        let original = [image.height() as usize, image.width() as usize];
        if let Some(memory) = &self.memory {
            memory(original).check_image(original, REMEDY)?;
        }
        let view = |input: NetworkInput, flipped: bool| View { input: self.to_tensor(input), flipped };
        let labels = if self.augment {
            let views = self.test.tta_ratios.0.iter().flat_map(|ratio| {
                let plain = view(self.pipeline.apply_scaled(image, *ratio), false);
                let mirrored = View { input: plain.input.clone().flip([3]), flipped: true };
                [plain, mirrored]
            });
            let scores = predict_augmented(self.model, views, self.test.mode, original).map_err(|error| self.explained(&error, image))?;
            label_map(scores.context("test-time augmentation without a view")?)
        } else {
            let view = view(self.pipeline.apply(image), false);
            predict_labels(self.model, view, self.test.mode, original).map_err(|error| self.explained(&error, image))?
        };
        let label = |class| u8::try_from(class).with_context(|| format!("class {class} does not fit the 8 bits of a label map"));
        labels.into_iter().map(label).collect()
    }

    /// Evaluates a data set. `workers` threads prefetch its images; `each` is called with every sample and its predicted labels, in order.
    ///
    /// # Errors
    /// When a sample cannot be read, or `each` fails.
    pub fn evaluate(
        &self,
        data: &Arc<dyn SegmentationDataset>,
        workers: usize,
        mut each: impl FnMut(usize, &SegmentationSample, &[u8]) -> Result<()>,
    ) -> Result<SegmentationEvaluation> {
        let begin = Instant::now();
        let mut metric = IouMetric::new(data.classes().len());
        for (index, sample) in segmentation_samples(Arc::clone(data), workers).enumerate() {
            let sample = sample?;
            let labels = self.predict(&sample.image).with_context(|| sample.name.clone())?;
            metric.add(sample.labels.as_slice(), &labels);
            each(index, &sample, &labels)?;
        }
        let (images, report) = (data.len(), metric.report());
        if report.labelled.iter().all(|pixels| *pixels == 0) {
            bail!("the data have no labelled pixel, so that there is no mIoU: every pixel of every label map is ignored");
        }
        Ok(SegmentationEvaluation { report, images_per_second: images as f64 / begin.elapsed().as_secs_f64(), images })
    }

    fn explained(&self, error: &NotFinite, image: &RgbImage) -> Error {
        explained(error, self.model, M::official_key, &self.to_tensor(self.pipeline.apply(image)))
    }

    fn to_tensor(&self, input: NetworkInput) -> Tensor<4> {
        let [height, width] = input.size;
        self.precision.input(Tensor::from_data(TensorData::new(input.values, [1, 3, height, width]), self.device))
    }
}
