//! Fixture weights into a module, and gradients out of it, by official key.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::Gradients;
use tests::{Comparison, FixtureTensor, GRADIENT_TOLERANCE};
use vmamba::checkpoint::{LoadOptions, StateDict, StateTensor, load_into, state_dict_of};
use vmamba::official_key;

/// The module with the weights of a case, whose keys and shapes must be exactly ours.
pub fn load<M: Module>(module: M, weights: &BTreeMap<String, FixtureTensor>) -> M {
    let mut state = StateDict::new();
    for (key, tensor) in weights {
        state.insert(key, StateTensor { shape: tensor.shape.clone(), data: tensor.to_f32() });
    }
    let (module, _) = load_into(module, &official_key, &state, &LoadOptions::new()).unwrap_or_else(|error| panic!("{error}"));
    // The loader forgives old names and trailing dimensions of 1; the module's own dictionary must be the official one without that.
    assert!(state_dict_of(&module, &official_key) == state, "our state dict is not the official one");
    module
}

/// Compares the gradient of every parameter the case stores one for, as `g.<key>`.
pub fn check_gradients<M: Module>(
    comparison: &mut Comparison,
    module: &M,
    gradients: &Gradients,
    expected: &BTreeMap<String, FixtureTensor>,
) {
    let mut visitor = GradientCheck { comparison, gradients, expected, path: Vec::new(), seen: BTreeSet::new() };
    module.visit(&mut visitor);
    let unmatched: Vec<_> = expected.keys().filter(|key| !visitor.seen.contains(*key)).collect();
    assert!(unmatched.is_empty(), "no parameter has the key of these gradients: {unmatched:?}");
}

struct GradientCheck<'a> {
    comparison: &'a mut Comparison,
    gradients: &'a Gradients,
    expected: &'a BTreeMap<String, FixtureTensor>,
    path: Vec<String>,
    seen: BTreeSet<String>,
}

impl ModuleVisitor for GradientCheck<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = official_key(&self.path.join("."));
        if let Some(expected) = self.expected.get(&key) {
            let gradient = param.val().grad(self.gradients).unwrap_or_else(|| panic!("{key} received no gradient"));
            self.comparison.check(&format!("g.{key}"), gradient, expected, GRADIENT_TOLERANCE);
            self.seen.insert(key);
        }
    }
}
