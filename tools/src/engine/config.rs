//! Configuration files: TOML with inheritance, overrides from the command line, and no key that nobody reads.
//!
//! `base = "file.toml"` (relative to the file that says so) is read first and overlaid table by table; `--set train.lr=1e-4` comes last.
//! A key that does not exist is refused with the nearest one that does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use include_dir::{Dir, include_dir};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use upernet::inference::InferenceMode;
use upernet::{FcnHeadConfig, UperHeadConfig};
use vision_datasets::scenes::SceneConfig;
use vision_datasets::transforms::{TestPipeline, TrainPipeline};
use vmamba::zoo::BackboneConfig;

use super::optimizer::OptimizerConfig;
use super::precision::Precision;
use super::schedule::ScheduleConfig;

/// A semantic segmentation run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentationConfig {
    /// Name of the configuration; the published row of this name is printed beside one's own result.
    pub name: String,
    /// Where training starts from: `"random"`, or a checkpoint (a classifier for the backbone, or a whole segmentor). Without a default.
    pub init: Init,
    /// The model.
    pub model: ModelConfig,
    /// The data.
    pub data: DataConfig,
    /// Training.
    pub train: TrainConfig,
    /// Evaluation.
    #[serde(default)]
    pub test: TestConfig,
}

/// Where training starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Init {
    /// Random weights.
    Random,
    /// A checkpoint file.
    Checkpoint(PathBuf),
}

impl From<String> for Init {
    fn from(text: String) -> Self {
        if text == "random" { Self::Random } else { Self::Checkpoint(text.into()) }
    }
}

impl From<Init> for String {
    fn from(init: Init) -> Self {
        match init {
            Init::Random => "random".to_owned(),
            Init::Checkpoint(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// UperNet; the number of classes comes from the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The backbone: `preset = "vmamba_tiny_s1l8"` and any option that differs from it.
    pub backbone: BackboneConfig,
    /// The decode head.
    #[serde(default)]
    pub head: UperHeadConfig,
    /// The auxiliary head; absent to train without it.
    #[serde(default)]
    pub auxiliary: Option<FcnHeadConfig>,
}

/// The data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Where it comes from.
    pub source: DataSource,
    /// What training images go through.
    pub train: TrainPipeline,
    /// What test images go through.
    pub test: TestPipeline,
    /// Worker threads.
    #[serde(default = "workers")]
    pub workers: usize,
}

fn workers() -> usize {
    2
}

/// Where the data come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
pub enum DataSource {
    /// The built-in scenes.
    Scenes {
        /// Side of the square scenes in pixels.
        size: usize,
        /// Scenes to train on.
        train: usize,
        /// Scenes to evaluate on, which follow the others.
        val: usize,
        /// Which world.
        #[serde(default)]
        seed: u64,
    },
    /// A folder of the ADE20K layout.
    Folder {
        /// The folder with `images/` and `annotations/`.
        root: PathBuf,
        /// Class list file, relative to `root`; absent for ADE20K's 150 classes.
        #[serde(default)]
        classes: Option<PathBuf>,
        /// Ignore label 0 and lower the others by one.
        #[serde(default)]
        reduce_zero_label: bool,
        /// Name of the training split.
        #[serde(default = "training")]
        train_split: String,
        /// Name of the validation split.
        #[serde(default = "validation")]
        val_split: String,
    },
}

fn training() -> String {
    "training".to_owned()
}

fn validation() -> String {
    "validation".to_owned()
}

impl DataSource {
    /// The scenes of a split.
    pub fn scenes(&self, validation: bool) -> Option<SceneConfig> {
        let Self::Scenes { size, train, val, seed } = *self else { return None };
        let (first, count) = if validation { (train as u64, val) } else { (0, train) };
        Some(SceneConfig { seed, count, first, height: size, width: size, ..SceneConfig::default() })
    }
}

/// Training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps; or else `epochs`.
    #[serde(default)]
    pub iterations: Option<u64>,
    /// Passes over the training set; or else `iterations`.
    #[serde(default)]
    pub epochs: Option<u64>,
    /// Images of a batch, on every device.
    pub batch_size: usize,
    /// Batches whose gradients are averaged for one step.
    #[serde(default = "one")]
    pub accumulation: u64,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
    /// The learning rate over the iterations.
    pub schedule: ScheduleConfig,
    /// Decay of averaged weights; absent for none.
    #[serde(default)]
    pub ema: Option<f64>,
    /// Type of the activations in training; validations are float32.
    #[serde(default)]
    pub precision: Precision,
    /// Seed of weights, order, transforms, dropout.
    #[serde(default)]
    pub seed: u64,
    /// Iterations between validations; absent for one an epoch.
    #[serde(default)]
    pub val_interval: Option<u64>,
    /// Iterations between checkpoints; absent for that of the validations.
    #[serde(default)]
    pub checkpoint_interval: Option<u64>,
    /// Iterations between lines of the log.
    #[serde(default = "log_interval")]
    pub log_interval: u64,
    /// Validation images that are drawn at the end.
    #[serde(default = "pictures")]
    pub pictures: usize,
    /// Parameters whose official name contains one of these texts keep their values.
    #[serde(default)]
    pub freeze: Vec<String>,
    /// Norm layers, unnamed ones included, keep their weights and statistics.
    #[serde(default)]
    pub freeze_norms: bool,
    /// Batch norms of the backbone normalise by their stored statistics, which stay, while their weights are trained (mmdetection's
    /// `norm_eval`).
    #[serde(default)]
    pub norm_eval: bool,
    /// What happens when a loss or a gradient is no number.
    #[serde(default)]
    pub non_finite: NonFinite,
}

/// What happens when a loss or a gradient is no number. Either way what led to it is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// The run ends with the newest checkpoint intact.
    #[default]
    Stop,
    /// The step is left out.
    Skip,
}

