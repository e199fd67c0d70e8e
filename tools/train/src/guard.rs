//! Losses and gradients that are not finite, and where they originate.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;
pub use vmamba::is_finite;

use crate::parameters::{KeyMap, Walk};
use crate::recipe::Scalars;

/// A step that cannot be taken because its loss or a gradient is not finite.
#[derive(Clone, Debug)]
pub struct Incident {
    /// The step, counted from 1.
    pub iteration: u64,
    /// The images of its batch.
    pub images: Vec<String>,
    /// "loss" or "gradient".
    pub what: &'static str,
    /// The first parameter, or the first module of the forward pass, with a value that is not finite.
    pub place: String,
    /// The terms of the loss.
    pub parts: Scalars,
}

impl Incident {
    /// The incident in one line.
    pub fn summary(&self) -> String {
        format!(
            "the {} of iteration {} is not finite, first in {}, on the images {}",
            self.what,
            self.iteration,
            self.place,
            self.images.join(", ")
        )
    }

    /// The incident as a JSON document.
    pub fn to_json(&self) -> serde_json::Value {
        // JSON has no NaN, so the figures are text.
        let parts: BTreeMap<&str, String> = self.parts.iter().map(|(name, value)| (name.as_str(), value.to_string())).collect();
        serde_json::json!({
            "iteration": self.iteration, "what": self.what, "first_in": self.place, "loss_parts": parts, "images": self.images,
        })
    }
}

/// The first parameter of the model with a value that is not finite.
pub fn first_bad_weight<M: Module>(model: &M, keys: KeyMap) -> Option<String> {
    find(model, keys, None)
}

/// The key of the parameter with the largest magnitude, and the value; none without a finite value.
pub fn largest_weight<M: Module>(model: &M, keys: KeyMap) -> Option<(String, f32)> {
    let mut search = Largest { walk: Walk::default(), keys, found: None };
    model.visit(&mut search);
    search.found
}

struct Largest {
    walk: Walk,
    keys: KeyMap,
    found: Option<(String, f32)>,
}

impl ModuleVisitor for Largest {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.walk.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.walk.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val().abs().max().into_scalar::<f32>();
        if value.is_finite() && self.found.as_ref().is_none_or(|(_, largest)| value > *largest) {
            self.found = Some((self.walk.key(self.keys), value));
        }
    }
}

/// The first parameter with a gradient that is not finite.
pub fn first_bad_gradient<M: Module>(model: &M, gradients: &GradientsParams, keys: KeyMap) -> Option<String> {
    find(model, keys, Some(gradients))
}

fn find<M: Module>(model: &M, keys: KeyMap, gradients: Option<&GradientsParams>) -> Option<String> {
    let mut search = Search { walk: Walk::default(), keys, gradients, found: None };
    model.visit(&mut search);
    search.found
}

struct Search<'a> {
    walk: Walk,
    keys: KeyMap,
    /// Searches these gradients instead of the weights.
    gradients: Option<&'a GradientsParams>,
    found: Option<String>,
}

impl ModuleVisitor for Search<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.walk.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.walk.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = match self.gradients {
            Some(gradients) => gradients.get::<D>(param.id),
            None => Some(param.val()),
        };
        if self.found.is_none() && values.is_some_and(|values| !is_finite(&values)) {
            self.found = Some(self.walk.key(self.keys));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Module, Debug)]
    struct Two {
        good: Param<Tensor<1>>,
        root: Param<Tensor<1>>,
    }

    #[test]
    fn the_parameter_with_the_bad_gradient_is_named_although_loss_and_weights_are_finite() {
        let device = Device::flex().autodiff();
        let model = Two {
            good: Param::from_tensor(Tensor::from_floats([1.0, 2.0], &device)),
            root: Param::from_tensor(Tensor::from_floats([4.0, 0.0], &device)),
        };
        let keys: KeyMap = str::to_owned;
        // The derivative of a square root at 0.
        let loss = model.good.val().sum() + model.root.val().sqrt().sum();
        assert!(is_finite(&loss));
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        assert_eq!(first_bad_weight(&model, keys), None);
        assert_eq!(first_bad_gradient(&model, &gradients, keys).as_deref(), Some("root"));
        assert_eq!(largest_weight(&model, keys), Some(("root".to_owned(), 4.0)));
    }

    #[test]
    fn an_incident_as_json_has_iteration_images_place_and_losses() {
        let incident = Incident {
            iteration: 7,
            images: vec!["a".into(), "b".into()],
            what: "loss",
            place: "neck".into(),
            parts: vec![("loss_cls".into(), f64::NAN)],
        };
        let text = incident.to_json().to_string();
        for part in ["7", "neck", "\"a\"", "NaN", "loss_cls"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
