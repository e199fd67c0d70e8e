//! Parameters that keep their values in training.

use burn::module::{Flag, Module, ModuleVisitor, Param, ParamGroup};
use burn::prelude::*;

use super::config::TrainConfig;
use super::parameters::KeyMap;

/// Types of layers that normalise.
const NORMS: [&str; 2] = ["ChannelNorm", "BatchNorm2d"];

/// The model with the parameters frozen that the configuration names, and how many they are.
///
/// # Errors
/// When a setting would have no effect: a text that is in no parameter's name, or `norm_eval` without a batch norm in the backbone.
pub fn freeze<M: Module>(model: M, config: &TrainConfig, keys: KeyMap) -> anyhow::Result<(M, usize)> {
    let mut search =
        Search { config, keys, path: Vec::new(), found: Vec::new(), parameters: 0, evaluated: 0, used: vec![false; config.freeze.len()] };
    model.visit(&mut search);
    if let Some((text, _)) = config.freeze.iter().zip(&search.used).find(|(_, used)| !**used) {
        anyhow::bail!("train.freeze: no parameter's name contains \"{text}\"");
    }
    if config.norm_eval && search.evaluated == 0 {
        anyhow::bail!("train.norm_eval: the backbone has no batch norm");
    }
    let (found, count) = (search.found, search.parameters);
    if found.is_empty() {
        return Ok((model, 0));
    }
    Ok((model.freeze_group(ParamGroup::from_paths(found)), count))
}

struct Search<'a> {
    config: &'a TrainConfig,
    keys: KeyMap,
    /// Names and types of the modules around.
    path: Vec<(String, String)>,
    found: Vec<String>,
    parameters: usize,
    /// Batch norms of the backbone that keep their statistics by `norm_eval`.
    evaluated: usize,
    used: Vec<bool>,
}

impl Search<'_> {
    /// Names of the fields down to here.
    fn place(&self) -> String {
        self.path.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".")
    }

    /// Notes what is here when it is to be frozen.
    fn visit(&mut self) -> bool {
        let path = self.place();
        let key = (self.keys)(&path);
        let norm = self.path.last().and_then(|(_, of)| of.split(':').next_back()).is_some_and(|of| NORMS.contains(&of));
        let mut frozen = self.config.freeze_norms && norm;
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
        // Running statistics come by here too; they are no parameters.
        let trainable = param.is_require_grad();
        if self.visit() && trainable {
            self.parameters += 1;
        }
    }

    fn visit_flag(&mut self, _flag: &Param<Flag>) {
        // Whether a batch norm takes the batch's statistics.
        let in_backbone = self.path.first().is_some_and(|(name, _)| name == "backbone");
        let frozen = self.visit();
        if self.config.norm_eval && in_backbone {
            self.evaluated += 1;
            if !frozen {
                self.found.push(self.place());
            }
        }
    }
}
