//! AdamW and SGD with per-parameter weight decay and learning rate, clipping by the global norm, and a state that is saved by official key.
//!
//! Burn's own optimisers keep their state under random parameter ids. A model that is loaded by key has other ids, so a resumed run could not
//! be bit-identical.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::TensorData;
use serde::{Deserialize, Serialize};
use vmamba::{DecayRule, LayerGrouping, ParameterGroups};
use vmamba_types::setting::{self, SettingError};

use crate::error::TrainError;
use crate::parameters::{KeyMap, Walk, trainable};

/// Largest learning rate and weight decay.
pub(crate) const MAX_RATE: f64 = 1e3;

/// Optimiser, weight decay, layer-wise learning rates and clipping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The update rule.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Base learning rate.
    pub lr: f64,
    /// Weight decay of the parameters that `decay_rule` does not exempt.
    pub weight_decay: f64,
    /// Which parameters have no weight decay.
    #[serde(default)]
    pub decay_rule: DecayRule,
    /// Lower learning rates for the first layers of the backbone; absent for one learning rate.
    #[serde(default)]
    pub layer_decay: Option<LayerDecay>,
    /// Gradients are scaled down so that their global norm is at most this; absent for no clipping.
    #[serde(default)]
    pub clip_norm: Option<f64>,
}

/// Learning rates that fall from the heads to the stem (mmdetection's `LearningRateDecayOptimizerConstructor`). The backbone says which
/// parameter belongs to which layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LayerDecay {
    /// Factor of the learning rate from one layer to the layer below it.
    pub rate: f64,
    /// What counts as a layer.
    pub by: LayerGrouping,
}

impl LayerDecay {
    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(self) -> Result<(), SettingError> {
        setting::positive("rate", self.rate, 1.0)
    }
}

/// Weight decay and layer of every parameter.
pub type Groups = Arc<dyn ParameterGroups + Send + Sync>;

/// Weight decay by dimension, and one learning rate for all parameters.
pub fn ungrouped() -> Groups {
    struct Ungrouped;

    impl ParameterGroups for Ungrouped {}

    Arc::new(Ungrouped)
}

/// The update rule, with PyTorch's semantics.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "lowercase", tag = "kind")]
pub enum Algorithm {
    /// AdamW (Loshchilov and Hutter): weight decay does not enter the moments.
    AdamW {
        /// Decay rates of the two moments.
        #[serde(default = "betas")]
        betas: [f64; 2],
        /// Added to the square root of the second moment.
        #[serde(default = "eps")]
        eps: f64,
    },
    /// Gradient descent with momentum; weight decay is added to the gradient.
    Sgd {
        /// Factor of the previous step's direction.
        #[serde(default = "momentum")]
        momentum: f64,
    },
}

/// Smallest epsilon of AdamW.
const SMALLEST_EPS: f64 = 1e-20;

fn betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn eps() -> f64 {
    1e-8
}

fn momentum() -> f64 {
    0.9
}

impl Default for Algorithm {
    fn default() -> Self {
        Self::AdamW { betas: betas(), eps: eps() }
    }
}

impl Algorithm {
    /// The usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AdamW { .. } => "AdamW",
            Self::Sgd { .. } => "SGD",
        }
    }

    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(self) -> Result<(), SettingError> {
        match self {
            Self::AdamW { betas, eps } => {
                let rates = betas.iter().all(|beta| (0.0..1.0).contains(beta));
                setting::require(rates, "betas", "two numbers from 0 to below 1", betas)?;
                // 0 would divide 0 by 0 where a gradient is 0; float32 has few smaller numbers.
                setting::require((SMALLEST_EPS..=1.0).contains(&eps), "eps", format!("a number from {SMALLEST_EPS:e} to 1"), eps)
            }
            Self::Sgd { momentum } => setting::rate("momentum", momentum),
        }
    }

    /// Number of state tensors of every parameter.
    pub fn state_tensors(self) -> usize {
        self.memory().len()
    }

    /// State tensors of every parameter, by PyTorch's names.
    fn memory(self) -> &'static [&'static str] {
        match self {
            Self::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
            Self::Sgd { .. } => &["momentum_buffer"],
        }
    }
}

