//! An estimate of the memory that a run or a prediction needs, from the configuration alone, so that it is known before a model is built.
//!
//! The counts of [`Complexity`] walk over the shapes of all layers. Parameters cost their bytes, and as many for the gradients and for each
//! state tensor of the optimiser. What a forward pass writes is multiplied by factors that were fitted to measured peaks: the largest
//! resident memory (`VmHWM` in `/proc/PID/status`) of three steps of `train_seg` and `train_det` on two CPU cores.
//!
//! | run | measured | estimate |
//! |---|---|---|
//! | demo segmentor, batches of 8 | 85 MiB | 89 MiB |
//! | demo segmentor, batches of 16 | 144 MiB | 143 MiB |
//! | demo detector, batches of 4 | 74 MiB | 83 MiB |
//! | Mask R-CNN on VMamba-T, 224 x 224, batches of 1 | 860 MiB | 831 MiB |
//! | UperNet on VMamba-T, 224 x 224, batches of 2 | 938 MiB | 983 MiB |
//! | demo segmentor, photos of 2000 x 1600 resized to at most 6000 x 4800 before the crop | 217 MiB | 263 MiB |
//! | demo segmentor, validation at 1500 x 1500 | 323 MiB | 269 MiB |
//! | demo detector, scales of 128 and 320 | 252 MiB | 240 MiB |
//! | demo detector, scale of 4000 before the crop | 167 MiB | 175 MiB |
//! | `predict`, demo segmentor, photo of 1500 x 1200 | 248 MiB | 216 MiB |
//! | `predict --slide`, the same | 69 MiB | 72 MiB |
//! | `predict`, demo detector, the same | 179 MiB | 187 MiB |
//!
//! `tests/memory.rs` measures again and requires a factor of at most 1.5 between estimate and measurement.

use std::fmt;

use vision_datasets::memory::{bytes, free_memory};
use vmamba::complexity::Complexity;
use vmamba_train::{Precision, TrainConfig};

/// Bytes of a float32 number.
const FLOAT: u64 = 4;

/// The program itself, its threads and the buffers of its kernels.
const PROGRAM: u64 = 20 << 20;

/// What a training step keeps for the backward pass, and the gradients of the activations, in units of what the layers write.
const KEPT: f64 = 1.05;

/// What a training step needs besides while a layer computes, in units of what the largest layer reads and writes.
const WORKING: f64 = 0.85;

/// What is kept for the gradients of the input alone, in units of what the layers write. Weights need no copy of their inputs then.
const KEPT_FOR_INPUT: f64 = 0.4;

/// What a prediction needs at one time, in units of what the largest layer reads and writes.
const PREDICTING: f64 = 1.6;

/// Copies of a batch of images: in the loader, as a tensor, and normalised.
const COPIES: u64 = 2;

/// Bytes a pixel of a decoded photo with its labels.
const DECODED: u64 = 4;

/// Bytes a pixel of a photo that is resized.
const RESIZED: u64 = 3;

/// Bytes a pixel of a photo for its labels and its picture: the photo, its overlay, both side by side, under a legend, and encoded.
const PICTURE: u64 = 24;

/// Images whose sizes are read to find the largest of a data set.
const SAMPLED: usize = 256;

/// The memory that a run or a prediction needs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The program without model and data.
    pub program: u64,
    /// The parameters.
    pub weights: u64,
    /// The state of the optimiser.
    pub optimizer: u64,
    /// The averaged parameters.
    pub averages: u64,
    /// The parameters of the best validation.
    pub best: u64,
    /// The gradients of the parameters during a step.
    pub gradients: u64,
    /// What the layers write during a step or a prediction.
    pub activations: u64,
    /// The copy of parameters, averages and optimiser that a checkpoint is written from. It takes the place of gradients and activations,
    /// which are free between steps.
    pub checkpoint: u64,
    /// Additional memory of a validation. It needs no gradients and no stored activations.
    pub validation: u64,
    /// Images that are read ahead or predicted.
    pub images: u64,
}

