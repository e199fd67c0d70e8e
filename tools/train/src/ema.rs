//! Exponential moving average of the weights.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::TensorData;
use vmamba::checkpoint::{StateDict, StateTensor, state_dict_of};

use crate::parameters::{KeyMap, Walk, trainable};

/// The averaged trainable weights of a model. Running statistics of norms are not averaged.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    keys: KeyMap,
    /// Flattened.
    weights: BTreeMap<String, Tensor<1>>,
}

impl Ema {
    /// Starts the average at the weights of a model.
    pub fn new<M: Module>(decay: f64, keys: KeyMap, model: &M) -> Self {
        let mut ema = Self { decay, keys, weights: BTreeMap::new() };
        ema.update(model);
        ema
    }

    /// Continues from the saved weights of a model, on `device`.
    pub fn restore<M: Module>(decay: f64, keys: KeyMap, model: &M, saved: &StateDict, device: &Device) -> Self {
        let tensor = |t: &StateTensor| Tensor::from_data(TensorData::new(t.data.clone(), [t.data.len()]), device);
        // The saved weights also hold running statistics of norms, which are not averaged.
        let averaged = trainable(model, keys).into_keys().filter_map(|key| Some((tensor(saved.get(&key)?), key)));
        Self { decay, keys, weights: averaged.map(|(tensor, key)| (key, tensor)).collect() }
    }

    /// `average = decay * average + (1 - decay) * weight`.
    pub fn update<M: Module>(&mut self, model: &M) {
        let mut visitor = Average { ema: self, walk: Walk::default() };
        model.visit(&mut visitor);
    }

    /// The averaged weights, with the running statistics and frozen weights of the model.
    pub fn state_dict<M: Module>(&self, model: &M) -> StateDict {
        let keys = self.keys;
        let mut state = state_dict_of(model, &keys);
        for (key, tensor) in state.iter_mut() {
            if let Some(average) = self.weights.get(key) {
                tensor.data = average.to_data().iter::<f32>().collect();
            }
        }
        state
    }
}

struct Average<'a> {
    ema: &'a mut Ema,
    walk: Walk,
}

impl ModuleVisitor for Average<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.walk.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.walk.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let key = self.walk.key(self.ema.keys);
        let weight = param.val().inner();
        let count = weight.shape().num_elements();
        let weight = weight.reshape([count]);
        let average = match self.ema.weights.remove(&key) {
            Some(average) => average * self.ema.decay + weight * (1.0 - self.ema.decay),
            None => weight,
        };
        self.ema.weights.insert(key, average);
    }
}
