//! The models of a study, with the weights they get.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use vision_datasets::transforms::Normalize;
use vmamba::LastMap;
use vmamba::checkpoint::{Checkpoint, StateDict, Weights, load_into};
use vmamba::zoo::{Backbone, BackboneConfig, Classifier};

use super::State;
use crate::ablation::AblationConfig;
use crate::engine::classification::model_config;
use crate::engine::trainer::{BEST, LAST};

/// Classes of a classifier with random weights, which its last map does not depend on.
const CLASSES: usize = 1000;

/// A model of a study.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its name in the figure.
    pub name: String,
    /// What it is.
    pub config: BackboneConfig,
    /// What its images are normalised with.
    pub normalize: Normalize,
    /// Its trained weights.
    pub checkpoint: Option<PathBuf>,
}

/// The models of a study: published names and files of options, the rows of configurations, and checkpoints of these tools that bring
/// their own configuration. `checkpoints` are names of models with their weights; a folder is a run, whose best checkpoint counts.
///
/// # Errors
/// When a model, a configuration or a checkpoint is missing or wrong, a name is there twice, or there is no model at all.
pub fn subjects(models: &[String], configs: &[AblationConfig], checkpoints: &[(String, PathBuf)]) -> Result<Vec<Subject>> {
    let mut subjects: Vec<Subject> = Vec::new();
    let mut add = |name: String, config: BackboneConfig| -> Result<()> {
        check_name(&subjects, &name)?;
        subjects.push(Subject { name, config, normalize: Normalize::default(), checkpoint: None });
        Ok(())
    };
    for model in models {
        let name = if model.ends_with(".toml") { stem(Path::new(model)) } else { model.clone() };
        add(name, model_config(model).context("--models")?)?;
    }
    for row in configs.iter().flat_map(|config| &config.row) {
        add(row.id.clone(), row.backbone.clone())?;
    }
    for (name, path) in checkpoints {
        let path = checkpoint_file(path).context("--checkpoint")?;
        let own = OwnConfig::read(&path).with_context(|| format!("--checkpoint {name}"))?;
        let index = match subjects.iter().position(|subject| subject.name == *name) {
            Some(index) => index,
            None => {
                let Some(own) = &own else {
                    let names: Vec<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
                    bail!(
                        "--checkpoint: no model is called `{name}`, and {} does not say what model it is; the models are {}",
                        path.display(),
                        names.join(", ")
                    );
                };
                check_name(&subjects, name)?;
                subjects.push(Subject {
                    name: name.clone(),
                    config: own.backbone.clone(),
                    normalize: Normalize::default(),
                    checkpoint: None,
                });
                subjects.len() - 1
            }
        };
        let Some(subject) = subjects.get_mut(index) else { continue };
        if subject.checkpoint.is_some() {
            bail!("--checkpoint: `{name}` has two");
        }
        if let Some(own) = own {
            subject.normalize = own.normalize;
        }
        subject.checkpoint = Some(path);
    }
    if subjects.is_empty() {
        bail!("no model: name some with --models or --config, or a checkpoint of train_seg or train_det with --checkpoint");
    }
    Ok(subjects)
}

/// The name of a model in the names of files, where some letters mean something else.
pub(super) fn file_name(name: &str) -> String {
    name.replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-' && letter != '_', "_")
}

