//! Loads a state dict into a module, and reads one from it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::TensorData;

use super::key_map::current_key;
use super::report::{LoadReport, ShapeMismatch};
use super::state_dict::{StateDict, StateTensor};

/// Translates a key of another implementation into the official key; `None` for an entry that is not a parameter, such as a table of indices
/// that the model computes itself. Official keys stay as they are.
pub type Rename = for<'a> fn(&'a str) -> Option<Cow<'a, str>>;

/// Which differences between file and model are allowed. By default, none.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    strip_prefix: String,
    rename: Rename,
    ignore_unexpected: Vec<String>,
    may_be_missing: Vec<String>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            strip_prefix: String::new(),
            rename: |key| Some(current_key(key)),
            ignore_unexpected: Vec::new(),
            may_be_missing: Vec::new(),
        }
    }
}

impl LoadOptions {
    /// Strict options: file and model must have the same keys with the same shapes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes `prefix` from the keys of the file, e.g. `backbone.` to load the backbone of a segmentation model. Keys without the prefix
    /// are unexpected.
    #[must_use]
    pub fn strip_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.strip_prefix = prefix.into();
        self
    }

    /// Translates the keys that the model does not have, after the prefix is removed. The default translates VMamba's older keys
    /// ([`current_key`]); every model of [`baselines`](crate::baselines) has its own `rename`.
    #[must_use]
    pub fn rename(mut self, rename: Rename) -> Self {
        self.rename = rename;
        self
    }

    /// Ignores keys of the file that begin with `prefix` and that the model lacks, e.g. `classifier.` when a backbone is loaded. The prefix
    /// may be that of the key in the file or of the official key. May be called several times.
    #[must_use]
    pub fn ignore_unexpected(mut self, prefix: impl Into<String>) -> Self {
        self.ignore_unexpected.push(prefix.into());
        self
    }

    /// Allows official keys that begin with `prefix` to be missing in the file or to have another shape there, e.g. `outnorm`, or a head for
    /// another number of classes. They keep their values. May be called several times.
    #[must_use]
    pub fn may_be_missing(mut self, prefix: impl Into<String>) -> Self {
        self.may_be_missing.push(prefix.into());
        self
    }
}

/// A state dict that does not fit a module.
#[derive(Debug, thiserror::Error)]
#[error("{}{}; {report}", if report.loaded.is_empty() { "the checkpoint is of another model: not one tensor fits" } else { "the checkpoint does not fit the model" }, self.hint())]
pub struct LoadError {
    /// The keys that fit and those that do not.
    pub report: Box<LoadReport>,
}

impl LoadError {
    /// A hint at the common prefix of all keys of the file, if no tensor fits. Without the prefix, the keys may fit.
    fn hint(&self) -> String {
        let LoadReport { loaded, unexpected, .. } = self.report.as_ref();
        let first = unexpected.first().and_then(|key| key.split_once('.')).map(|(part, _)| format!("{part}."));
        match first {
            Some(prefix) if loaded.is_empty() && unexpected.len() > 1 && unexpected.iter().all(|key| key.starts_with(&prefix)) => {
                format!(" (all its keys begin with `{}`: export_weights --prefix {0} removes that)", prefix.escape_debug())
            }
            _ => String::new(),
        }
    }
}

/// Loads `state` into `module`. `keys` turns a path in the module (`layers.0.blocks.1.norm.weight`) into its official key. All or
/// nothing: after an error no value has changed.
///
/// * Keys of other implementations are translated ([`LoadOptions::rename`]); `num_batches_tracked` counters are ignored.
/// * The running variance of a batch norm must not be negative.
/// * Shapes may differ by trailing ones, so linear weights stored as 1×1 convolutions fit.
/// * Parameters keep their id, device and `require_grad`. Running statistics of batch norms are loaded as well; Burn shares them between
///   clones, so they change in clones of the module too.
///
/// # Errors
/// [`LoadError`] with the whole report when a key is missing, unexpected or of another shape and `options` do not allow it, or when no
/// tensor fits.
pub fn load_into<M: Module>(
    module: M,
    keys: &dyn Fn(&str) -> String,
    state: &StateDict,
    options: &LoadOptions,
) -> Result<(M, LoadReport), LoadError> {
    let mut shapes = Shapes { path: ModulePath::default(), keys, found: BTreeMap::new() };
    module.visit(&mut shapes);
    let (plan, report) = plan(&shapes.found, state, options);
    if !report.is_ok() {
        return Err(LoadError { report: Box::new(report) });
    }
    let mut loader = Loader { path: ModulePath::default(), keys, plan };
    Ok((module.map(&mut loader), report))
}

/// All parameters and running statistics of `module`, as float32. `keys` turns a path in the module into a key.
///
/// The module is read in its evaluation state, because Burn applies the last update of running statistics only then.
pub fn state_dict_of<M: Module>(module: &M, keys: &dyn Fn(&str) -> String) -> StateDict {
    let mut reader = Reader { path: ModulePath::default(), keys, state: StateDict::new() };
    module.valid().visit(&mut reader);
    reader.state
}

