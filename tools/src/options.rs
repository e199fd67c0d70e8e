//! Options that several programs share, each defined once.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::prelude::Device;
use clap::{Args, ValueEnum};
use serde_json::Value;
use vision_datasets::image_io::set_max_pixels;
use vmamba::checkpoint::Weights;
use vmamba_recipes::config;
use vmamba_recipes::run_config::RunConfig;
use vmamba_recipes::{MemoryEstimate, TaskConfig};
use vmamba_report::files;
use vmamba_train::{DeviceChoice, Precision};

/// The device to compute on.
#[derive(Args, Clone, Copy, Debug)]
pub struct DeviceOption {
    /// Device: cpu, cuda, cuda:N, vulkan or vulkan:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,
}

impl DeviceOption {
    /// Whether the CPU computes.
    pub fn on_cpu(self) -> bool {
        self.device == DeviceChoice::Cpu
    }
}

/// The device and the type of the activations.
#[derive(Args, Clone, Copy, Debug)]
pub struct ComputeOptions {
    #[command(flatten)]
    device: DeviceOption,
    /// Type of the activations: float32, tf32 or bf16. The CPU is not faster with another type than float32.
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub precision: Precision,
}

impl ComputeOptions {
    /// Opens the device and sets the precision of this process.
    ///
    /// # Errors
    /// When there is no such device, or it does not support the precision.
    pub fn open(&self) -> Result<Device> {
        let device = self.device.device.open()?;
        self.precision.adopt(&device).context("--precision")?;
        Ok(device)
    }

    /// Whether the CPU computes.
    pub fn on_cpu(&self) -> bool {
        self.device.on_cpu()
    }

    /// The name of the device.
    pub fn device_name(&self) -> String {
        self.device.device.to_string()
    }
}

/// Whether the memory is checked before any work.
#[derive(Args, Clone, Copy, Debug)]
pub struct MemoryOption {
    /// Start even if the estimate of the memory is more than the system has free.
    #[arg(long)]
    ignore_memory: bool,
}

impl MemoryOption {
    /// Compares an estimate with the memory that the system has free. On a GPU, model and activations are elsewhere; nothing is checked.
    ///
    /// # Errors
    /// When more is needed than is free.
    pub fn check(self, estimate: MemoryEstimate, on_cpu: bool) -> Result<()> {
        if self.applies(on_cpu) {
            estimate.check()?;
        }
        Ok(())
    }

    /// Whether estimates are compared with the free memory.
    pub fn applies(self, on_cpu: bool) -> bool {
        on_cpu && !self.ignore_memory
    }
}

/// A trained model: a checkpoint, and a configuration where the checkpoint has none.
#[derive(Args, Clone, Debug)]
pub struct ModelOptions {
    /// Checkpoint: of a training program, or an official .pth or .safetensors together with --config.
    pub checkpoint: PathBuf,
    /// Configuration (TOML) to use instead of the one in the checkpoint.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change a value of the configuration, of --config or in the checkpoint: key.path=value (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Which weights to predict with.
    #[command(flatten)]
    pub weights: WeightsOptions,
}

impl ModelOptions {
    /// Reads the configuration of `--config`, or for `--set` alone that of the checkpoint, with the changes of `--set`; `None` without either.
    ///
    /// # Errors
    /// When a file cannot be read, the checkpoint has no configuration, or a key or value is invalid.
    pub fn config<T: TaskConfig>(&self) -> Result<Option<RunConfig<T>>> {
        match &self.config {
            Some(path) => config::load(path, &self.set).map(Some),
            None if self.set.is_empty() => Ok(None),
            None => {
                let stored = RunConfig::<T>::of_checkpoint(&self.checkpoint).context("--set")?;
                let text = toml::to_string(&stored).context("the configuration cannot be written as TOML")?;
                config::load_text(&text, &self.set, &self.checkpoint.display().to_string()).map(Some)
            }
        }
    }
}

/// The configuration of a training run.
#[derive(Args, Clone, Debug)]
pub struct ConfigOptions {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Change a value of the configuration: key.path=value (repeatable).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of the data, instead of the configuration's.
    #[arg(long, value_name = "DIR", requires = "config")]
    data: Option<PathBuf>,
}

impl ConfigOptions {
    /// The changes of `--set` and `--data`, as `key.path=value`.
    pub fn overrides(&self) -> Vec<String> {
        let root = |data: &PathBuf| format!("data.source.root={}", toml::Value::String(data.to_string_lossy().into_owned()));
        self.set.iter().cloned().chain(self.data.as_ref().map(root)).collect()
    }
}