/// Two models of one name, or of one in files, would overwrite each other's results.
fn check_name(subjects: &[Subject], name: &str) -> Result<()> {
    match subjects.iter().find(|subject| file_name(&subject.name) == file_name(name)) {
        Some(other) if other.name == name => bail!("`{name}` is there twice"),
        Some(other) => bail!("`{name}` and `{}` would have the same files", other.name),
        None => Ok(()),
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The file itself, or the best or, without it, the last checkpoint of a run's folder.
fn checkpoint_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let found = [BEST, LAST].map(|name| path.join(name)).into_iter().find(|path| path.is_file());
    found.with_context(|| format!("{}: neither {BEST} nor {LAST} in this folder", path.display()))
}

/// A model as its file has it.
#[allow(clippy::large_enum_variant, reason = "there is one of it in a program")]
pub(crate) enum Network {
    Classifier(Classifier),
    Backbone(Backbone),
}

/// What a checkpoint of `train_seg` or `train_det` says about its model.
struct OwnConfig {
    backbone: BackboneConfig,
    normalize: Normalize,
}

impl OwnConfig {
    /// None for files of other programs.
    fn read(path: &Path) -> Result<Option<Self>> {
        let checkpoint = Checkpoint::read(path)?;
        let Some(text) = checkpoint.metadata().get("config").filter(|_| checkpoint.is_ours()) else { return Ok(None) };
        let config: Value = serde_json::from_str(text).with_context(|| format!("{}: its configuration", path.display()))?;
        let part = |pointer: &str| config.pointer(pointer).cloned().unwrap_or_default();
        let wrong = |what: &str| format!("{}: {what} in its configuration", path.display());
        Ok(Some(Self {
            backbone: BackboneConfig::deserialize(part("/model/backbone")).with_context(|| wrong("model.backbone"))?,
            normalize: Normalize::deserialize(part("/data/test/normalize")).with_context(|| wrong("data.test.normalize"))?,
        }))
    }
}

impl Subject {
    /// Checks that the model can take images of `size` x `size` pixels with three colours.
    pub(super) fn check(&self, size: usize) -> Result<()> {
        self.config.check_image([size; 2]).with_context(|| format!("{}: --size", self.name))?;
        let options = serde_json::to_value(&self.config)?;
        match options.get("in_chans").and_then(Value::as_u64) {
            Some(channels) if channels != 3 => bail!("{}: in_chans is {channels}, and images have 3 colours", self.name),
            _ => Ok(()),
        }
    }

    /// What tells models of a family apart at `size` x `size` pixels.
    pub(super) fn remark(&self, size: usize) -> String {
        match &self.config {
            BackboneConfig::Swin(config) => {
                let [height, width] = config.window([size; 2]);
                format!("windows {height}x{width}")
            }
            _ => String::new(),
        }
    }

    /// The model on `device`, which has gradients, with none of its own: random weights from `seed`, or those of the checkpoint.
    pub(super) fn network(&self, state: State, seed: u64, device: &Device) -> Result<Box<dyn LastMap>> {
        match (state, &self.checkpoint) {
            (State::After, Some(path)) => self.loaded(path, device),
            _ => {
                device.seed(seed);
                let model = self.config.try_init_classifier(CLASSES, device).with_context(|| self.name.clone())?;
                Ok(Box::new(model.freeze()))
            }
        }
    }

    fn loaded(&self, path: &Path, device: &Device) -> Result<Box<dyn LastMap>> {
        Ok(match self.load_weights(path, device)? {
            Network::Classifier(model) => Box::new(model.freeze()),
            Network::Backbone(model) => Box::new(model.freeze()),
        })
    }

    /// The model with the weights of a file: of a classifier, a segmentor, a detector or a backbone.
    pub(crate) fn load_weights(&self, path: &Path, device: &Device) -> Result<Network> {
        let context = || format!("{} is no checkpoint of {}", path.display(), self.name);
        let checkpoint = Checkpoint::read(path)?;
        // The published figures are of the averaged weights.
        let weights = if checkpoint.weight_sets().contains(&"model_ema") { Weights::Ema } else { Weights::Auto };
        let state = self.config.official_state(checkpoint.state_dict(weights)?);
        let (config, options) = (&self.config, self.config.load_options());
        if let Some(classes) = config.num_classes(&state) {
            let model = config.try_init_classifier(classes, device).with_context(|| self.name.clone())?;
            let (model, _) = load_into(model, &vmamba::zoo::key, &state, &options).with_context(context)?;
            return Ok(Network::Classifier(model));
        }
        let model = config.try_init(device).with_context(context)?;
        let (model, _) = load_into(model, &vmamba::zoo::key, &backbone_of(state), &options).with_context(context)?;
        Ok(Network::Backbone(model))
    }
}

/// The backbone of a segmentor or a detector; a file without their prefix is a backbone itself.
fn backbone_of(state: StateDict) -> StateDict {
    const PREFIX: &str = "backbone.";
    if !state.keys().any(|key| key.starts_with(PREFIX)) {
        return state;
    }
    state.iter().filter_map(|(key, tensor)| Some((key.strip_prefix(PREFIX)?.to_owned(), tensor.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_by_name_and_named_once() {
        let both = |names: &[&str]| subjects(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &[], &[]);
        assert_eq!(both(&["swin_tiny", "vim_tiny"]).unwrap().len(), 2);
        assert!(format!("{:#}", both(&["swin_giant"]).unwrap_err()).contains("swin_tiny"));
        assert!(both(&["swin_tiny", "swin_tiny"]).unwrap_err().to_string().contains("twice"));
        let known = [Subject { name: "a.b".to_owned(), ..both(&["swin_tiny"]).unwrap().remove(0) }];
        assert!(check_name(&known, "a_b").unwrap_err().to_string().contains("the same files") && check_name(&known, "a-b").is_ok());
        assert!(both(&[]).unwrap_err().to_string().contains("--models"));
    }

    #[test]
    fn sizes_that_a_family_cannot_take_and_windows_are_said() {
        let subject = |name: &str| subjects(&[name.to_owned()], &[], &[]).unwrap().remove(0);
        assert!(format!("{:#}", subject("deit_tiny").check(100).unwrap_err()).contains("16 divides"));
        assert_eq!(subject("swin_tiny").remark(1024), "windows 7x7");
        assert_eq!(subject("swin_tiny_scaled").remark(1024), "windows 32x32");
    }
}
