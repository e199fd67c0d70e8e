use burn::module::{Flag, Param};
use burn::prelude::*;
use burn::tensor::Distribution;

/// Stochastic depth: in training, drops a residual branch of a sample with probability `rate` and scales the kept ones by `1 / (1 - rate)`.
///
/// Active when the input is on an autodiff device and the layer is not frozen, like Burn's `Dropout`. It draws from the device's random
/// generator.
#[derive(Module, Debug)]
pub struct DropPath {
    /// Probability of dropping, in [0, 1).
    pub rate: f64,
    /// Whether the layer trains; cleared by `freeze` and `valid`.
    pub training: Param<Flag>,
}

impl DropPath {
    /// Stochastic depth with the given rate.
    pub fn new(rate: f64) -> Self {
        Self { rate, training: Param::from_bool(true) }
    }

    /// Drops or scales every sample of `branch` `[batch, height, width, channels]`.
    pub fn forward(&self, branch: Tensor<4>) -> Tensor<4> {
        let device = branch.device();
        if self.rate == 0.0 || !self.training.is_enabled() || !device.is_autodiff() {
            return branch;
        }
        let keep = 1.0 - self.rate;
        let kept = Tensor::<4>::random([branch.dims()[0], 1, 1, 1], Distribution::Bernoulli(keep), &device);
        // Drawn and divided in float32, so that the type of the activations does not change which samples are dropped.
        let scale = (kept / keep).cast(branch.dtype());
        branch * scale
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;

    #[test]
    fn drops_whole_samples_in_training_and_nothing_otherwise() {
        let device = Device::flex().autodiff();
        device.seed(3);
        let drop_path = DropPath::new(0.25);
        let ones = Tensor::<4>::ones([400, 1, 2, 3], &device);
        let values: Vec<f32> = drop_path.forward(ones.clone()).into_data().iter::<f32>().collect();
        let mut kept = 0;
        for sample in values.chunks(6) {
            assert!(sample.iter().all(|v| *v == sample[0]), "a sample is dropped as a whole");
            assert!(sample[0] == 0.0 || (sample[0] - 1.0 / 0.75).abs() < 1e-6, "{}", sample[0]);
            kept += usize::from(sample[0] > 0.0);
        }
        // The expectation is 300 of 400 with a standard deviation of 8.7.
        assert!((260..=340).contains(&kept), "{kept}");

        let bf16 = drop_path.forward(ones.clone().cast(DType::BF16));
        assert_eq!(bf16.dtype(), DType::BF16);
        // 4/3 with the 8 bits of a bf16 mantissa.
        assert!(bf16.into_data().iter::<f32>().all(|v| v == 0.0 || v == 1.335_937_5));

        let untouched = |x: Tensor<4>| x.into_data().iter::<f32>().all(|v| v == 1.0);
        assert!(untouched(drop_path.valid().forward(ones.clone())));
        assert!(untouched(drop_path.clone().freeze().forward(ones.clone())));
        assert!(untouched(drop_path.forward(Tensor::ones([4, 1, 2, 3], &Device::flex()))));
    }
}
