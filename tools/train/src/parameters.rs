//! Walking over the parameters of a model by their official keys.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;

/// Maps the path of a parameter in the model to its official key.
pub type KeyMap = fn(&str) -> String;

/// The current place of a walk over a module.
#[derive(Debug, Default)]
pub struct Walk(Vec<String>);

impl Walk {
    /// Enters a field.
    pub fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    /// Leaves it.
    pub fn exit(&mut self) {
        self.0.pop();
    }

    /// The official key of the current parameter.
    pub fn key(&self, keys: KeyMap) -> String {
        keys(&self.0.join("."))
    }
}

/// Shapes of all trainable parameters by official key.
pub fn trainable<M: Module>(model: &M, keys: KeyMap) -> BTreeMap<String, Vec<usize>> {
    let mut visitor = Trainable { walk: Walk::default(), keys, found: BTreeMap::new() };
    model.visit(&mut visitor);
    visitor.found
}

struct Trainable {
    walk: Walk,
    keys: KeyMap,
    found: BTreeMap<String, Vec<usize>>,
}

impl ModuleVisitor for Trainable {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.walk.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.walk.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.found.insert(self.walk.key(self.keys), param.shape().to_vec());
        }
    }
}
