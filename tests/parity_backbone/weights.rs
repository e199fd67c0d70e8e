//! Fixture weights into a module, and gradients out of it, by official key.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::{Gradients, TensorData};
use tests::{Comparison, FixtureTensor, GRADIENT_TOLERANCE};
use vmamba::official_key;

/// The module with the weights of a case; the key sets must be equal.
pub fn load<M: Module>(module: M, weights: &BTreeMap<String, FixtureTensor>) -> M {
    let mut loader = Loader { weights, path: Vec::new(), seen: BTreeSet::new() };
    let module = module.map(&mut loader);
    let expected: BTreeSet<String> = weights.keys().cloned().collect();
    assert_eq!(loader.seen, expected, "our keys (left) are the official ones (right)");
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

struct Loader<'a> {
    weights: &'a BTreeMap<String, FixtureTensor>,
    path: Vec<String>,
    seen: BTreeSet<String>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let key = official_key(&self.path.join("."));
        let weight = self.weights.get(&key).unwrap_or_else(|| panic!("the case has no weight `{key}`"));
        assert_eq!(param.shape().as_slice(), weight.shape, "{key}");
        self.seen.insert(key);
        let data = TensorData::new(weight.to_f32(), weight.shape.clone());
        param.map(|old| {
            let new = Tensor::from_data(data, &old.device());
            if old.is_require_grad() { new.require_grad() } else { new }
        })
    }
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
