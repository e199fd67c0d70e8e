//! Parameters and statistics that training does not change.

use burn::module::{Flag, Module, ModuleVisitor, Param, ParamGroup};
use burn::prelude::*;
use vmamba::layers::NormKind;

use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::parameters::KeyMap;

/// Freezes the parameters that the configuration names; returns the model and the number of frozen parameters.
///
/// # Errors
/// When a setting would have no effect: no key contains a text of `freeze`, the model has no norm layer for `freeze_norms`, or the backbone
/// has no batch norm for `norm_eval`. Also when nothing is left to train.
pub fn freeze<M: Module>(model: M, config: &TrainConfig, keys: KeyMap) -> Result<(M, usize), TrainError> {
    let used = vec![false; config.freeze.len()];
    let mut search =
        Search { config, keys, path: Vec::new(), found: Vec::new(), parameters: 0, trainable: 0, norms: false, evaluated: 0, used };
    model.visit(&mut search);
    if let Some((text, _)) = config.freeze.iter().zip(&search.used).find(|(_, used)| !**used) {
        return Err(TrainError::config("freeze", format!(": no parameter's name contains \"{text}\"")));
    }
    if config.freeze_norms && !search.norms {
        return Err(TrainError::config("freeze_norms", ": the model has no ChannelNorm, BatchNorm2d or RmsNorm"));
    }
    if config.norm_eval && search.evaluated == 0 {
        return Err(TrainError::config("norm_eval", ": the backbone has no batch norm"));
    }
    let (found, count) = (search.found, search.parameters);
    if count == search.trainable {
        let field = if config.freeze.is_empty() { "freeze_norms" } else { "freeze" };
        return Err(TrainError::config(field, ": every parameter of the model is frozen, so that nothing is left to train"));
    }
    if found.is_empty() {
        return Ok((model, 0));
    }
    Ok((model.freeze_group(ParamGroup::from_paths(found)), count))
}

struct Search<'a> {
    config: &'a TrainConfig,
    keys: KeyMap,
    /// Names and types of the enclosing modules.
    path: Vec<(String, String)>,
    found: Vec<String>,
    /// Frozen parameters.
    parameters: usize,
    /// Parameters that were trainable before.
    trainable: usize,
    /// Whether the model has a norm layer.
    norms: bool,
    /// Batch norms of the backbone, whose statistics `norm_eval` freezes.
    evaluated: usize,
    used: Vec<bool>,
}

impl Search<'_> {
    /// The path of the current parameter.
    fn place(&self) -> String {
        self.path.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".")
    }

    /// The norm that the current parameter belongs to.
    fn norm(&self) -> Option<NormKind> {
        self.path.last().and_then(|(_, container)| NormKind::of(container))
    }

    /// Records the current parameter if it is to be frozen; returns whether it is.
    fn visit(&mut self) -> bool {
        let path = self.place();
        let key = (self.keys)(&path);
        let in_norm = self.norm().is_some();
        self.norms |= in_norm;
        let mut frozen = self.config.freeze_norms && in_norm;
        for (text, used) in self.config.freeze.iter().zip(&mut self.used) {
            if key.contains(text.as_str()) {
                *used = true;
                frozen = true;
            }
        }
        if frozen {
            self.found.push(path);
        }
        frozen
    }
}

impl ModuleVisitor for Search<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push((name.to_owned(), container_type.to_owned()));
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Running statistics are visited too, but they are not parameters.
        let trainable = param.is_require_grad();
        let frozen = self.visit();
        if trainable {
            self.trainable += 1;
            self.parameters += usize::from(frozen);
        }
    }

    fn visit_flag(&mut self, _flag: &Param<Flag>) {
        // A batch norm's flag says whether it normalises by the batch's statistics. Stochastic depth has a flag too.
        let in_backbone = (self.keys)(&self.place()).starts_with("backbone.");
        let frozen = self.visit();
        if self.config.norm_eval && in_backbone && self.norm() == Some(NormKind::Batch) {
            self.evaluated += 1;
            if !frozen {
                self.found.push(self.place());
            }
        }
    }
}