/// Sizes `[height, width]` of the images of a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingImages {
    /// Of the network's input.
    pub input: [usize; 2],
    /// Of the largest photo.
    pub stored: [usize; 2],
    /// Of the largest photo after its resize, before a crop.
    pub resized: [usize; 2],
}

/// Sizes `[height, width]` of a photo that is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictedPhoto {
    /// Of the photo.
    pub stored: [usize; 2],
    /// After its resize.
    pub resized: [usize; 2],
    /// Views of it at a time: two with test-time augmentation.
    pub views: u64,
    /// Whether a picture of the result is drawn.
    pub drawn: bool,
}

/// Numbers of values of the logits of a prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logits {
    /// Those that are stored beside every forward pass.
    pub beside: u64,
    /// Those that are stored after the forward passes.
    pub after: u64,
}

/// The validation of a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validation {
    /// The prediction of the largest image.
    pub prediction: MemoryEstimate,
    /// `[height, width]` of that image.
    pub largest: [usize; 2],
    /// Number of images.
    pub images: usize,
}

/// More memory is needed than the system has free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the estimate of the memory is {}, the system has {} free ({estimate}); make batch, images or model smaller, or try it all the same \
     with --ignore-memory",
    bytes(estimate.total()),
    bytes(*free)
)]
pub struct OutOfMemory {
    /// What is needed.
    pub estimate: MemoryEstimate,
    /// Bytes that are free.
    pub free: u64,
}

/// An image needs more memory than the system has free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the image of {}x{} pixels (width x height) needs about {} of memory, the system has {} free; {remedy}, or try it all the same with \
     --ignore-memory",
    size[1],
    size[0],
    bytes(*needed),
    bytes(*free)
)]
pub struct ImageTooLarge {
    /// `[height, width]` of the image.
    pub size: [usize; 2],
    /// Bytes that its prediction needs.
    pub needed: u64,
    /// Bytes that are free.
    pub free: u64,
    /// What to do about it.
    pub remedy: &'static str,
}

/// Estimates the memory for the prediction of an image of `[height, width]`.
pub type EstimateOfImage<'a> = Box<dyn Fn([usize; 2]) -> MemoryEstimate + 'a>;

/// The largest image of `len`, whose sizes `[height, width]` are `size`. Sizes may have to be read from files, so that some hundreds spread over
/// all images stand for a large data set. An image that cannot be read is skipped; the loader reports it.
pub fn largest_image<E>(len: usize, size: impl Fn(usize) -> Result<[usize; 2], E>) -> [usize; 2] {
    let step = len.div_ceil(SAMPLED).max(1);
    let sizes = (0..len).step_by(step).filter_map(|index| size(index).ok());
    sizes.max_by_key(|size| area(*size)).unwrap_or([0, 0])
}

impl MemoryEstimate {
    /// A training run whose steps have the cost `step` for one image, on the CPU, with `workers` threads that read images.
    pub fn training(step: &Complexity, images: TrainingImages, config: &TrainConfig, workers: usize, validation: Validation) -> Self {
        let (batch, workers) = (config.batch_size as u64, workers as u64);
        let value = if config.precision == Precision::Bf16 { FLOAT / 2 } else { FLOAT };
        let weights = step.params.saturating_mul(FLOAT);
        let kept = (step.outputs as f64 * KEPT + step.largest as f64 * WORKING) as u64;
        // The loader prepares two batches for every thread.
        let batches = 2 * workers + COPIES;
        let optimizer = weights.saturating_mul(config.optimizer.algorithm.state_tensors() as u64);
        let averages = if config.ema.is_some() { weights } else { 0 };
        let transformed = area(images.stored).saturating_mul(DECODED).saturating_add(area(images.resized).saturating_mul(RESIZED));
        let batched = pixels(images.input).saturating_mul(batch).saturating_mul(batches);
        let Validation { prediction, largest, images: validated } = validation;
        // Two samples wait for every thread.
        let ahead = area(largest).saturating_mul(DECODED).saturating_mul((2 * workers).min(validated as u64));
        Self {
            program: PROGRAM,
            weights,
            optimizer,
            averages,
            best: weights,
            gradients: weights,
            checkpoint: weights.saturating_add(optimizer).saturating_add(averages),
            activations: kept.saturating_mul(value).saturating_mul(batch),
            validation: prediction.activations.saturating_add(prediction.images).saturating_add(ahead),
            images: batched.saturating_add(transformed.saturating_mul(workers)),
        }
    }

