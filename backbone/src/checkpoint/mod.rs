//! Checkpoints: reads those of PyTorch, reads and writes our own.
//!
//! ```text
//! .pth zip ─────┐  torch_file ── pickle (restricted, runs nothing) ─┐
//! .pth legacy ──┘                                                   ├─> Checkpoint ── state_dict(Weights) ──> StateDict ── load_into ──> module
//! .safetensors ─┐  safetensors                                      │                                            ↑          (LoadReport)
//! our own ──────┘  (= safetensors with our metadata) ───────────────┘   module ── state_dict_of ─────────────────┘── save_checkpoint, export_safetensors
//! ```
//!
//! * [`Checkpoint`]: an open file. Tensors are read on demand, so a trainer's optimiser state costs nothing.
//! * [`Weights`]: which of the sets of weights in a file; [`Checkpoint::keys`] lists a set without reading it.
//! * [`StateDict`]: named float32 tensors with official keys.
//! * [`load_into`]: strict by default, all or nothing; [`LoadReport`] lists what became of every key.
//! * [`ClassRows`]: maps the class layers when training starts from a checkpoint with other classes.
//! * [`save_checkpoint`], [`export_safetensors`]: write atomically.
//!
//! ```no_run
//! use vmamba::checkpoint::{Checkpoint, LoadOptions, Weights, load_into};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let backbone = vmamba::VmambaConfig::preset(vmamba::Preset::VmambaTinyS1l8).init(&burn::prelude::Device::flex());
//! let weights = Checkpoint::read("vssm1_tiny_0230s_ckpt_epoch_264.pth")?.state_dict(Weights::Ema)?;
//! // The file of a classifier has a head, which a backbone lacks, and lacks the norms on the backbone's outputs.
//! let options = LoadOptions::new().ignore_unexpected("classifier.").may_be_missing("outnorm");
//! let (backbone, report) = load_into(backbone, &vmamba::official_key, &weights, &options)?;
//! println!("{report}");
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

mod class_rows;
mod element;
mod error;
mod key_map;
mod load;
mod pickle;
mod report;
mod safetensors;
mod save;
mod state_dict;
mod torch_file;

pub use class_rows::{ClassLayer, ClassRows};
pub use error::{CheckpointError, Fault};
pub use key_map::current_key;
pub use load::{LoadError, LoadOptions, Rename, load_into, state_dict_of};
pub use pickle::PickleError;
pub use report::{LoadReport, ShapeMismatch};
pub use save::{export_safetensors, save_checkpoint};
pub use state_dict::{StateDict, StateTensor};

use safetensors::SafetensorsFile;
use state_dict::{unwrapped, without_module_prefix};
use torch_file::TorchFile;

/// Which weights of a file.
///
/// | trainer | trained weights | averaged weights (EMA) |
/// |---|---|---|
/// | official VMamba | `model` | `model_ema` |
/// | timm | `state_dict` | `state_dict_ema` |
/// | OpenMMLab's `EMAHook` (a file with `meta` or `message_hub`), which swaps them when it saves | `ema_state_dict` | `state_dict` |
/// | other trainers | `model`, `state_dict`, or the file itself | `model_ema`, `state_dict_ema`, `ema_state_dict` |
/// | [`save_checkpoint`] | `model` | `model_ema` |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights<'a> {
    /// The weights that were validated: the exponential moving average if the file has one, else the trained weights. Published figures are
    /// measured with these, and timm loads these (`use_ema=True`). Prediction, export and a training that starts from the file take them.
    #[default]
    Validated,
    /// The trained weights, not averaged.
    Model,
    /// The exponential moving average.
    Ema,
    /// The set of this name.
    Key(&'a str),
}

impl fmt::Display for Weights<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Validated => f.write_str("model"),
            Self::Model => f.write_str("`model` or `state_dict`"),
            Self::Ema => f.write_str("EMA (`model_ema`)"),
            Self::Key(name) => write!(f, "`{name}`"),
        }
    }
}

/// Where the weights of a model come from in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The name of the set, see [`Checkpoint::weight_sets`]; empty for a file that is one set.
    pub set: String,
    /// Whether the set is an exponential moving average.
    pub averaged: bool,
    /// The prefix that was removed from all keys; empty for none.
    pub prefix: String,
    /// Keys that were left out because they lack the prefix.
    pub left_out: Vec<String>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.averaged { "averaged weights" } else { "weights" })?;
        if !self.set.is_empty() {
            write!(f, " (`{}`)", self.set.escape_debug())?;
        }
        if !self.prefix.is_empty() {
            write!(f, " without the prefix `{}`", self.prefix)?;
        }
        match self.left_out.len() {
            0 => Ok(()),
            count => write!(f, " and the {count} keys that lack it"),
        }
    }
}

/// Names of trained weights, best first; the empty name is a bare state dict.
const MODEL: [&str; 3] = ["model", "state_dict", ""];
/// Names of averaged weights, best first.
const EMA: [&str; 3] = ["model_ema", "state_dict_ema", "ema_state_dict"];
/// Where OpenMMLab's `EMAHook` stores the averaged weights, and where the trained ones.
const SWAPPED: (&str, &str) = ("state_dict", "ema_state_dict");