impl OptimizerConfig {
    /// AdamW with PyTorch's betas and epsilon, weight decay 0.01, the decay rule of the official recipes.
    pub fn adamw(lr: f64) -> Self {
        Self {
            algorithm: Algorithm::default(),
            lr,
            weight_decay: 0.01,
            decay_rule: DecayRule::default(),
            layer_decay: None,
            clip_norm: None,
        }
    }

    /// SGD with momentum and without weight decay.
    pub fn sgd(lr: f64, momentum: f64) -> Self {
        Self { algorithm: Algorithm::Sgd { momentum }, weight_decay: 0.0, decay_rule: DecayRule::Everything, ..Self::adamw(lr) }
    }

    /// Sets the weight decay.
    #[must_use]
    pub fn weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay, ..self }
    }

    /// Sets which parameters have no weight decay.
    #[must_use]
    pub fn decay_rule(self, decay_rule: DecayRule) -> Self {
        Self { decay_rule, ..self }
    }

    /// Lowers the learning rates of the first layers of the backbone.
    #[must_use]
    pub fn layer_decay(self, decay: LayerDecay) -> Self {
        Self { layer_decay: Some(decay), ..self }
    }

    /// Scales gradients down so that their global L2 norm is at most `norm`.
    #[must_use]
    pub fn clip_norm(self, norm: f64) -> Self {
        Self { clip_norm: Some(norm), ..self }
    }

    /// Validates value ranges.
    ///
    /// # Errors
    /// Names the first invalid field.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.algorithm.validate().map_err(|error| error.within("algorithm"))?;
        setting::positive("lr", self.lr, MAX_RATE)?;
        setting::number("weight_decay", self.weight_decay, 0.0..=MAX_RATE)?;
        self.layer_decay.map_or(Ok(()), LayerDecay::validate).map_err(|error| error.within("layer_decay"))?;
        self.clip_norm.map_or(Ok(()), |norm| setting::positive("clip_norm", norm, 1e9))
    }
}

/// The optimiser of a run.
pub struct Optimizer {
    config: OptimizerConfig,
    keys: KeyMap,
    groups: Groups,
    steps: u64,
    /// State tensors of every parameter, flattened.
    memory: BTreeMap<String, Vec<Tensor<1>>>,
}

const STEPS: &str = "optimizer.steps";

impl Optimizer {
    /// An optimiser before its first step.
    pub fn new(config: OptimizerConfig, keys: KeyMap, groups: Groups) -> Self {
        Self { config, keys, groups, steps: 0, memory: BTreeMap::new() }
    }

    /// A copy for a replica of the model on `device`, a device without gradients.
    pub fn copy_to(&self, device: &Device) -> Self {
        let moved = |(key, tensors): (&String, &Vec<Tensor<1>>)| {
            (key.clone(), tensors.iter().map(|tensor| tensor.clone().to_device(device)).collect())
        };
        Self {
            config: self.config.clone(),
            keys: self.keys,
            groups: Arc::clone(&self.groups),
            steps: self.steps,
            memory: self.memory.iter().map(moved).collect(),
        }
    }