/// The largest image that a program reads.
#[derive(Args, Clone, Copy, Debug)]
pub struct PhotoOptions {
    /// Largest image to read, in pixels (width times height), by what it claims [default: a 64th of the free memory in bytes, at most 2^30].
    #[arg(long, value_name = "PIXELS")]
    max_pixels: Option<NonZeroU64>,
}

impl PhotoOptions {
    /// Sets the limit for this process. A program calls this before it reads an image.
    pub fn apply(&self) {
        if let Some(pixels) = self.max_pixels {
            set_max_pixels(pixels);
        }
    }
}

/// Where to write figures for other programs.
#[derive(Args, Clone, Debug)]
pub struct JsonOption {
    /// Write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl JsonOption {
    /// Reserves the file, before the program reads anything; see [`reserve`].
    ///
    /// # Errors
    /// As [`reserve`].
    pub fn reserve(&self) -> Result<()> {
        self.json.as_deref().map_or(Ok(()), |path| reserve("--json", path))
    }

    /// Writes `figures` where `--json` is given.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, figures: impl FnOnce() -> Value) -> Result<()> {
        if let Some(path) = &self.json {
            files::write_json(path, &figures())?;
        }
        Ok(())
    }
}

/// Reserves the output file of an option, before the program reads anything: no input may be the same file.
///
/// # Errors
/// When the file could not be written later: its folder is missing or not writable, or a run works in it, or the path is a folder, a pipe, a
/// device, or the file that the program prints into.
pub fn reserve(option: &'static str, path: &Path) -> Result<()> {
    vmamba_files::reserve(option, path).with_context(|| format!("{option} {}", path.display()))
}

/// Reserves the results in the folder of `--out` that exist already, because one of them may be an input.
///
/// # Errors
/// As [`reserve`].
pub fn reserve_results(results: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    results.into_iter().filter(|path| path.exists()).try_for_each(|path| reserve("--out", &path))
}

/// Checks that results can be written into the folder of `--out`, before the program reads anything. The folder need not exist.
///
/// # Errors
/// When it is a file or not writable, or a run works in it.
pub fn check_out(path: &Path) -> Result<()> {
    vmamba_files::reserve_folder(path).with_context(|| format!("--out {}", path.display()))
}

/// Which weights of a checkpoint to use.
#[derive(Args, Clone, Debug)]
pub struct WeightsOptions {
    /// Which weights of the checkpoint.
    #[arg(long, value_enum, default_value_t)]
    weights: WeightSet,
    /// Name of the set of weights in a file of another program, such as `teacher`.
    #[arg(long, value_name = "NAME", conflicts_with = "weights")]
    weights_key: Option<String>,
}

impl WeightsOptions {
    /// The choice.
    pub fn chosen(&self) -> Weights<'_> {
        match (&self.weights_key, self.weights) {
            (Some(name), _) => Weights::Key(name),
            (None, WeightSet::Validated) => Weights::Validated,
            (None, WeightSet::Model) => Weights::Model,
            (None, WeightSet::Ema) => Weights::Ema,
        }
    }
}

/// Which weights of a checkpoint to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum WeightSet {
    /// The weights that were validated: the exponential moving average where the file has one, else the trained weights.
    #[default]
    Validated,
    /// The trained weights, not averaged.
    Model,
    /// The exponential moving average of the weights.
    Ema,
}

/// Sets `target` to the value of an option, if given.
pub fn replace(target: &mut PathBuf, given: Option<&Path>) {
    if let Some(given) = given {
        given.clone_into(target);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Evaluation {
        #[command(flatten)]
        model: ModelOptions,
        #[command(flatten)]
        compute: ComputeOptions,
    }

    #[derive(Parser)]
    struct Training {
        #[command(flatten)]
        config: ConfigOptions,
    }

    #[test]
    fn a_configuration_is_changed_with_set() {
        let options = Evaluation::try_parse_from(["x", "a.pth", "--config", "a.toml", "--set", "a=1", "--device", "cuda:1"]).unwrap();
        assert_eq!(options.model.set, ["a=1"]);
        assert_eq!((options.compute.device_name().as_str(), options.compute.precision), ("cuda:1", Precision::Float32));
    }

    #[test]
    fn the_folder_of_the_data_is_a_change_of_the_configuration() {
        let options = Training::try_parse_from(["x", "--config", "a.toml", "--set", "a=1", "--data", "my \"data\""]).unwrap();
        let overrides = options.config.overrides();
        assert_eq!(overrides[0], "a=1");
        let parsed: toml::Table = overrides[1].parse().unwrap();
        assert_eq!(parsed["data"]["source"]["root"].as_str(), Some("my \"data\""));
    }
}
