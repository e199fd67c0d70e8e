//! The models of the receptive fields, with their weights.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};
use vision_datasets::json;
use vision_datasets::transforms::Normalize;
use vmamba::LastMap;
use vmamba::checkpoint::{Checkpoint, Origin, StateDict, Weights, load_into};
use vmamba::zoo::{Backbone, BackboneConfig, Classifier};
use vmamba_recipes::MemoryEstimate;
use vmamba_recipes::classification::model_config;
use vmamba_report::eprintln;
use vmamba_report::run_folder::{BEST, LAST};

use super::State;
use crate::ablation::AblationConfig;
use crate::error::{Place, Result, StudyError, invalid};

/// Number of classes of a classifier with random weights; its last map does not depend on it.
const CLASSES: usize = 1000;

/// Options that do not affect the last map of a trained model.
const NOT_IN_THE_LAST_MAP: [&str; 5] = ["drop_path_rate", "ssm_drop_rate", "mlp_drop_rate", "out_indices", "ssm_init"];

/// A model with its weights.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its name in the figure.
    pub name: String,
    /// Its options.
    pub config: BackboneConfig,
    /// Normalisation of its images.
    pub normalize: Normalize,
    /// The checkpoint of its trained weights.
    pub checkpoint: Option<PathBuf>,
}

/// Collects the models: `models` are published names or TOML files of options, `configs` have a model in each row, and `checkpoints` are names
/// of models with their weights. A checkpoint is a file, or the folder of a run, whose best checkpoint is used.
///
/// A checkpoint whose name is not among the models adds a model with the configuration in its metadata; a note is printed when there are other
/// models.
///
/// # Errors
/// When a model, configuration or checkpoint is missing or invalid, a name is used twice, belongs to another published model, or looks
/// mistyped, or when there is no model.
pub fn subjects(models: &[String], configs: &[AblationConfig], checkpoints: &[(String, PathBuf)]) -> Result<Vec<Subject>> {
    let mut subjects: Vec<Subject> = Vec::new();
    for model in models {
        let subject = Subject::named(model).at("--models")?;
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
            *subject = subject.clone().trained(path).at_with(|| format!("--checkpoint {name}"))?;
            continue;
        }
        if let Some(meant) = given.iter().find(|given| mistyped(name, given)) {
            return Err(invalid!("--checkpoint {name}: unknown model `{name}`; did you mean `{meant}`?"));
        }
        check_name(&subjects, name)?;
        let subject = Subject::of_run(name.clone(), path).at_with(|| match given.as_slice() {
            [] => format!("--checkpoint {name}"),
            given => format!("--checkpoint: unknown model `{name}`; the models are {}", given.join(", ")),
        })?;
        subject.check_published(&subject.config).at_with(|| format!("--checkpoint {name}"))?;
        if !given.is_empty() {
            eprintln!("note: --checkpoint {name}: not among --models and --config; added as a model with the configuration in its file");
        }
        subjects.push(subject);
    }
    if subjects.is_empty() {
        return Err(invalid!("no model; name one with --models, --config, or a checkpoint of train_seg or train_det with --checkpoint"));
    }
    Ok(subjects)
}

/// Whether `name` looks like a mistyped `given`.
fn mistyped(name: &str, given: &str) -> bool {
    let slips = match name.len().min(given.len()) {
        0..5 => 0,
        5..8 => 1,
        _ => 2,
    };
    BackboneConfig::named(name).is_err() && strsim::osa_distance(&name.to_lowercase(), &given.to_lowercase()) <= slips
}

/// The name of a model as part of a file name.
pub(super) fn file_name(name: &str) -> String {
    name.replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-' && letter != '_', "_")
}