/// An open checkpoint file. Its structure has been read and checked; [`Checkpoint::state_dict`] reads the tensors.
pub struct Checkpoint {
    path: PathBuf,
    contents: Contents,
}

enum Contents {
    Torch(TorchFile),
    Safetensors(SafetensorsFile),
}

impl Checkpoint {
    /// Opens a checkpoint: a `.pth` file (the zip format of PyTorch 1.6 and later, or the one before), a `.safetensors` file, or one that
    /// [`save_checkpoint`] wrote. The contents decide which, not the name.
    ///
    /// Nothing in the file is executed: pickled objects other than tensors and plain containers are skipped. Memory use is about the size
    /// of the file's index.
    ///
    /// # Errors
    /// [`CheckpointError`], which names the file: it is unreadable, not a checkpoint, truncated or corrupt, or of an unsupported kind.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let contents = vmamba_files::open(path).map_err(Fault::from).and_then(open).map_err(|fault| fault.of(path))?;
        Ok(Self { path: path.to_owned(), contents })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the weight sets in the file, e.g. `["model", "model_ema"]`. A bare state dict has the empty name.
    pub fn weight_sets(&self) -> Vec<&str> {
        match &self.contents {
            Contents::Torch(file) => file.sets.iter().map(|set| set.name.as_str()).collect(),
            Contents::Safetensors(file) => file.weight_sets(),
        }
    }

    /// The name of the set that `weights` selects; none when the file has no such set.
    pub fn weight_set(&self, weights: Weights) -> Option<&str> {
        let sets = self.weight_sets();
        let first = |names: &[&str]| names.iter().find_map(|name| sets.iter().find(|set| *set == name).copied());
        let (trained, averaged) = if self.is_swapped(&sets) {
            let (averaged, trained) = SWAPPED;
            (first(&[trained]), first(&[averaged]))
        } else {
            (first(&MODEL), first(&EMA))
        };
        match weights {
            Weights::Validated => averaged.or(trained),
            Weights::Model => trained,
            Weights::Ema => averaged,
            Weights::Key(name) => first(&[name]),
        }
    }

    /// Whether OpenMMLab's `EMAHook` wrote the file: it swaps trained and averaged weights, so that `state_dict` holds the averages.
    fn is_swapped(&self, sets: &[&str]) -> bool {
        let (averaged, trained) = SWAPPED;
        matches!(&self.contents, Contents::Torch(file) if file.open_mmlab) && sets.contains(&averaged) && sets.contains(&trained)
    }

    /// Names and shapes of the tensors that [`Checkpoint::state_dict`] would read, without reading them.
    ///
    /// # Errors
    /// [`Fault::NoSuchWeights`] with the sets that exist.
    pub fn shapes(&self, weights: Weights) -> Result<BTreeMap<String, Vec<usize>>, CheckpointError> {
        let name = self.require_set(weights)?;
        Ok(without_module_prefix(self.shapes_of(name)))
    }

    fn shapes_of(&self, name: &str) -> BTreeMap<String, Vec<usize>> {
        match &self.contents {
            Contents::Torch(file) => file.shapes(name),
            Contents::Safetensors(file) => file.shapes(name),
        }
    }

    fn read_set(&self, name: &str) -> Result<StateDict, CheckpointError> {
        let state = match &self.contents {
            Contents::Torch(file) => file.state_dict(name),
            Contents::Safetensors(file) => file.state_dict(name),
        };
        state.map_err(|fault| fault.of(&self.path))
    }

    fn origin(&self, name: &str) -> Origin {
        let averaged = self.weight_set(Weights::Ema) == Some(name);
        Origin { set: name.to_owned(), averaged, ..Origin::default() }
    }

    /// The sorted names of the tensors that [`Checkpoint::state_dict`] would read, without reading them.
    ///
    /// # Errors
    /// As [`Checkpoint::shapes`].
    pub fn keys(&self, weights: Weights) -> Result<Vec<String>, CheckpointError> {
        Ok(self.shapes(weights)?.into_keys().collect())
    }

    /// Reads a set of weights of a model of the zoo, converted to float32. Prefixes that wrappers put before every key are removed: `module.`
    /// (data-parallel training), `_orig_mod.` (`torch.compile`), `model.` (a module around the model), and `encoder.`, for which the keys of
    /// the decoder of a pretraining are left out.
    ///
    /// # Errors
    /// As [`Checkpoint::state_dict`].
    pub fn model_state(&self, weights: Weights) -> Result<(StateDict, Origin), CheckpointError> {
        let name = self.require_set(weights)?;
        let state = self.read_set(name)?;
        let skipped = state.skipped().to_vec();
        let (tensors, origin) = unwrapped(state, self.origin(name));
        let mut state: StateDict = tensors.into_iter().collect();
        skipped.into_iter().for_each(|entry| state.skip(entry));
        Ok((state, origin))
    }