/// Decides what becomes of every key of model and file. Returns the tensor to load for each key of the model, and the report.
fn plan<'a>(
    model: &BTreeMap<String, Vec<usize>>,
    state: &'a StateDict,
    options: &LoadOptions,
) -> (BTreeMap<String, &'a StateTensor>, LoadReport) {
    let mut report = LoadReport { not_tensors: state.skipped().to_vec(), ..LoadReport::default() };
    let mut plan = BTreeMap::new();
    let starts_with_one_of = |key: &str, prefixes: &[String]| prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()));
    for (file_key, tensor) in state.iter() {
        let stripped = file_key.strip_prefix(options.strip_prefix.as_str());
        // Official keys need no translation.
        let key = stripped.map(|key| if model.contains_key(key) { Some(key.into()) } else { renamed(key, options.rename, model) });
        let key = match key {
            // Not a parameter.
            Some(None) => {
                report.ignored.push(file_key.to_owned());
                continue;
            }
            key => key.flatten(),
        };
        let shape = key.as_deref().and_then(|key| model.get(key));
        let (Some(key), Some(shape)) = (&key, shape) else {
            let ignored = file_key.ends_with("num_batches_tracked")
                || starts_with_one_of(file_key, &options.ignore_unexpected)
                || key.is_some_and(|key| starts_with_one_of(&key, &options.ignore_unexpected));
            let list = if ignored { &mut report.ignored } else { &mut report.unexpected };
            list.push(file_key.to_owned());
            continue;
        };
        if plan.contains_key(key.as_ref()) || report.wrong_shape.iter().any(|m| m.key == **key) {
            // The file has both the old and the new name of one parameter.
            report.unexpected.push(file_key.to_owned());
        } else if same_but_trailing_ones(shape, &tensor.shape) {
            if let Some(least) = negative_variance(key, tensor) {
                report.invalid.push(format!("{key}: a variance is {least}, which its square root makes NaN"));
            }
            plan.insert(key.to_string(), tensor);
        } else {
            let mismatch = ShapeMismatch { key: key.to_string(), model: shape.clone(), file: tensor.shape.clone() };
            let allowed = starts_with_one_of(key, &options.may_be_missing);
            let list = if allowed { &mut report.allowed_shape } else { &mut report.wrong_shape };
            list.push(mismatch);
        }
    }
    for key in model.keys() {
        let has_other_shape = report.wrong_shape.iter().chain(&report.allowed_shape).any(|m| m.key == *key);
        if plan.contains_key(key) {
            report.loaded.push(key.clone());
        } else if !has_other_shape {
            let allowed = starts_with_one_of(key, &options.may_be_missing);
            let list = if allowed { &mut report.allowed_missing } else { &mut report.missing };
            list.push(key.clone());
        }
    }
    (plan, report)
}

/// The smallest running variance of a batch norm, if it is negative.
fn negative_variance(key: &str, tensor: &StateTensor) -> Option<f32> {
    let least = tensor.data.iter().copied().fold(f32::INFINITY, f32::min);
    (key.ends_with("running_var") && least < 0.0).then_some(least)
}

/// The official key. When the model does not have the translation of the whole key, as in a detector or segmentor, the part after
/// `backbone.` is translated instead.
fn renamed<'a>(key: &'a str, rename: Rename, model: &BTreeMap<String, Vec<usize>>) -> Option<Cow<'a, str>> {
    let whole = rename(key)?;
    match key.strip_prefix(BACKBONE) {
        Some(rest) if !model.contains_key(whole.as_ref()) => {
            let key = format!("{BACKBONE}{}", rename(rest)?);
            Some(if model.contains_key(&key) { Cow::Owned(key) } else { whole })
        }
        _ => Some(whole),
    }
}

/// The prefix of the backbone's keys in a detector or segmentor.
const BACKBONE: &str = "backbone.";

/// Whether the shapes are equal but for trailing ones: `[out, in]` and `[out, in, 1, 1]` hold the same values.
fn same_but_trailing_ones(a: &[usize], b: &[usize]) -> bool {
    let common = a.len().min(b.len());
    let (rest_a, rest_b) = (a.get(common..).unwrap_or_default(), b.get(common..).unwrap_or_default());
    a.get(..common) == b.get(..common) && rest_a.iter().chain(rest_b).all(|n| *n == 1)
}

/// The current path of a walk over a module.
#[derive(Default)]
struct ModulePath(Vec<String>);

impl ModulePath {
    /// Burn calls weight and bias of a batch norm `gamma` and `beta`.
    fn enter(&mut self, name: &str, container: &str) {
        let name = match (container, name) {
            ("Struct:BatchNorm", "gamma") => "weight",
            ("Struct:BatchNorm", "beta") => "bias",
            (_, name) => name,
        };
        self.0.push(name.to_owned());
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn key(&self, keys: &dyn Fn(&str) -> String) -> String {
        keys(&self.0.join("."))
    }
}

struct Shapes<'a> {
    path: ModulePath,
    keys: &'a dyn Fn(&str) -> String,
    found: BTreeMap<String, Vec<usize>>,
}

impl ModuleVisitor for Shapes<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.insert(self.path.key(self.keys), param.lazy_shape().to_vec());
    }
}

struct Loader<'a> {
    path: ModulePath,
    keys: &'a dyn Fn(&str) -> String,
    plan: BTreeMap<String, &'a StateTensor>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(tensor) = self.plan.get(&self.path.key(self.keys)) else {
            return param;
        };
        // Use the model's shape: the file's may have trailing ones.
        let data = TensorData::new(tensor.data.clone(), param.lazy_shape());
        let id = param.id;
        let value = Tensor::from_data(data, &param.lazy_device());
        param.transform_for_load(value, id)
    }
}

struct Reader<'a> {
    path: ModulePath,
    keys: &'a dyn Fn(&str) -> String,
    state: StateDict,
}

impl ModuleVisitor for Reader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let shape = tensor.dims().to_vec();
        let data = tensor.into_data().iter::<f32>().collect();
        self.state.insert(self.path.key(self.keys), StateTensor { shape, data });
    }
}
