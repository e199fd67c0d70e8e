//! Losses and gradients that are no numbers: where they begin, written down for whoever has to find out why.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;

use super::logging::Scalars;
use super::parameters::{KeyMap, Walk};

/// Name of the file that holds the newest incident of a run.
pub const REPORT_FILE: &str = "non_finite.json";

/// A step that cannot be taken.
#[derive(Clone, Debug)]
pub struct Incident {
    /// The step, counted from 1.
    pub iteration: u64,
    /// The images of its batch.
    pub images: Vec<String>,
    /// "loss" or "gradient".
    pub what: &'static str,
    /// Where it begins: a parameter, or a module of the forward pass.
    pub place: String,
    /// The terms of the loss.
    pub parts: Scalars,
}

impl Incident {
    /// One line for a person.
    pub fn summary(&self) -> String {
        format!(
            "the {} of iteration {} is not finite, first in {}, on the images {}",
            self.what,
            self.iteration,
            self.place,
            self.images.join(", ")
        )
    }

    /// Writes it into the folder of the run.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(REPORT_FILE);
        // JSON has no NaN, so the figures are text.
        let parts: BTreeMap<&str, String> = self.parts.iter().map(|(name, value)| (name.as_str(), value.to_string())).collect();
        let document = serde_json::json!({
            "iteration": self.iteration, "what": self.what, "first_in": self.place, "loss_parts": parts, "images": self.images,
        });
        std::fs::write(&path, format!("{document:#}\n")).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Whether every value of a tensor is a finite number.
pub fn is_finite<const D: usize>(values: &Tensor<D>) -> bool {
    // A NaN or an infinity survives a sum of magnitudes; an overflow of finite ones is as fatal.
    values.clone().abs().sum().into_scalar::<f32>().is_finite()
}

/// The first parameter of the model that holds a value that is no number.
pub fn first_bad_weight<M: Module>(model: &M, keys: KeyMap) -> Option<String> {
    find(model, keys, None)
}

/// The first parameter whose gradient holds a value that is no number.
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
    /// Where these are given, they are searched instead of the weights.
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
    }

    #[test]
    fn an_incident_is_written_with_everything_that_led_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let incident = Incident {
            iteration: 7,
            images: vec!["a".into(), "b".into()],
            what: "loss",
            place: "neck".into(),
            parts: vec![("loss_cls".into(), f64::NAN)],
        };
        incident.write(folder.path()).unwrap();
        let text = std::fs::read_to_string(folder.path().join(REPORT_FILE)).unwrap();
        for part in ["7", "neck", "\"a\"", "NaN", "loss_cls"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(incident.write(&folder.path().join("none")).is_err());
    }
}