    /// The prediction of a photo and its picture, on the CPU. `cost` is that of a forward pass.
    pub fn photo(cost: &Complexity, photo: PredictedPhoto, logits: Logits) -> Self {
        let PredictedPhoto { stored, resized, views, drawn } = photo;
        let network = (cost.largest as f64 * PREDICTING) as u64;
        let values = network.saturating_add(logits.beside).max(logits.after);
        let predicting = values.saturating_mul(FLOAT).saturating_add(pixels(resized).saturating_mul(views));
        let picture = if drawn { area(stored).saturating_mul(PICTURE) } else { 0 };
        Self {
            program: PROGRAM,
            weights: cost.params.saturating_mul(FLOAT),
            activations: predicting.max(picture),
            images: area(stored).saturating_mul(DECODED),
            ..Self::default()
        }
    }

    /// Compares what the image of `size` needs beside the model with the memory that the system has free.
    ///
    /// # Errors
    /// When more is needed than is free.
    pub fn check_image(self, size: [usize; 2], remedy: &'static str) -> Result<(), ImageTooLarge> {
        // Not worth a question to the system.
        const LITTLE: u64 = 64 << 20;
        let needed = Self { program: 0, weights: 0, ..self }.total();
        match free_memory().filter(|free| needed > LITTLE && needed > *free) {
            Some(free) => Err(ImageTooLarge { size, needed, free, remedy }),
            None => Ok(()),
        }
    }

    /// The gradients of the input of a network, whose forward pass has the cost `cost` for an image of `[height, width]` pixels, on the CPU.
    /// Parameters have none.
    pub fn gradients(cost: &Complexity, image: [usize; 2]) -> Self {
        let kept = (cost.outputs as f64 * KEPT_FOR_INPUT + cost.largest as f64 * WORKING) as u64;
        Self { activations: kept.saturating_mul(FLOAT), ..Self::prediction(cost, image, 1) }
    }

    /// The prediction of `batch` images at a time of `[height, width]` pixels, whose cost is `cost` for one image, on the CPU.
    pub fn prediction(cost: &Complexity, image: [usize; 2], batch: usize) -> Self {
        let working = (cost.largest as f64 * PREDICTING) as u64;
        Self {
            program: PROGRAM,
            weights: cost.params.saturating_mul(FLOAT),
            activations: working.saturating_mul(FLOAT).saturating_mul(batch as u64),
            images: pixels(image).saturating_mul(batch as u64).saturating_mul(COPIES),
            ..Self::default()
        }
    }

