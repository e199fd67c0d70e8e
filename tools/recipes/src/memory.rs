//! An estimate of the memory that a run or a prediction needs, from the configuration alone, so that it is known before a model is built.
//!
//! The counts of [`Complexity`] walk over the shapes of all layers. Parameters cost their bytes, and as many for the gradients and for each
//! state tensor of the optimiser. What a forward pass writes is multiplied by factors that were fitted to measured peaks: the largest
//! resident memory (`VmHWM` in `/proc/PID/status`) of three steps of `train_seg` and `train_det` on two CPU cores.
//!
//! | run | measured | estimate |
//! |---|---|---|
//! | demo segmentor, batches of 8 | 84 MiB | 91 MiB |
//! | demo segmentor, batches of 32 | 245 MiB | 237 MiB |
//! | demo detector, batches of 4 | 73 MiB | 83 MiB |
//! | demo detector, batches of 16 | 179 MiB | 197 MiB |
//! | Mask R-CNN on VMamba-T, 224 x 224, batches of 1 | 859 MiB | 829 MiB |
//! | UperNet on VMamba-T, 224 x 224, batches of 1 | 923 MiB | 892 MiB |
//! | UperNet on VMamba-T, 224 x 224, batches of 4 | 1132 MiB | 1323 MiB |
//!
//! `tests/memory.rs` measures again and requires a factor of at most 1.5 between estimate and measurement.

use std::fmt;

use vision_datasets::memory::free_memory;
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
const PREDICTING: f64 = 1.3;

/// Copies of a batch of images: in the loader, as a tensor, and normalised.
const COPIES: u64 = 2;

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
    /// Images that are read ahead or predicted.
    pub images: u64,
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

impl MemoryEstimate {
    /// A training run whose steps have the cost `step` for one image of `[height, width]` pixels, on the CPU, with `workers` threads that
    /// read images.
    pub fn training(step: &Complexity, image: [usize; 2], config: &TrainConfig, workers: usize) -> Self {
        let batch = config.batch_size as u64;
        let value = if config.precision == Precision::Bf16 { FLOAT / 2 } else { FLOAT };
        let weights = step.params.saturating_mul(FLOAT);
        let kept = (step.outputs as f64 * KEPT + step.largest as f64 * WORKING) as u64;
        // The loader prepares two batches for every thread.
        let batches = 2 * workers as u64 + COPIES;
        let optimizer = weights.saturating_mul(config.optimizer.algorithm.state_tensors() as u64);
        let averages = if config.ema.is_some() { weights } else { 0 };
        Self {
            program: PROGRAM,
            weights,
            optimizer,
            averages,
            best: weights,
            gradients: weights,
            checkpoint: weights.saturating_add(optimizer).saturating_add(averages),
            activations: kept.saturating_mul(value).saturating_mul(batch),
            images: pixels(image).saturating_mul(batch).saturating_mul(batches),
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

    /// The sum, in which either a step or a checkpoint counts.
    pub fn total(&self) -> u64 {
        let passing = self.gradients.saturating_add(self.activations).max(self.checkpoint);
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
            ("images", self.images),
            ("program", self.program),
        ];
        let parts = parts.into_iter().filter(|(_, part)| *part > 0).map(|(name, part)| format!("{name} {}", bytes(part)));
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
    }
}

/// Bytes of an image as float32 with three channels.
fn pixels([height, width]: [usize; 2]) -> u64 {
    (height as u64).saturating_mul(width as u64).saturating_mul(3 * FLOAT)
}

/// A number of bytes for a person.
pub fn bytes(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes < 1024.0 { format!("{mebibytes:.0} MiB") } else { format!("{:.1} GiB", mebibytes / 1024.0) }
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
        let estimate = MemoryEstimate::training(&cost, [4, 5], &config, 1);
        assert_eq!((estimate.weights, estimate.gradients, estimate.optimizer, estimate.averages), (40, 40, 80, 40));
        assert_eq!(estimate.images, 4 * 5 * 3 * 4 * 2 * 4);
        let larger = MemoryEstimate::training(&cost, [4, 5], &TrainConfig { batch_size: 4, ..config }, 1);
        assert_eq!(larger.activations, 2 * estimate.activations);
        assert!(estimate.total() > MemoryEstimate::prediction(&cost, [4, 5], 1).total());
    }
}
