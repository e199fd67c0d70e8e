//! Tests of the parts against slow references and for properties.

mod box_head;
mod config;
mod losses;
mod properties;
mod rois;

use burn::prelude::*;
use burn::tensor::TensorData;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers of a fixed seed.
struct Numbers(ChaCha8Rng);

impl Numbers {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform in `low..high`.
    fn next(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.0.next_u64() >> 40) as f32 / (1_u64 << 24) as f32
    }

    fn many(&mut self, count: usize, low: f32, high: f32) -> Vec<f32> {
        (0..count).map(|_| self.next(low, high)).collect()
    }

    /// A box in 200x200 pixels with sides of 10 to 80.
    fn bbox(&mut self) -> [f32; 4] {
        let (x, y) = (self.next(0.0, 120.0), self.next(0.0, 120.0));
        [x, y, x + self.next(10.0, 80.0), y + self.next(10.0, 80.0)]
    }
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// The gradient of `function` at `at` by central differences in float64.
fn central_differences(at: &[f32], function: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let at: Vec<f64> = at.iter().map(|value| f64::from(*value)).collect();
    (0..at.len())
        .map(|index| {
            let moved = |by: f64| {
                let mut at = at.clone();
                at[index] += by;
                function(&at)
            };
            (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
        })
        .collect()
}

/// Compares with a tolerance relative to the largest expected value.
fn assert_close(name: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{name}: length");
    let largest = expected.iter().fold(1e-3_f64, |largest, value| largest.max(value.abs()));
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let difference = (f64::from(*actual) - expected).abs();
        assert!(difference <= tolerance * largest, "{name}, element {index}: {actual}, expected {expected}");
    }
}

/// Float32 sums of a few hundred terms against float64.
const TOLERANCE: f64 = 1e-5;