    /// Names and shapes of the tensors that [`Checkpoint::model_state`] would read, without reading them.
    ///
    /// # Errors
    /// As [`Checkpoint::shapes`].
    pub fn model_shapes(&self, weights: Weights) -> Result<BTreeMap<String, Vec<usize>>, CheckpointError> {
        let name = self.require_set(weights)?;
        Ok(unwrapped(self.shapes_of(name), self.origin(name)).0)
    }

    /// Reads a set of weights, converted to float32, with the keys of the file; the prefix `module.` of data-parallel training is
    /// removed.
    ///
    /// # Errors
    /// [`Fault::NoSuchWeights`] with the sets that exist, [`Fault::Unsupported`] for tensors that are not plain (sparse, quantised,
    /// complex), or any error of [`Checkpoint::read`].
    pub fn state_dict(&self, weights: Weights) -> Result<StateDict, CheckpointError> {
        let name = self.require_set(weights)?;
        Ok(self.read_set(name)?.without_module_prefix())
    }

    fn require_set(&self, weights: Weights) -> Result<&str, CheckpointError> {
        let missing = || Fault::NoSuchWeights { wanted: weights.to_string(), found: self.describe_sets() }.of(&self.path);
        self.weight_set(weights).ok_or_else(missing)
    }

    /// The metadata of a safetensors file or of ours; of a `.pth` file, the numbers, flags and strings at the top level (`epoch`,
    /// `max_accuracy`) and under `meta` (`meta.iter`).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        match &self.contents {
            Contents::Torch(file) => &file.scalars,
            Contents::Safetensors(file) => &file.metadata,
        }
    }

    /// Whether [`save_checkpoint`] wrote the file.
    pub fn is_ours(&self) -> bool {
        matches!(&self.contents, Contents::Safetensors(file) if file.ours)
    }

    /// Names of the binary attachments; only our own files have any.
    pub fn blob_names(&self) -> Vec<&str> {
        match &self.contents {
            Contents::Torch(_) => Vec::new(),
            Contents::Safetensors(file) => file.blob_names(),
        }
    }

    /// Reads a binary attachment, e.g. the optimiser state; `None` when the file has none of that name.
    ///
    /// # Errors
    /// [`Fault::Io`] when the file cannot be read.
    pub fn blob(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        match &self.contents {
            Contents::Torch(_) => Ok(None),
            Contents::Safetensors(file) => file.blob(name).map_err(|fault| fault.of(&self.path)),
        }
    }

    fn describe_sets(&self) -> String {
        let quoted = |names: &mut dyn Iterator<Item = String>| names.collect::<Vec<_>>().join(", ");
        let sets = self.weight_sets();
        let mut text = match sets.as_slice() {
            [] => "it holds no state dict".to_owned(),
            [""] => "it is a bare state dict".to_owned(),
            names => format!("it has {}", quoted(&mut names.iter().map(|name| format!("`{name}`")))),
        };
        if let Contents::Torch(file) = &self.contents
            && !file.others.is_empty()
        {
            text.push_str(&format!(
                " (and no weights in {})",
                quoted(&mut file.others.iter().map(|(name, what)| format!("`{name}`: {what}")))
            ));
        }
        text
    }
}

/// Recognises the kind of a file by its first bytes and opens it.
fn open(mut file: File) -> Result<Contents, Fault> {
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(Fault::NotACheckpoint("it is a folder".to_owned()));
    }
    let length = metadata.len();
    let mut head = Vec::with_capacity(512);
    file.by_ref().take(512).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;

    let header_length = head.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    match head.as_slice() {
        [] => Err(Fault::NotACheckpoint("it is empty".to_owned())),
        // Tested first, because the length at its start may look like the start of a pickle.
        [_, _, _, _, _, _, _, _, b'{', ..] if header_length.is_some_and(|n| n >> 32 == 0) => {
            SafetensorsFile::open(file, length).map(Contents::Safetensors)
        }
        [b'P', b'K', 3, 4, ..] => TorchFile::open_zip(file, length).map(Contents::Torch),
        [0x80, ..] => TorchFile::open_legacy(file, length).map(Contents::Torch),
        head => Err(Fault::NotACheckpoint(describe_foreign(head))),
    }
}

/// Recognises the files that are most often mistaken for a checkpoint.
fn describe_foreign(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head);
    let start = text.trim_start().to_lowercase();
    let what = if start.starts_with("version https://git-lfs") {
        "it is a Git LFS pointer: run `git lfs pull` to get the file itself"
    } else if start.starts_with("<!doctype") || start.starts_with("<html") {
        "it is a web page: the download gave an error or confirmation page instead of the file"
    } else if head.get(257..262) == Some(b"ustar") {
        "it is a tar archive (PyTorch before 0.2, or an archive to unpack)"
    } else if head.starts_with(&[0x1f, 0x8b]) {
        "it is a gzip archive to unpack"
    } else if head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        "it is a text file"
    } else {
        "its first bytes match no known format"
    };
    format!("{what}; supported formats: .pth (zip and legacy), .safetensors, and the checkpoints of this toolkit")
}

#[cfg(test)]
mod tests;
