//! AdamW with the recipe's parameter groups, global-norm clipping, and a state that travels by official key.
//!
//! Burn's own AdamW keeps its state under random parameter identities, which a model that is loaded by key does not have, so a resumed
//! run could not be bit-identical.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};

use super::parameters::{KeyMap, Walk, trainable};

/// AdamW (Loshchilov and Hutter) with PyTorch's semantics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Base learning rate.
    pub lr: f64,
    /// Decay rates of the two moments.
    #[serde(default = "betas")]
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    #[serde(default = "eps")]
    pub eps: f64,
    /// Decoupled weight decay of the parameters that have one.
    pub weight_decay: f64,
    /// Which parameters have none.
    #[serde(default)]
    pub decay_rule: DecayRule,
    /// Gradients are scaled down so that their global norm is at most this; absent for no clipping.
    #[serde(default)]
    pub clip_norm: Option<f64>,
}

fn betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn eps() -> f64 {
    1e-8
}

/// Which parameters have no weight decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecayRule {
    /// The official detection and segmentation recipe: names that contain `absolute_pos_embed`, `relative_position_bias_table` or
    /// `norm`. By accident of naming, the norms of stem and downsampling, the heads' batch norms and all biases are decayed.
    #[default]
    VmambaSubstring,
    /// What the recipe means: one-dimensional parameters, biases, position tables, `A_logs` and `Ds` are not decayed.
    ByDimension,
}

impl DecayRule {
    /// Whether the parameter of this official key and shape is decayed.
    pub fn decays(self, key: &str, shape: &[usize]) -> bool {
        match self {
            Self::VmambaSubstring => !["absolute_pos_embed", "relative_position_bias_table", "norm"].iter().any(|part| key.contains(part)),
            Self::ByDimension => {
                let exempt = key.ends_with("bias") || key.ends_with("pos_embed") || key.ends_with("A_logs") || key.ends_with("Ds");
                shape.len() > 1 && !exempt
            }
        }
    }
}

/// The optimiser of a run.
#[derive(Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    keys: KeyMap,
    steps: u64,
    /// The two moments of every parameter, flattened.
    moments: BTreeMap<String, [Tensor<1>; 2]>,
}

/// Names of the two moments in a checkpoint, after PyTorch's.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];
const STEPS: &str = "optimizer.steps";

impl AdamW {
    /// Moments 0.
    pub fn new(config: OptimizerConfig, keys: KeyMap) -> Self {
        Self { config, keys, steps: 0, moments: BTreeMap::new() }
    }

    /// The same optimiser for a copy of the model on `device`, without gradients.
    pub fn copy_to(&self, device: &Device) -> Self {
        let moved = |(key, moments): (&String, &[Tensor<1>; 2])| (key.clone(), moments.clone().map(|moment| moment.to_device(device)));
        Self { config: self.config.clone(), keys: self.keys, steps: self.steps, moments: self.moments.iter().map(moved).collect() }
    }