/// How long a run is, in optimiser steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// All of them.
    pub iterations: u64,
    /// Those of a pass over the training set.
    pub epoch: u64,
    /// Between validations.
    pub val_interval: u64,
    /// Between checkpoints.
    pub checkpoint_interval: u64,
}

impl TrainConfig {
    /// Images of an optimiser step on every device.
    pub fn step_size(&self) -> u64 {
        self.batch_size as u64 * self.accumulation
    }

    /// The length of a run over so many training images on so many devices.
    ///
    /// # Errors
    /// When not exactly one of `iterations` and `epochs` is set.
    pub fn length(&self, samples: usize, devices: usize) -> Result<Length> {
        let epoch = (samples as u64).div_ceil((self.step_size() * devices as u64).max(1)).max(1);
        let iterations = match (self.iterations, self.epochs) {
            (Some(iterations), None) => iterations,
            (None, Some(epochs)) => epochs * epoch,
            (None, None) => bail!("train.iterations or train.epochs must be set"),
            (Some(_), Some(_)) => bail!("train.iterations and train.epochs are both set; one of them must go (--set cannot remove it)"),
        };
        let val_interval = self.val_interval.unwrap_or(epoch);
        Ok(Length { iterations, epoch, val_interval, checkpoint_interval: self.checkpoint_interval.unwrap_or(val_interval) })
    }

    /// Checks what the types alone do not say.
    ///
    /// # Errors
    /// Names the field.
    pub fn validate(&self) -> Result<()> {
        self.length(1, 1)?;
        for (field, value) in [
            ("train.iterations", self.iterations.unwrap_or(1)),
            ("train.epochs", self.epochs.unwrap_or(1)),
            ("train.batch_size", self.batch_size as u64),
            ("train.accumulation", self.accumulation),
            ("train.val_interval", self.val_interval.unwrap_or(1)),
            ("train.checkpoint_interval", self.checkpoint_interval.unwrap_or(1)),
            ("train.log_interval", self.log_interval),
        ] {
            if value == 0 {
                bail!("{field} must be at least 1");
            }
        }
        self.optimizer.validate()?;
        if self.ema.is_some_and(|decay| !(0.0..1.0).contains(&decay)) {
            bail!("train.ema must be in [0, 1)");
        }
        Ok(())
    }
}

