//! The models of a study, with the weights they get.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anstream::eprintln;
use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};
use vision_datasets::transforms::Normalize;
use vmamba::LastMap;
use vmamba::checkpoint::{Checkpoint, StateDict, Weights, load_into};
use vmamba::zoo::{Backbone, BackboneConfig, Classifier};

use super::State;
use crate::ablation::AblationConfig;
use vmamba_recipes::classification::model_config;
use vmamba_report::run_folder::{BEST, LAST};

/// Classes of a classifier with random weights, which its last map does not depend on.
const CLASSES: usize = 1000;

/// Options of a model that its last map does not depend on once it has its weights.
const NOT_IN_THE_LAST_MAP: [&str; 5] = ["drop_path_rate", "ssm_drop_rate", "mlp_drop_rate", "out_indices", "ssm_init"];

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
/// A checkpoint of a name that is not among models that are given becomes a model of its own when it brings one, which is said.
///
/// # Errors
/// When a model, a configuration or a checkpoint is missing or wrong, a name is there twice, means another published model or looks like a
/// mistyped one, or there is no model at all.
pub fn subjects(models: &[String], configs: &[AblationConfig], checkpoints: &[(String, PathBuf)]) -> Result<Vec<Subject>> {
    let mut subjects: Vec<Subject> = Vec::new();
    for model in models {
        let subject = Subject::named(model).context("--models")?;
        check_name(&subjects, &subject.name)?;
        subjects.push(subject);
    }
    for row in configs.iter().flat_map(|config| &config.row) {
        check_name(&subjects, &row.id)?;
        subjects.push(Subject::untrained(row.id.clone(), row.backbone.clone()));
    }
    let given: Vec<String> = subjects.iter().map(|subject| subject.name.clone()).collect();
    for (name, path) in checkpoints {
        if let Some(subject) = subjects.iter_mut().find(|subject| subject.name == *name) {
            *subject = subject.clone().trained(path).with_context(|| format!("--checkpoint {name}"))?;
            continue;
        }
        if let Some(meant) = given.iter().find(|given| mistyped(name, given)) {
            bail!("--checkpoint {name}: no model is called `{name}`; did you mean `{meant}`?");
        }
        check_name(&subjects, name)?;
        let subject = Subject::of_run(name.clone(), path).with_context(|| match given.as_slice() {
            [] => format!("--checkpoint {name}"),
            given => format!("--checkpoint: no model is called `{name}`; the models are {}", given.join(", ")),
        })?;
        subject.check_published(&subject.config).with_context(|| format!("--checkpoint {name}"))?;
        if !given.is_empty() {
            eprintln!(
                "note: --checkpoint {name}: none of --models and --config, so that it is a model of its own, which its file describes"
            );
        }
        subjects.push(subject);
    }
    if subjects.is_empty() {
        bail!("no model: name some with --models or --config, or a checkpoint of train_seg or train_det with --checkpoint");
    }
    Ok(subjects)
}

/// Whether two names differ as if one of them were mistyped.
fn mistyped(name: &str, given: &str) -> bool {
    let slips = match name.len().min(given.len()) {
        0..5 => 0,
        5..8 => 1,
        _ => 2,
    };
    BackboneConfig::named(name).is_err() && strsim::osa_distance(&name.to_lowercase(), &given.to_lowercase()) <= slips
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
    fn untrained(name: String, config: BackboneConfig) -> Self {
        Self { name, config, normalize: Normalize::default(), checkpoint: None }
    }

    /// A published model by its name, or a `.toml` file with the options of one, with random weights.
    pub(crate) fn named(model: &str) -> Result<Self> {
        let name = if model.ends_with(".toml") { stem(Path::new(model)) } else { model.to_owned() };
        Ok(Self::untrained(name, model_config(model)?))
    }

    /// The model that a checkpoint of `train_seg` or `train_det`, or the folder of a run, brings.
    pub(crate) fn of_run(name: String, path: &Path) -> Result<Self> {
        let path = checkpoint_file(path)?;
        match OwnConfig::read(&path)? {
            Some(own) => Ok(Self { name, config: own.backbone, normalize: own.normalize, checkpoint: Some(path) }),
            None => bail!("{} does not say what model it is; name the model as well", path.display()),
        }
    }

    /// With the weights of a file or of a run.
    pub(crate) fn trained(mut self, path: &Path) -> Result<Self> {
        if self.checkpoint.is_some() {
            bail!("`{}` has two", self.name);
        }
        let path = checkpoint_file(path)?;
        if let Some(own) = OwnConfig::read(&path)? {
            self.check_published(&own.backbone)?;
            self.normalize = own.normalize;
        }
        self.checkpoint = Some(path);
        Ok(self)
    }

    /// The name of a published model must not stand above another one.
    fn check_published(&self, own: &BackboneConfig) -> Result<()> {
        let Ok(published) = BackboneConfig::named(&self.name) else { return Ok(()) };
        let (published, own) = (serde_json::to_value(published)?, serde_json::to_value(own)?);
        let option = |config: &Value, name: &str| config.get(name).cloned().unwrap_or_default();
        let names: BTreeSet<&String> = [&published, &own].into_iter().filter_map(Value::as_object).flat_map(Map::keys).collect();
        let differs = |name: &&String| !NOT_IN_THE_LAST_MAP.contains(&name.as_str()) && option(&published, name) != option(&own, name);
        if let Some(name) = names.into_iter().find(differs) {
            let (found, expected) = (option(&own, name), option(&published, name));
            bail!(
                "`{}` is a published model, and the checkpoint is of another: {name} is {found}, not {expected}; leave out this name or \
                 take another",
                self.name
            );
        }
        Ok(())
    }

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
    fn names_that_look_mistyped_are_told_from_others() {
        assert!(mistyped("smal1", "small") && mistyped("swim_tiny", "swin_tiny") && mistyped("Vmamba_tiny_s1l8", "vmamba_tiny_s1l8"));
        // The second is a published model, the others are other words.
        for (name, given) in [("v1", "v2"), ("swin_small", "swin_smal"), ("mine", "small"), ("trained", "random")] {
            assert!(!mistyped(name, given), "{name} and {given}");
        }
    }

    #[test]
    fn a_published_name_stands_above_that_model_only() {
        let subject = Subject::named("vmamba_tiny_s1l8").unwrap();
        let with = |change: &str, value: Value| -> BackboneConfig {
            let mut table = serde_json::to_value(&subject.config).unwrap();
            table[change] = value;
            serde_json::from_value(table).unwrap()
        };
        assert!(subject.check_published(&with("drop_path_rate", 0.5.into())).is_ok(), "nothing to do with its map");
        for (change, value) in [("depths", serde_json::json!([1, 1, 1, 1])), ("forward_type", "v052d_noz".into())] {
            let error = subject.check_published(&with(change, value)).unwrap_err().to_string();
            assert!(error.contains("vmamba_tiny_s1l8") && error.contains(&format!("{change} is")), "{error}");
        }
        let own = Subject { name: "mine".to_owned(), ..subject };
        assert!(own.check_published(&BackboneConfig::named("swin_tiny").unwrap()).is_ok());
    }

    #[test]
    fn sizes_that_a_family_cannot_take_and_windows_are_said() {
        let subject = |name: &str| subjects(&[name.to_owned()], &[], &[]).unwrap().remove(0);
        assert!(format!("{:#}", subject("deit_tiny").check(100).unwrap_err()).contains("16 divides"));
        assert_eq!(subject("swin_tiny").remark(1024), "windows 7x7");
        assert_eq!(subject("swin_tiny_scaled").remark(1024), "windows 32x32");
    }
}