    /// The norm of all gradients together.
    pub fn norm<M: Module>(&self, model: &M, gradients: &GradientsParams) -> f64 {
        let mut squares = SquareSum { gradients, sum: None };
        model.visit(&mut squares);
        squares.sum.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>())).sqrt()
    }

    /// One step of the parameters that have a gradient; `norm` is that of the gradients, before clipping.
    pub fn step<M: Module>(&mut self, model: M, mut gradients: GradientsParams, norm: f64, lr: f64) -> M {
        // PyTorch's clip_grad_norm_ adds 1e-6 to the norm it divides by.
        let scale = self.config.clip_norm.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0));
        self.steps += 1;
        let mut update = Update { optimizer: self, gradients: &mut gradients, walk: Walk::default(), lr, scale };
        model.map(&mut update)
    }

    /// The parameters with and without weight decay, one a line.
    pub fn describe<M: Module>(&self, model: &M) -> String {
        let mut lines = String::new();
        for (key, shape) in trainable(model, self.keys) {
            let decay = if self.config.decay_rule.decays(&key, &shape) { self.config.weight_decay } else { 0.0 };
            lines.push_str(&format!("weight decay {decay:<6} {key} {shape:?}\n"));
        }
        lines
    }

    /// The state as named bytes.
    pub fn to_blobs(&self) -> BTreeMap<String, Vec<u8>> {
        let mut blobs = BTreeMap::from([(STEPS.to_owned(), self.steps.to_le_bytes().to_vec())]);
        for (key, moments) in &self.moments {
            for (name, moment) in MOMENTS.iter().zip(moments) {
                let bytes = moment.to_data().iter::<f32>().flat_map(f32::to_le_bytes).collect();
                blobs.insert(format!("optimizer.{name}.{key}"), bytes);
            }
        }
        blobs
    }

    /// Restores the state for a model on `device`; `blob` reads a piece by name.
    ///
    /// # Errors
    /// When a piece is missing or has the wrong size.
    pub fn restore<M: Module>(&mut self, model: &M, device: &Device, mut blob: impl FnMut(&str) -> Result<Option<Vec<u8>>>) -> Result<()> {
        let steps = blob(STEPS)?.context("the checkpoint has no optimiser state, so it cannot be resumed from")?;
        let Some(steps) = steps.first_chunk::<8>() else { bail!("`{STEPS}` of the checkpoint is damaged") };
        self.steps = u64::from_le_bytes(*steps);
        for (key, shape) in trainable(model, self.keys) {
            let mut moments = Vec::new();
            for name in MOMENTS {
                let name = format!("optimizer.{name}.{key}");
                // A parameter that never had a gradient has no moments.
                let Some(bytes) = blob(&name)? else { continue };
                let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
                let expected: usize = shape.iter().product();
                if values.len() != expected {
                    bail!("`{name}` of the checkpoint has {} values instead of {expected}", values.len());
                }
                moments.push(Tensor::from_data(TensorData::new(values, [expected]), device));
            }
            if let Ok(moments) = <[Tensor<1>; 2]>::try_from(moments) {
                self.moments.insert(key, moments);
            }
        }
        Ok(())
    }
}