fn one() -> u64 {
    1
}

fn log_interval() -> u64 {
    10
}

fn pictures() -> usize {
    8
}

/// Evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TestConfig {
    /// Whole images or sliding windows.
    pub mode: InferenceMode,
    /// Factors of the original size for test-time augmentation, each with and without flip.
    pub tta_ratios: TtaRatios,
}

/// Scale factors of test-time augmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TtaRatios(pub Vec<f64>);

impl Default for TtaRatios {
    fn default() -> Self {
        Self(vec![0.5, 0.75, 1.0, 1.25, 1.5, 1.75])
    }
}

impl SegmentationConfig {
    /// Checks what the types alone do not say.
    ///
    /// # Errors
    /// Names the field.
    pub fn validate(&self) -> Result<()> {
        self.train.validate()?;
        for (field, value) in
            [("data.workers", self.data.workers), ("data.train.crop.size", self.data.train.crop.size[0].min(self.data.train.crop.size[1]))]
        {
            if value == 0 {
                bail!("{field} must be at least 1");
            }
        }
        if self.test.tta_ratios.0.is_empty() || self.test.tta_ratios.0.iter().any(|ratio| *ratio <= 0.0) {
            bail!("test.tta_ratios must be positive factors");
        }
        Ok(())
    }
}

/// Reads a configuration file with its bases, applies `overrides` (`key.path=value`) and checks every key.
///
/// # Errors
/// When a file cannot be read or parsed, bases form a circle, an override is malformed, or a key or value is not valid.
pub fn load<C: DeserializeOwned>(path: &Path, overrides: &[String]) -> Result<C> {
    let table = read_with_bases(path, &mut Vec::new())?;
    finish(table, overrides, &path.display().to_string())
}

/// As [`load`], from the text of a built-in configuration.
///
/// # Errors
/// As [`load`].
pub fn load_text<C: DeserializeOwned>(text: &str, overrides: &[String], name: &str) -> Result<C> {
    finish(text.parse::<Table>().with_context(|| format!("{name} is no TOML"))?, overrides, name)
}

fn finish<C: DeserializeOwned>(mut table: Table, overrides: &[String], name: &str) -> Result<C> {
    for text in overrides {
        apply_override(&mut table, text)?;
    }
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!("{path}: ") };
        let reason = explain(&error.into_inner().to_string());
        anyhow!("{name}: {place}{reason}")
    })
}

fn read_with_bases(path: &Path, chain: &mut Vec<PathBuf>) -> Result<Table> {
    let real = path.canonicalize().with_context(|| match chain.last() {
        Some(from) => format!("cannot read {}, the base of {}", path.display(), from.display()),
        None => format!("cannot read the configuration {}", path.display()),
    })?;
    if chain.contains(&real) {
        bail!(
            "{}: its bases lead back to itself through {}",
            real.display(),
            chain.last().map_or(String::new(), |p| p.display().to_string())
        );
    }
    let text = std::fs::read_to_string(&real).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let (bases, table) = parse(&text, path)?;
    chain.push(real.clone());
    let mut merged = Table::new();
    for base in bases {
        merge(&mut merged, read_with_bases(&real.parent().unwrap_or(Path::new(".")).join(base), chain)?);
    }
    chain.pop();
    merge(&mut merged, table);
    Ok(merged)
}

