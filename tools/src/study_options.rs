//! Options shared by the programs of studies. Each is defined once, without a default where the programs differ: [`parse`] adds the default
//! of a program.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser};
use vmamba::Preset;
use vmamba_files::FolderLock;
use vmamba_report::files::create_folder;
use vmamba_study::measure::Protocol;
use vmamba_train::Precision;

use crate::arguments::{batch, count, model_and_file, pixels};
use crate::options::{check_out, reserve_results};

/// Parses the command line. `defaults` are the defaults of shared options by name, such as `("out", "runs/erf")`.
pub fn parse<A: Parser>(defaults: &[(&'static str, &'static str)]) -> A {
    let with_default = |command: clap::Command, (option, value): &(&'static str, &'static str)| {
        command.mut_arg(*option, |argument| argument.default_value(*value).required(false))
    };
    let mut command = defaults.iter().fold(A::command(), with_default);
    A::from_arg_matches(&command.get_matches_mut()).unwrap_or_else(|error| error.format(&mut command).exit())
}

/// A value chosen by name from `names`; the help lists the names.
pub fn one_of<T>(names: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>().map_err(std::io::Error::other))
}

/// `--precisions`.
#[derive(Args, Clone, Debug)]
pub struct PrecisionsOption {
    /// Types of the activations.
    #[arg(long, value_name = "TYPE,...", value_delimiter = ',', value_parser = one_of::<Precision>(Precision::ALL.map(Precision::name)))]
    pub precisions: Vec<Precision>,
}

/// `--models` of the zoo.
#[derive(Args, Clone, Debug)]
pub struct ModelsOption {
    /// Models by name; an unknown name lists all.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub models: Vec<String>,
}

/// `--models` of VMamba.
#[derive(Args, Clone, Debug)]
pub struct PresetsOption {
    /// Our models; peers are compared with the first.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = one_of_presets())]
    pub models: Vec<Preset>,
}

fn one_of_presets() -> impl TypedValueParser<Value = Preset> {
    PossibleValuesParser::new(Preset::ALL.map(Preset::name)).try_map(|name| name.parse::<Preset>())
}

/// `--sides`.
#[derive(Args, Clone, Debug)]
pub struct SidesOption {
    /// Heights and widths of square images in pixels.
    #[arg(long, value_name = "PIXELS,...", value_delimiter = ',', value_parser = pixels)]
    pub sides: Vec<usize>,
}

/// `--size`.
#[derive(Args, Clone, Copy, Debug)]
pub struct SizeOption {
    /// Side of the input in pixels: the shorter side of an image is resized to it and the central square cropped.
    #[arg(long, value_name = "PIXELS", value_parser = pixels)]
    pub size: usize,
}

/// `--batch`.
#[derive(Args, Clone, Copy, Debug)]
pub struct BatchOption {
    /// Images of a batch.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = batch)]
    pub batch: usize,
}

/// `--batches`.
#[derive(Args, Clone, Debug)]
pub struct BatchesOption {
    /// Batch sizes.
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = batch)]
    pub batches: Vec<usize>,
}

/// `--rounds`.
#[derive(Args, Clone, Copy, Debug)]
pub struct RoundsOption {
    /// Rounds, in each of which all models run in turns; the median counts.
    #[arg(long, value_name = "N", value_parser = count)]
    pub rounds: usize,
}

/// `--warmup` and `--runs`.
#[derive(Args, Clone, Copy, Debug)]
pub struct RunsOptions {
    /// Untimed runs before the first round.
    #[arg(long, value_name = "N", value_parser = count)]
    pub warmup: usize,
    /// Timed runs of a round.
    #[arg(long, value_name = "N", value_parser = count)]
    pub runs: usize,
    #[command(flatten)]
    rounds: RoundsOption,
}

impl RunsOptions {
    /// The timing protocol.
    pub fn protocol(&self) -> Protocol {
        Protocol { warmup: self.warmup, runs: self.runs, rounds: self.rounds.rounds }
    }
}

/// `--checkpoint` for several models.
#[derive(Args, Clone, Debug)]
pub struct CheckpointsOption {
    /// Weights of a model, as `swin_tiny=FILE` (repeatable).
    #[arg(long, value_name = "MODEL=FILE", value_parser = model_and_file)]
    pub checkpoint: Vec<(String, PathBuf)>,
}

/// `--seed`.
#[derive(Args, Clone, Copy, Debug)]
pub struct SeedOption {
    /// Seed of everything random: weights, and the selection of images.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// `--python`.
#[derive(Args, Clone, Debug)]
pub struct PythonOption {
    /// Python with torch and torchvision for the peers; `none` measures ours alone.
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
}

impl PythonOption {
    /// The program; `None` without peers.
    pub fn program(&self) -> Option<&str> {
        (self.python != "none").then_some(self.python.as_str())
    }
}

/// `--measure`, with which a program measures one network in a child process.
#[derive(Args, Clone, Debug)]
pub struct MeasureOption {
    /// A request as JSON; prints the answer.
    #[arg(long, hide = true)]
    measure: Option<String>,
}

impl MeasureOption {
    /// Answers a request and prints the answer. Returns false without a request.
    ///
    /// # Errors
    /// When the request is invalid or the measurement fails.
    pub fn answer(&self) -> Result<bool, vmamba_study::StudyError> {
        let Some(request) = &self.measure else { return Ok(false) };
        vmamba_report::println!("{}", vmamba_study::measure::Request::answer(request)?);
        Ok(true)
    }
}

/// `--out`.
#[derive(Args, Clone, Debug)]
pub struct OutOption {
    /// Folder for the results.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

impl OutOption {
    /// Checks that results can be written into the folder, before the program reads anything. `results` are the names of results that an input
    /// might be: pictures, where the program reads pictures.
    ///
    /// # Errors
    /// When the folder is a file or not writable, or another program works in it.
    pub fn check(&self, results: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
        check_out(&self.out)?;
        reserve_results(results.into_iter().map(|name| self.out.join(name)))
    }

    /// Creates the folder, and locks it until the result is dropped.
    ///
    /// # Errors
    /// When it cannot be created or written to, or another program works in it.
    pub fn create(&self) -> anyhow::Result<FolderLock> {
        create_folder(&self.out)?;
        FolderLock::acquire(&self.out).with_context(|| format!("--out {}", self.out.display()))
    }
}