struct SquareSum<'a> {
    gradients: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for SquareSum<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let own = gradient.square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + own,
                None => own,
            });
        }
    }
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    gradients: &'a mut GradientsParams,
    walk: Walk,
    lr: f64,
    scale: f64,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.walk.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.walk.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let OptimizerConfig { betas: [beta1, beta2], eps, weight_decay, decay_rule, .. } = self.optimizer.config;
        let key = self.walk.key(self.optimizer.keys);
        let shape = param.shape();
        let count = shape.num_elements();
        let decay = if decay_rule.decays(&key, &shape) { weight_decay } else { 0.0 };

        let mut gradient = gradient.reshape([count]);
        if self.scale < 1.0 {
            gradient = gradient * self.scale;
        }
        let square = gradient.clone().square() * (1.0 - beta2);
        let share = gradient * (1.0 - beta1);
        let [first, second] = match self.optimizer.moments.remove(&key) {
            Some([first, second]) => [first * beta1 + share, second * beta2 + square],
            None => [share, square],
        };
        let steps = self.optimizer.steps as f64;
        let (correction1, correction2) = (1.0 - beta1.powf(steps), 1.0 - beta2.powf(steps));
        let step = first.clone() * (self.lr / correction1) / (second.clone().sqrt() / correction2.sqrt() + eps);
        self.optimizer.moments.insert(key, [first, second]);
        let lr = self.lr;
        param.map(|value| {
            let tracked = value.is_require_grad();
            let value = value.inner() * (1.0 - lr * decay) - step.reshape(shape);
            let value = Tensor::from_inner(value);
            if tracked { value.require_grad() } else { value }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_official_rule_goes_by_names_and_the_corrected_one_by_shapes() {
        let official = |key: &str| DecayRule::VmambaSubstring.decays(key, &[8]);
        for (key, decays) in [
            ("backbone.layers.0.blocks.0.norm.weight", false),
            ("backbone.layers.0.blocks.0.op.out_norm.bias", false),
            ("backbone.outnorm0.weight", false),
            ("backbone.patch_embed.2.weight", true),
            ("backbone.layers.0.downsample.3.bias", true),
            ("backbone.layers.0.blocks.0.mlp.fc1.bias", true),
            ("decode_head.bottleneck.bn.weight", true),
            ("backbone.layers.0.blocks.0.op.Ds", true),
        ] {
            assert_eq!(official(key), decays, "{key}");
        }
        let corrected = DecayRule::ByDimension;
        assert!(corrected.decays("decode_head.conv_seg.weight", &[7, 32, 1, 1]));
        assert!(!corrected.decays("backbone.patch_embed.2.weight", &[8]));
        assert!(!corrected.decays("backbone.layers.0.blocks.0.op.A_logs", &[32, 1]));
        assert!(!corrected.decays("backbone.layers.0.blocks.0.op.dt_projs_bias", &[4, 8]));
    }

    #[derive(Module, Debug)]
    struct Two {
        weight: Param<Tensor<2>>,
        norm: Param<Tensor<1>>,
    }

    /// AdamW as PyTorch's documentation writes it, in double precision.
    fn reference(mut p: f64, gradients: &[f64], lr: f64, decay: f64) -> f64 {
        let (mut m, mut v) = (0.0, 0.0);
        for (i, g) in gradients.iter().enumerate() {
            let t = i as i32 + 1;
            p -= lr * decay * p;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            p -= lr * (m / (1.0 - 0.9_f64.powi(t))) / ((v / (1.0 - 0.999_f64.powi(t))).sqrt() + 1e-8);
        }
        p
    }

    #[test]
    fn steps_equal_the_formula_and_a_restored_state_continues_it() {
        let device = Device::flex().autodiff();
        let config =
            OptimizerConfig { lr: 0.1, betas: betas(), eps: 1e-8, weight_decay: 0.5, decay_rule: DecayRule::default(), clip_norm: None };
        let start = || Two {
            weight: Param::from_tensor(Tensor::from_floats([[1.0, -2.0]], &device)),
            norm: Param::from_tensor(Tensor::from_floats([3.0], &device)),
        };
        let keys: KeyMap = str::to_owned;
        let gradients = |model: &Two, a: f32| {
            let loss = (model.weight.val() * a).sum() + (model.norm.val() * (a * 2.0)).sum();
            GradientsParams::from_grads(loss.backward(), model)
        };
        let (mut model, mut optimizer) = (start(), AdamW::new(config.clone(), keys));
        let factors = [0.5, -1.5, 2.0];
        for (i, a) in factors.iter().enumerate() {
            if i == 2 {
                let blobs = optimizer.to_blobs();
                optimizer = AdamW::new(config.clone(), keys);
                optimizer.restore(&model, &device.clone().inner(), |name| Ok(blobs.get(name).cloned())).unwrap();
            }
            let g = gradients(&model, *a);
            let norm = optimizer.norm(&model, &g);
            assert!((norm - f64::from(a.abs()) * 6.0_f64.sqrt()).abs() < 1e-5);
            model = optimizer.step(model, g, norm, 0.1);
        }
        let weight: Vec<f32> = model.weight.val().into_data().iter::<f32>().collect();
        let norm = model.norm.val().into_scalar::<f32>();
        let g: Vec<f64> = factors.iter().map(|a| f64::from(*a)).collect();
        let doubled: Vec<f64> = g.iter().map(|g| g * 2.0).collect();
        for (actual, expected) in [
            (weight[0], reference(1.0, &g, 0.1, 0.5)),
            (weight[1], reference(-2.0, &g, 0.1, 0.5)),
            (norm, reference(3.0, &doubled, 0.1, 0.0)),
        ] {
            assert!((f64::from(actual) - expected).abs() < 1e-5, "{actual} against {expected}");
        }
    }
}