/// The names of the bases of a configuration, and what it says itself.
fn parse(text: &str, path: &Path) -> Result<(Vec<String>, Table)> {
    let mut table: Table = text.parse().with_context(|| format!("{} is no TOML", path.display()))?;
    let bases = match table.remove("base") {
        None => Vec::new(),
        Some(Value::String(base)) => vec![base],
        Some(Value::Array(bases)) => bases
            .into_iter()
            .map(|base| match base {
                Value::String(base) => Ok(base),
                other => bail!("{}: base must be file names, not {other}", path.display()),
            })
            .collect::<Result<_>>()?,
        Some(other) => bail!("{}: base must be a file name or a list of them, not {other}", path.display()),
    };
    Ok((bases, table))
}

/// The folder of configurations, as it was when the program was built.
static BUILT_IN: Dir = include_dir!("$CARGO_MANIFEST_DIR/../configs");

/// As [`load`], for `path` below the repository's folder of configurations as it was when the program was built; none where there is no
/// such file.
///
/// # Errors
/// As [`load`].
pub fn load_built_in<C: DeserializeOwned>(path: &str) -> Result<Option<C>> {
    fn read(path: &Path) -> Result<Option<Table>> {
        let Some(text) = BUILT_IN.get_file(path).and_then(|file| file.contents_utf8()) else { return Ok(None) };
        let (bases, table) = parse(text, path)?;
        let mut merged = Table::new();
        for base in bases {
            // The folder has no `..` in it.
            let folder = path.parent().unwrap_or(Path::new(""));
            let (folder, name) = match base.strip_prefix("../") {
                Some(name) => (folder.parent().unwrap_or(Path::new("")), name),
                None => (folder, base.as_str()),
            };
            let below = read(&folder.join(name))?;
            merge(&mut merged, below.with_context(|| format!("{}: no base {base}", path.display()))?);
        }
        merge(&mut merged, table);
        Ok(Some(merged))
    }
    read(Path::new(path))?.map(|table| finish(table, &[], path)).transpose()
}

