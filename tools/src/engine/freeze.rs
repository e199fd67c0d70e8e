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
/// When one of the texts is in no parameter's name: it would be a setting without effect.
pub fn freeze<M: Module>(model: M, config: &TrainConfig, keys: KeyMap) -> anyhow::Result<(M, usize)> {
    let mut search = Search { config, keys, path: Vec::new(), found: Vec::new(), parameters: 0, used: vec![false; config.freeze.len()] };
    model.visit(&mut search);
    if let Some((text, _)) = config.freeze.iter().zip(&search.used).find(|(_, used)| !**used) {
        anyhow::bail!("train.freeze: no parameter's name contains \"{text}\"");
    }
    let found = search.found;
    if search.parameters == 0 {
        return Ok((model, 0));
    }
    let count = search.parameters;
    Ok((model.freeze_group(ParamGroup::from_paths(found)), count))
}

struct Search<'a> {
    config: &'a TrainConfig,
    keys: KeyMap,
    /// Names and types of the modules around.
    path: Vec<(String, String)>,
    found: Vec<String>,
    parameters: usize,
    used: Vec<bool>,
}

impl Search<'_> {
    /// Notes what is here when it is to be frozen.
    fn visit(&mut self) -> bool {
        let path = self.path.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".");
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
        self.visit();
    }
}