    /// The sum, in which a step, a validation or a checkpoint counts, whichever is the most.
    pub fn total(&self) -> u64 {
        let passing = self.gradients.saturating_add(self.activations).max(self.checkpoint).max(self.validation);
        let parts = [self.program, self.weights, self.optimizer, self.averages, self.best, passing, self.images];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// Compares the estimate with the memory that the system has free.
    ///
    /// # Errors
    /// When more is needed than is free.
    pub fn check(self) -> Result<(), OutOfMemory> {
        match free_memory() {
            Some(free) if self.total() > free => Err(OutOfMemory { estimate: self, free }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("weights", self.weights),
            ("optimiser", self.optimizer),
            ("averages", self.averages),
            ("best weights", self.best),
            ("gradients", self.gradients),
            ("activations", self.activations),
            ("or a checkpoint", self.checkpoint),
            ("or a validation", self.validation),
            ("images", self.images),
            ("program", self.program),
        ];
        let parts = parts.into_iter().filter(|(_, part)| *part > 0).map(|(name, part)| format!("{name} {}", bytes(part)));
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
    }
}

/// Pixels of an image.
fn area([height, width]: [usize; 2]) -> u64 {
    (height as u64).saturating_mul(width as u64)
}

/// Bytes of an image as float32 with three channels.
fn pixels(size: [usize; 2]) -> u64 {
    area(size).saturating_mul(3 * FLOAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_beyond_the_free_memory_names_both_and_the_way_round() {
        let huge = MemoryEstimate { activations: u64::MAX, ..MemoryEstimate::default() };
        let error = huge.check().unwrap_err().to_string();
        for part in ["activations", "GiB", "--ignore-memory", "free"] {
            assert!(error.contains(part), "{error}");
        }
        MemoryEstimate { program: 1, ..MemoryEstimate::default() }.check().unwrap();
    }

    #[test]
    fn every_part_counts() {
        let cost = Complexity { params: 10, outputs: 100, largest: 50, ..Complexity::default() };
        let config = TrainConfig { batch_size: 2, ema: Some(0.9), ..TrainConfig::default() };
        let images = TrainingImages { input: [4, 5], stored: [2, 3], resized: [6, 7] };
        let prediction = MemoryEstimate { activations: 1000, images: 100, ..MemoryEstimate::default() };
        let validation = Validation { prediction, largest: [2, 3], images: 9 };
        let estimate = MemoryEstimate::training(&cost, images, &config, 1, validation);
        assert_eq!((estimate.weights, estimate.gradients, estimate.optimizer, estimate.averages), (40, 40, 80, 40));
        assert_eq!(estimate.images, 4 * 5 * 3 * 4 * 2 * 4 + 2 * 3 * DECODED + 6 * 7 * RESIZED);
        assert_eq!(estimate.validation, 1000 + 100 + 2 * 2 * 3 * DECODED);
        let larger = MemoryEstimate::training(&cost, images, &TrainConfig { batch_size: 4, ..config }, 1, validation);
        assert_eq!(larger.activations, 2 * estimate.activations);
        assert!(estimate.total() > MemoryEstimate::prediction(&cost, [4, 5], 1).total());
    }

    #[test]
    fn a_validation_that_needs_more_than_a_step_decides_the_estimate() {
        let step = MemoryEstimate { activations: 100, checkpoint: 50, validation: 80, ..MemoryEstimate::default() };
        assert_eq!(step.total(), 100);
        assert_eq!(MemoryEstimate { validation: 800, ..step }.total(), 800);
    }

    #[test]
    fn a_photo_needs_its_pixels_the_network_and_its_picture() {
        let cost = Complexity { params: 10, largest: 100, ..Complexity::default() };
        let sizes = PredictedPhoto { stored: [1, 2], resized: [30, 40], views: 1, drawn: true };
        let photo = |beside, after| MemoryEstimate::photo(&cost, sizes, Logits { beside, after }).activations;
        let [network, input] = [4 * 160, 30 * 40 * 12];
        assert_eq!(photo(0, 0), network + input);
        assert_eq!(photo(0, 1000), 4 * 1000 + input);
        assert_eq!(photo(1000, 1100), network + 4 * 1000 + input);
        let large = |drawn| MemoryEstimate::photo(&cost, PredictedPhoto { stored: [1000, 1000], drawn, ..sizes }, Logits::default());
        assert_eq!(large(true).activations, PICTURE * 1_000_000);
        assert_eq!(large(false).activations, network + input);
    }

    #[test]
    fn the_largest_image_is_found_and_unreadable_ones_are_passed_over() {
        let sizes = [Ok([2, 3]), Err("damaged"), Ok([5, 4])];
        assert_eq!(largest_image(3, |index| sizes[index]), [5, 4]);
        assert_eq!(largest_image(0, |index| sizes[index]), [0, 0]);
    }
}
