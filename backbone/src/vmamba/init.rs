//! Initialisation of the scan's parameters (the official `mamba_init` and its two simpler alternatives).

use burn::module::Param;
use burn::prelude::*;
use burn::tensor::{Distribution, TensorData};

use super::config::SsmInit;

/// Groups of scan parameters; every scan pattern has four.
pub(crate) const GROUPS: usize = 4;

/// Range of the initial step sizes of [`SsmInit::V0`].
const STEP_RANGE: [f64; 2] = [1e-3, 0.1];

/// Lower bound of the initial step sizes.
const STEP_FLOOR: f64 = 1e-4;

/// Factor for the random step-size projections of [`SsmInit::V1`] and [`SsmInit::V2`].
const SMALL: f64 = 0.1;

/// The parameters of the scan that the initialisations treat differently.
pub(super) struct ScanParameters {
    /// `[4, d_inner, dt_rank]`.
    pub(super) dt_projs_weight: Param<Tensor<3>>,
    /// `[4, d_inner]`.
    pub(super) dt_projs_bias: Param<Tensor<2>>,
    /// `[4 * d_inner, d_state]`; the scan uses `A = -exp(a_logs)`.
    pub(super) a_logs: Param<Tensor<2>>,
    /// `[4 * d_inner]`.
    pub(super) ds: Param<Tensor<1>>,
}

impl ScanParameters {
    pub(super) fn new(rule: SsmInit, d_inner: usize, d_state: usize, dt_rank: usize, device: &Device) -> Self {
        let weight_shape = [GROUPS, d_inner, dt_rank];
        let bias_shape = [GROUPS, d_inner];
        let a_shape = [GROUPS * d_inner, d_state];
        let (dt_projs_weight, dt_projs_bias, a_logs) = match rule {
            SsmInit::V0 => {
                let bound = (dt_rank as f64).sqrt().recip();
                (
                    Tensor::random(weight_shape, Distribution::Uniform(-bound, bound), device),
                    step_size_bias(Tensor::random(bias_shape, Distribution::Default, device)),
                    Tensor::<1, Int>::arange(1..d_state as i64 + 1, device).float().log().unsqueeze::<2>().expand(a_shape),
                )
            }
            SsmInit::V1 => {
                let normal = Distribution::Normal(0.0, 1.0);
                (
                    Tensor::random(weight_shape, normal, device) * SMALL,
                    Tensor::random(bias_shape, normal, device) * SMALL,
                    Tensor::random(a_shape, normal, device),
                )
            }
            SsmInit::V2 => (
                Tensor::random(weight_shape, Distribution::Default, device) * SMALL,
                Tensor::random(bias_shape, Distribution::Default, device) * SMALL,
                Tensor::zeros(a_shape, device),
            ),
        };
        // A parameter must be a leaf of the autodiff graph; the result of a multiplication is not.
        Self {
            dt_projs_weight: Param::from_tensor(dt_projs_weight.detach()),
            dt_projs_bias: Param::from_tensor(dt_projs_bias.detach()),
            a_logs: Param::from_tensor(a_logs.detach()),
            ds: Param::from_tensor(Tensor::ones([GROUPS * d_inner], device)),
        }
    }
}

/// Biases whose softplus is a step size uniform in log space, from draws uniform in [0, 1). Computed in float64, because in float32 the
/// inverse softplus of a step of 1e-3 loses half of its digits.
pub(crate) fn step_size_bias(draws: Tensor<2>) -> Tensor<2> {
    let (shape, device) = (draws.dims(), draws.device());
    let [low, high] = STEP_RANGE.map(f64::ln);
    let biases: Vec<f32> = draws
        .into_data()
        .iter::<f64>()
        .map(|draw| {
            let step = (draw * (high - low) + low).exp().max(STEP_FLOOR);
            (step + (-(-step).exp_m1()).ln()) as f32
        })
        .collect();
    Tensor::from_data(TensorData::new(biases, shape), &device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<const D: usize>(tensor: &Param<Tensor<D>>) -> Vec<f64> {
        tensor.val().into_data().iter::<f64>().collect()
    }

    #[test]
    fn mambas_rule_gives_step_sizes_in_range_and_a_from_one_to_n() {
        let device = Device::flex();
        let start = ScanParameters::new(SsmInit::V0, 64, 3, 4, &device);
        let steps: Vec<f64> = values(&start.dt_projs_bias).iter().map(|bias| bias.exp().ln_1p()).collect();
        assert!(steps.iter().all(|step| (0.99e-3..0.101).contains(step)));
        // Half of the draws are below the geometric mean: 128 of 256, with a standard deviation of 8.
        let below = steps.iter().filter(|step| **step < 1e-2).count();
        assert!((88..168).contains(&below), "{below}");
        assert!(values(&start.dt_projs_weight).iter().all(|w| w.abs() <= 0.5));
        for row in values(&start.a_logs).chunks(3) {
            for (n, a_log) in row.iter().enumerate() {
                assert!((a_log.exp() - (n + 1) as f64).abs() < 1e-5);
            }
        }
        assert!(values(&start.ds).iter().all(|d| *d == 1.0));
    }

    #[test]
    fn the_other_rules_have_their_spread() {
        let device = Device::flex();
        let v1 = ScanParameters::new(SsmInit::V1, 256, 2, 4, &device);
        let deviation = |v: Vec<f64>| (v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64).sqrt();
        assert!((deviation(values(&v1.a_logs)) - 1.0).abs() < 0.1);
        assert!((deviation(values(&v1.dt_projs_weight)) - 0.1).abs() < 0.01);
        let v2 = ScanParameters::new(SsmInit::V2, 256, 2, 4, &device);
        assert!(values(&v2.a_logs).iter().all(|a| *a == 0.0));
        assert!(values(&v2.dt_projs_bias).iter().all(|b| (0.0..0.1).contains(b)));
    }
}