/// Overlays `top` table by table; of two choices with different `kind` or `preset` only the upper one stays.
fn merge(base: &mut Table, top: Table) {
    for (key, value) in top {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => {
                if ["kind", "preset"].iter().any(|tag| above.get(*tag).is_some_and(|own| below.get(*tag) != Some(own))) {
                    *below = above;
                } else {
                    merge(below, above);
                }
            }
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

fn apply_override(table: &mut Table, text: &str) -> Result<()> {
    let Some((path, value)) = text.split_once('=') else { bail!("--set {text}: expected key.path=value") };
    // What is no TOML value is a string: `init=weights.pth` needs no quotes.
    let parsed = format!("value = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
    let mut names: Vec<&str> = path.trim().split('.').collect();
    let Some(last) = names.pop().filter(|name| !name.is_empty()) else { bail!("--set {text}: the key is empty") };
    let mut place = table;
    for name in names {
        let next = place.entry(name).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(next) = next else { bail!("--set {text}: `{name}` is a value, not a table") };
        place = next;
    }
    place.insert(last.to_owned(), value);
    Ok(())
}

/// What differs between the configuration a run wrote down in `snapshot` and `text`, one line a key.
///
/// # Errors
/// When the file cannot be read or one of them is no TOML.
pub fn differences(snapshot: &Path, text: &str) -> Result<Vec<String>> {
    let old = std::fs::read_to_string(snapshot).with_context(|| format!("cannot read {}", snapshot.display()))?;
    let old = old.parse().with_context(|| format!("{} is no TOML", snapshot.display()))?;
    let mut lines = Vec::new();
    collect_differences("", &Value::Table(old), &Value::Table(text.parse()?), &mut lines);
    Ok(lines)
}

fn collect_differences(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    let (Value::Table(old_table), Value::Table(new_table)) = (old, new) else {
        if old != new {
            lines.push(format!("{path} was {old}, is {new}"));
        }
        return;
    };
    let own = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, value) in old_table {
        match new_table.get(key) {
            Some(new) => collect_differences(&own(key), value, new, lines),
            None => lines.push(format!("{} was {value}, is not set", own(key))),
        }
    }
    for (key, value) in new_table.iter().filter(|(key, _)| !old_table.contains_key(*key)) {
        lines.push(format!("{} was not set, is {value}", own(key)));
    }
}

/// Adds the nearest valid name to serde's message about an unknown one.
fn explain(message: &str) -> String {
    // The place, which TOML's errors repeat in a line of their own, is known.
    let message = message.trim().lines().filter(|line| !line.starts_with("in `")).collect::<Vec<_>>().join(" ");
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let names = quoted(&message);
    match names.split_first() {
        Some((unknown, known)) if message.starts_with("unknown") && !known.is_empty() => {
            let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b)));
            let nearest = nearest.filter(|name| strsim::jaro_winkler(unknown, name) > 0.7);
            let hint = nearest.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
            format!("unknown name `{unknown}`{hint} (possible: {})", known.join(", "))
        }
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Small {
        name: String,
        inner: Inner,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        learning_rate: f64,
        steps: Vec<u64>,
    }

    #[test]
    fn bases_are_overlaid_and_overrides_come_last() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("base.toml", "name = 'a'\n[inner]\nlearning_rate = 1.0\nsteps = [1]\n");
        write("top.toml", "base = 'base.toml'\n[inner]\nsteps = [2, 3]\n");
        let overrides = ["inner.learning_rate=0.5".to_owned(), "name=some text".to_owned()];
        let config: Small = load(&folder.path().join("top.toml"), &overrides).unwrap();
        assert_eq!(config, Small { name: "some text".into(), inner: Inner { learning_rate: 0.5, steps: vec![2, 3] } });

        write("circle.toml", "base = 'circle.toml'\n");
        assert!(load::<Small>(&folder.path().join("circle.toml"), &[]).unwrap_err().to_string().contains("back to itself"));
        write("orphan.toml", "base = 'gone.toml'\n");
        let error = load::<Small>(&folder.path().join("orphan.toml"), &[]).unwrap_err().to_string();
        assert!(error.contains("gone.toml") && error.contains("orphan.toml"), "{error}");
    }

    #[test]
    fn a_misspelt_key_names_the_place_and_the_nearest_key() {
        let text = "name = 'a'\n[inner]\nlearning_rte = 1.0\nsteps = []\n";
        let error = load_text::<Small>(text, &[], "demo.toml").unwrap_err().to_string();
        assert!(error.contains("demo.toml") && error.contains("inner") && error.contains("did you mean `learning_rate`?"), "{error}");
        let error = load_text::<Small>("name = 1\n", &[], "demo.toml").unwrap_err().to_string();
        assert!(error.contains("name"), "{error}");
    }

    #[test]
    fn a_preset_can_be_changed_and_an_unknown_option_is_refused() {
        #[derive(Debug, Deserialize)]
        struct Holder {
            backbone: BackboneConfig,
        }
        let text = "[backbone]\npreset = 'vmamba_tiny_s1l8'\ndrop_path_rate = 0.3\n";
        let BackboneConfig::Vmamba(config) = load_text::<Holder>(text, &[], "x").unwrap().backbone else { panic!("no VMamba") };
        assert_eq!(config.drop_path_rate, 0.3);
        assert_eq!(config.depths, vmamba::VmambaConfig::preset(vmamba::Preset::VmambaTinyS1l8).depths);
        let error = load_text::<Holder>("[backbone]\npreset = 'vmamba_tiny_s1l8'\nembed_dims = 96\n", &[], "x").unwrap_err().to_string();
        assert!(error.contains("embed_dims"), "{error}");
        let error = load_text::<Holder>("[backbone]\npreset = 'vmamba_huge'\n", &[], "x").unwrap_err().to_string();
        assert!(error.contains("vmamba_huge"), "{error}");
    }
}