/// Refuses a name that another model has, in the figure or in file names.
fn check_name(subjects: &[Subject], name: &str) -> Result<()> {
    match subjects.iter().find(|subject| file_name(&subject.name) == file_name(name)) {
        Some(other) if other.name == name => Err(invalid!("two models are called `{name}`")),
        Some(other) => Err(invalid!("`{name}` and `{}` would write the same files", other.name)),
        None => Ok(()),
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The file itself; in the folder of a run the best checkpoint, otherwise the last.
fn checkpoint_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let found = [BEST, LAST].map(|name| path.join(name)).into_iter().find(|path| path.is_file());
    found.ok_or_else(|| invalid!("{}: neither {BEST} nor {LAST} in this folder", path.display()))
}

/// A loaded model: a classifier, or the backbone of a segmentor or detector.
#[allow(clippy::large_enum_variant, reason = "a program has one")]
pub(crate) enum Network {
    Classifier(Classifier),
    Backbone(Backbone),
}

/// The configuration in the metadata of a checkpoint of `train_seg` or `train_det`.
struct OwnConfig {
    backbone: BackboneConfig,
    normalize: Normalize,
}

impl OwnConfig {
    /// Reads it; `None` for files of other programs.
    fn read(path: &Path) -> Result<Option<Self>> {
        let checkpoint = Checkpoint::read(path)?;
        let Some(text) = checkpoint.metadata().get("config").filter(|_| checkpoint.is_ours()) else { return Ok(None) };
        let place = |field: &str| format!("{}: {field} in its metadata", path.display());
        let config: Value = json::parse(text).map_err(StudyError::content(place("`config`")))?;
        let part = |pointer: &str| config.pointer(pointer).cloned().unwrap_or_default();
        Ok(Some(Self {
            backbone: BackboneConfig::deserialize(part("/model/backbone")).map_err(StudyError::content(place("`model.backbone`")))?,
            normalize: Normalize::deserialize(part("/data/test/normalize")).map_err(StudyError::content(place("`data.test.normalize`")))?,
        }))
    }
}

impl Subject {
    fn untrained(name: String, config: BackboneConfig) -> Self {
        Self { name, config, normalize: Normalize::default(), checkpoint: None }
    }

    /// A published model by name, or a model from a TOML file of options, with random weights.
    pub(crate) fn named(model: &str) -> Result<Self> {
        let name = if model.ends_with(".toml") { stem(Path::new(model)) } else { model.to_owned() };
        Ok(Self::untrained(name, model_config(model)?))
    }

    /// The model in a checkpoint of `train_seg` or `train_det`, or in the folder of a run.
    pub(crate) fn of_run(name: String, path: &Path) -> Result<Self> {
        let path = checkpoint_file(path)?;
        match OwnConfig::read(&path)? {
            Some(own) => Ok(Self { name, config: own.backbone, normalize: own.normalize, checkpoint: Some(path) }),
            None => Err(invalid!("{} does not name its model; name the model as well", path.display())),
        }
    }

    /// The model with the weights of a file or of a run.
    pub(crate) fn trained(mut self, path: &Path) -> Result<Self> {
        if self.checkpoint.is_some() {
            return Err(invalid!("two checkpoints for `{}`", self.name));
        }
        let path = checkpoint_file(path)?;
        if let Some(own) = OwnConfig::read(&path)? {
            self.check_published(&own.backbone)?;
            self.normalize = own.normalize;
        }
        self.checkpoint = Some(path);
        Ok(self)
    }

    /// Refuses the name of a published model for a model with other options.
    fn check_published(&self, own: &BackboneConfig) -> Result<()> {
        let Ok(published) = BackboneConfig::named(&self.name) else { return Ok(()) };
        let [published, own] = [&published, own].map(|config| Value::Object(Map::from(config.clone())));
        let option = |config: &Value, name: &str| config.get(name).cloned().unwrap_or_default();
        let names: BTreeSet<&String> = [&published, &own].into_iter().filter_map(Value::as_object).flat_map(Map::keys).collect();
        let differs = |name: &&String| !NOT_IN_THE_LAST_MAP.contains(&name.as_str()) && option(&published, name) != option(&own, name);
        if let Some(name) = names.into_iter().find(differs) {
            let (found, expected) = (option(&own, name), option(&published, name));
            return Err(invalid!(
                "`{}` is a published model and the checkpoint belongs to another: {name} is {found}, not {expected}; leave out the name or \
                 choose another",
                self.name
            ));
        }
        Ok(())
    }

    /// Checks that the model takes colour images of `size` x `size` pixels.
    ///
    /// # Errors
    /// [`StudyError::Config`](crate::StudyError::Config) with the supported sizes.
    pub fn check(&self, size: usize) -> Result<()> {
        self.config.check_photo([size; 2]).at_with(|| format!("{}: --size", self.name))
    }

    /// The memory for the gradients of an image of `size` x `size` pixels.
    pub fn memory(&self, size: usize) -> MemoryEstimate {
        MemoryEstimate::gradients(&self.config.complexity([size; 2]), [size; 2])
    }

    /// A property that distinguishes models of one family at `size` x `size` pixels.
    pub(super) fn remark(&self, size: usize) -> String {
        match &self.config {
            BackboneConfig::Swin(config) => {
                let [height, width] = config.window([size; 2]);
                format!("windows {height}x{width}")
            }
            _ => String::new(),
        }
    }

    /// The frozen model on `device`, an autodiff device, with random weights from `seed` or those of the checkpoint.
    pub(super) fn network(&self, state: State, seed: u64, device: &Device) -> Result<Box<dyn LastMap>> {
        match (state, &self.checkpoint) {
            (State::After, Some(path)) => self.loaded(path, device),
            _ => {
                device.seed(seed);
                let model = self.config.try_init_classifier(CLASSES, device).at_with(|| self.name.clone())?;
                Ok(Box::new(model.freeze()))
            }
        }
    }

    fn loaded(&self, path: &Path, device: &Device) -> Result<Box<dyn LastMap>> {
        Ok(match self.load_weights(path, device)?.0 {
            Network::Classifier(model) => Box::new(model.freeze()),
            Network::Backbone(model) => Box::new(model.freeze()),
        })
    }

    /// The model with the weights of a file of a classifier, segmentor, detector or backbone, and which set of the file they are.
    pub(crate) fn load_weights(&self, path: &Path, device: &Device) -> Result<(Network, Origin)> {
        let context = || format!("{} is not a checkpoint of {}", path.display(), self.name);
        let checkpoint = Checkpoint::read(path)?;
        // The published figures use the averaged weights.
        let (state, origin) = checkpoint.model_state(Weights::Validated)?;
        let state = self.config.official_state(state);
        let (config, options) = (&self.config, self.config.load_options());
        if let Some(classes) = config.num_classes(&state) {
            let model = config.try_init_classifier(classes, device).at_with(|| self.name.clone())?;
            let (model, _) = load_into(model, &vmamba::zoo::key, &state, &options).at_with(context)?;
            return Ok((Network::Classifier(model), origin));
        }
        let model = config.try_init(device).at_with(context)?;
        let (model, _) = load_into(model, &vmamba::zoo::key, &backbone_of(state), &options).at_with(context)?;
        Ok((Network::Backbone(model), origin))
    }
}

/// The weights of the backbone in a segmentor or detector; a file without the prefix is a backbone.
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
    fn models_are_found_by_name_and_used_once() {
        let both = |names: &[&str]| subjects(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &[], &[]);
        assert_eq!(both(&["swin_tiny", "vim_tiny"]).unwrap().len(), 2);
        assert!(both(&["swin_giant"]).unwrap_err().line().contains("swin_tiny"));
        assert!(both(&["swin_tiny", "swin_tiny"]).unwrap_err().to_string().contains("two models"));
        let known = [Subject { name: "a.b".to_owned(), ..both(&["swin_tiny"]).unwrap().remove(0) }];
        assert!(check_name(&known, "a_b").unwrap_err().to_string().contains("the same files") && check_name(&known, "a-b").is_ok());
        assert!(both(&[]).unwrap_err().to_string().contains("--models"));
    }

    #[test]
    fn mistyped_names_are_distinguished_from_other_names() {
        assert!(mistyped("smal1", "small") && mistyped("swim_tiny", "swin_tiny") && mistyped("Vmamba_tiny_s1l8", "vmamba_tiny_s1l8"));
        // The second is a published model, the others are other words.
        for (name, given) in [("v1", "v2"), ("swin_small", "swin_smal"), ("mine", "small"), ("trained", "random")] {
            assert!(!mistyped(name, given), "{name} and {given}");
        }
    }

    #[test]
    fn a_published_name_is_refused_for_another_model() {
        let subject = Subject::named("vmamba_tiny_s1l8").unwrap();
        let with = |change: &str, value: Value| -> BackboneConfig {
            let mut table = serde_json::to_value(&subject.config).unwrap();
            table[change] = value;
            serde_json::from_value(table).unwrap()
        };
        assert!(subject.check_published(&with("drop_path_rate", 0.5.into())).is_ok(), "the map does not depend on it");
        for (change, value) in [("depths", serde_json::json!([1, 1, 1, 1])), ("forward_type", "v052d_noz".into())] {
            let error = subject.check_published(&with(change, value)).unwrap_err().to_string();
            assert!(error.contains("vmamba_tiny_s1l8") && error.contains(&format!("{change} is")), "{error}");
        }
        let own = Subject { name: "mine".to_owned(), ..subject };
        assert!(own.check_published(&BackboneConfig::named("swin_tiny").unwrap()).is_ok());
    }

    #[test]
    fn unsupported_sizes_are_errors_and_windows_are_remarks() {
        let subject = |name: &str| subjects(&[name.to_owned()], &[], &[]).unwrap().remove(0);
        assert!(subject("deit_tiny").check(100).unwrap_err().line().contains("16 divides"));
        assert_eq!(subject("swin_tiny").remark(1024), "windows 7x7");
        assert_eq!(subject("swin_tiny_scaled").remark(1024), "windows 32x32");
    }
}