    /// The L2 norm over all gradients.
    pub fn norm<M: Module>(&self, model: &M, gradients: &GradientsParams) -> f64 {
        let mut squares = SquareSum { gradients, sum: None };
        model.visit(&mut squares);
        squares.sum.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>())).sqrt()
    }

    /// Updates the parameters that have a gradient. `norm` is the norm of the gradients before clipping.
    pub fn step<M: Module>(&mut self, model: M, mut gradients: GradientsParams, norm: f64, lr: f64) -> M {
        // PyTorch's clip_grad_norm_ adds 1e-6 to the norm it divides by.
        let scale = self.config.clip_norm.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0));
        self.steps += 1;
        let mut update = Update { optimizer: self, gradients: &mut gradients, walk: Walk::default(), lr, scale };
        model.map(&mut update)
    }

    /// A line for every parameter with its weight decay and, with layer-wise decay, its learning rate.
    pub fn describe<M: Module>(&self, model: &M) -> String {
        let mut lines = String::new();
        for (key, shape) in trainable(model, self.keys) {
            if self.config.layer_decay.is_some() {
                lines.push_str(&format!("learning rate {:<9.3e} ", self.config.lr * self.lr_scale(&key)));
            }
            lines.push_str(&format!("weight decay {:<6} {key} {shape:?}\n", self.decay(&key, &shape)));
        }
        lines
    }

    /// The weight decay of a parameter.
    fn decay(&self, key: &str, shape: &[usize]) -> f64 {
        if self.groups.decays(&self.config.decay_rule, key, shape) { self.config.weight_decay } else { 0.0 }
    }

    /// The factor of a parameter's learning rate.
    fn lr_scale(&self, key: &str) -> f64 {
        self.config.layer_decay.map_or(1.0, |decay| self.groups.lr_scale(key, decay.rate, decay.by))
    }

    /// The state as named blobs of little-endian float32.
    pub fn to_blobs(&self) -> BTreeMap<String, Vec<u8>> {
        let mut blobs = BTreeMap::from([(STEPS.to_owned(), self.steps.to_le_bytes().to_vec())]);
        for (key, tensors) in &self.memory {
            for (name, tensor) in self.config.algorithm.memory().iter().zip(tensors) {
                let bytes = tensor.to_data().iter::<f32>().flat_map(f32::to_le_bytes).collect();
                blobs.insert(format!("optimizer.{name}.{key}"), bytes);
            }
        }
        blobs
    }

    /// Restores the state for a model on `device`. `blob` reads a blob by its name; `damaged` makes the error of a missing or damaged one.
    ///
    /// # Errors
    /// When a blob is missing or has the wrong size.
    pub fn restore<M: Module>(
        &mut self,
        model: &M,
        device: &Device,
        mut blob: impl FnMut(&str) -> Result<Option<Vec<u8>>, TrainError>,
        damaged: impl Fn(String) -> TrainError,
    ) -> Result<(), TrainError> {
        let steps = blob(STEPS)?.ok_or_else(|| damaged("it has no optimiser state".to_owned()))?;
        let Some(steps) = steps.first_chunk::<8>() else { return Err(damaged(format!("its `{STEPS}` is damaged"))) };
        self.steps = u64::from_le_bytes(*steps);
        for (key, shape) in trainable(model, self.keys) {
            let names = self.config.algorithm.memory();
            let mut tensors = Vec::with_capacity(names.len());
            for name in names {
                let name = format!("optimizer.{name}.{key}");
                // A parameter that never had a gradient has no state.
                let Some(bytes) = blob(&name)? else { continue };
                let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
                let expected: usize = shape.iter().product();
                if values.len() != expected {
                    return Err(damaged(format!("its `{name}` has {} values instead of {expected}", values.len())));
                }
                tensors.push(Tensor::from_data(TensorData::new(values, [expected]), device));
            }
            if tensors.len() == names.len() {
                self.memory.insert(key, tensors);
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
    optimizer: &'a mut Optimizer,
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
        let key = self.walk.key(self.optimizer.keys);
        let shape = param.shape();
        let count = shape.num_elements();
        let (lr, decay) = (self.lr * self.optimizer.lr_scale(&key), self.optimizer.decay(&key, &shape));

        let mut gradient = gradient.reshape([count]);
        if self.scale < 1.0 {
            gradient = gradient * self.scale;
        }
        let memory = self.optimizer.memory.remove(&key).unwrap_or_default();
        let (step, shrink) = match self.optimizer.config.algorithm {
            Algorithm::AdamW { betas, eps } => {
                let (memory, step) = adam(gradient, memory, betas, eps, self.optimizer.steps, lr);
                self.optimizer.memory.insert(key, memory);
                (step, 1.0 - lr * decay)
            }
            Algorithm::Sgd { momentum } => {
                let gradient = if decay > 0.0 { gradient + param.val().inner().reshape([count]) * decay } else { gradient };
                let direction = match memory.into_iter().next() {
                    Some(last) => last * momentum + gradient,
                    None => gradient,
                };
                self.optimizer.memory.insert(key, vec![direction.clone()]);
                (direction * lr, 1.0)
            }
        };
        param.map(|value| {
            let tracked = value.is_require_grad();
            let value = value.inner() * shrink - step.reshape(shape);
            let value = Tensor::from_inner(value);
            if tracked { value.require_grad() } else { value }
        })
    }
}

/// The moments after a gradient, and AdamW's step; `steps` counts from 1.
fn adam(
    gradient: Tensor<1>,
    moments: Vec<Tensor<1>>,
    [beta1, beta2]: [f64; 2],
    eps: f64,
    steps: u64,
    lr: f64,
) -> (Vec<Tensor<1>>, Tensor<1>) {
    let square = gradient.clone().square() * (1.0 - beta2);
    let share = gradient * (1.0 - beta1);
    let [first, second] = match <[Tensor<1>; 2]>::try_from(moments) {
        Ok([first, second]) => [first * beta1 + share, second * beta2 + square],
        Err(_) => [share, square],
    };
    let steps = steps as f64;
    let (correction1, correction2) = (1.0 - beta1.powf(steps), 1.0 - beta2.powf(steps));
    let step = first.clone() * (lr / correction1) / (second.clone().sqrt() / correction2.sqrt() + eps);
    (vec![first, second], step)
}

#[cfg(test)]
mod tests {
    use vmamba::Place;

    use super::*;

    /// A backbone of four stages with a block each, called `stages.0.0` and so on.
    struct Stages;

    impl ParameterGroups for Stages {
        fn depths(&self) -> Vec<usize> {
            vec![1; 4]
        }

        fn place_of(&self, key: &str) -> Option<Place> {
            match *key.split('.').collect::<Vec<_>>() {
                ["stages", stage, block, ..] => Place::block(stage.parse().ok()?, block),
                _ => None,
            }
        }
    }

    #[derive(Module, Debug)]
    struct Two {
        weight: Param<Tensor<2>>,
        norm: Param<Tensor<1>>,
    }

    /// AdamW as PyTorch's documentation writes it, in double precision.
    fn adamw(mut p: f64, gradients: &[f64], lr: f64, decay: f64) -> f64 {
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

    /// SGD with momentum 0.9 as PyTorch's documentation writes it, in double precision.
    fn sgd(mut p: f64, gradients: &[f64], lr: f64, decay: f64) -> f64 {
        let mut buffer = None;
        for g in gradients {
            let g = g + decay * p;
            let b = buffer.map_or(g, |b: f64| 0.9 * b + g);
            buffer = Some(b);
            p -= lr * b;
        }
        p
    }

    fn config(algorithm: Algorithm) -> OptimizerConfig {
        OptimizerConfig { algorithm, lr: 0.1, weight_decay: 0.5, decay_rule: DecayRule::default(), layer_decay: None, clip_norm: None }
    }

    type Reference = fn(f64, &[f64], f64, f64) -> f64;

    #[test]
    fn steps_equal_the_formula_and_a_restored_state_continues_it() {
        let cases: [(Algorithm, Reference); 2] = [(Algorithm::default(), adamw), (Algorithm::Sgd { momentum: 0.9 }, sgd)];
        for (algorithm, reference) in cases {
            check(algorithm, reference);
        }
    }

    /// Three steps with a restart before the last, of a decayed and of an exempt parameter.
    fn check(algorithm: Algorithm, reference: Reference) {
        let device = Device::flex().autodiff();
        let config = config(algorithm);
        let start = || Two {
            weight: Param::from_tensor(Tensor::from_floats([[1.0, -2.0]], &device)),
            norm: Param::from_tensor(Tensor::from_floats([3.0], &device)),
        };
        let keys: KeyMap = str::to_owned;
        let gradients = |model: &Two, a: f32| {
            let loss = (model.weight.val() * a).sum() + (model.norm.val() * (a * 2.0)).sum();
            GradientsParams::from_grads(loss.backward(), model)
        };
        let (mut model, mut optimizer) = (start(), Optimizer::new(config.clone(), keys, Arc::new(Stages)));
        let factors = [0.5, -1.5, 2.0];
        for (i, a) in factors.iter().enumerate() {
            if i == 2 {
                let blobs = optimizer.to_blobs();
                optimizer = Optimizer::new(config.clone(), keys, Arc::new(Stages));
                let damaged = |message| TrainError::Resume { path: "memory".into(), message };
                optimizer.restore(&model, &device.clone().inner(), |name| Ok(blobs.get(name).cloned()), damaged).unwrap();
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
            assert!((f64::from(actual) - expected).abs() < 1e-5, "{}: {actual} against {expected}", algorithm.name());
        }
    }

    #[test]
    fn invalid_settings_are_named() {
        let wrong = |change: fn(&mut OptimizerConfig)| {
            let mut config = config(Algorithm::Sgd { momentum: 0.9 });
            config.validate().unwrap();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(wrong(|c| c.lr = 0.0).starts_with("lr"));
        assert!(wrong(|c| c.weight_decay = f64::NAN).starts_with("weight_decay"));
        for norm in [0.0, -1.0, f64::NAN] {
            let config = OptimizerConfig { clip_norm: Some(norm), ..config(Algorithm::default()) };
            assert!(config.validate().unwrap_err().to_string().starts_with("clip_norm"), "{norm}");
        }
        assert!(wrong(|c| c.algorithm = Algorithm::Sgd { momentum: 1.0 }).contains("algorithm.momentum"));
        assert!(wrong(|c| c.algorithm = Algorithm::AdamW { betas: [0.9, 1.0], eps: 1e-8 }).contains("algorithm.betas"));
        assert!(wrong(|c| c.algorithm = Algorithm::AdamW { betas: betas(), eps: f64::NAN }).contains("algorithm.eps"));
        assert!(wrong(|c| c.layer_decay = Some(LayerDecay { rate: 0.0, by: LayerGrouping::Block })).contains("layer_decay.rate"));
    }

    #[test]
    fn layer_decay_lowers_the_learning_rate_of_the_first_layers() {
        let device = Device::flex().autodiff();
        let layer_decay = Some(LayerDecay { rate: 0.5, by: LayerGrouping::Stage });
        let config = OptimizerConfig { weight_decay: 0.0, layer_decay, ..config(Algorithm::Sgd { momentum: 0.0 }) };
        let keys: KeyMap = |path| if path == "weight" { "backbone.stages.1.0.gamma".to_owned() } else { "decode_head.bias".to_owned() };
        let model = Two {
            weight: Param::from_tensor(Tensor::from_floats([[1.0, -2.0]], &device)),
            norm: Param::from_tensor(Tensor::from_floats([3.0], &device)),
        };
        let loss = model.weight.val().sum() + model.norm.val().sum();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        let mut optimizer = Optimizer::new(config, keys, Arc::new(Stages));
        assert!(optimizer.describe(&model).starts_with("learning rate 1.250e-2 "), "{}", optimizer.describe(&model));
        let model = optimizer.step(model, gradients, 1.0, 0.1);
        let weight: Vec<f32> = model.weight.val().into_data().iter::<f32>().collect();
        // The second of four stages is three layers below the heads.
        assert!((weight[0] - (1.0 - 0.1 * 0.125)).abs() < 1e-6, "{weight:?}");
        assert!((model.norm.val().into_scalar::<f32>() - 2.9).abs() < 1e-6);
    }
}
