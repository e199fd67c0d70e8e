//! What became of every key when a checkpoint was loaded.

use std::fmt;

/// A tensor whose shape in the file is not the model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// Official key in the model.
    pub key: String,
    /// Shape in the model.
    pub model: Vec<usize>,
    /// Shape in the file.
    pub file: Vec<usize>,
}

/// What became of every key. Keys of the model are official ones, keys of the file are spelt as in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Keys of the model that take their values from the file.
    pub loaded: Vec<String>,
    /// Keys of the model that the file lacks. Not allowed.
    pub missing: Vec<String>,
    /// Keys of the file that the model lacks. Not allowed.
    pub unexpected: Vec<String>,
    /// Keys of both with different shapes. Not allowed.
    pub wrong_shape: Vec<ShapeMismatch>,
    /// Keys of the model that the file lacks and may lack: they keep their values.
    pub allowed_missing: Vec<String>,
    /// Keys with different shapes that were declared as possibly missing: they keep their values.
    pub allowed_shape: Vec<ShapeMismatch>,
    /// Keys of the file that the model lacks and that were to be ignored.
    pub ignored: Vec<String>,
    /// Entries of the file that are no tensors.
    pub not_tensors: Vec<String>,
}

impl LoadReport {
    /// Whether nothing was found that is not allowed, and something was loaded.
    pub fn is_ok(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.wrong_shape.is_empty() && !self.loaded.is_empty()
    }
}

/// Entries of a kind that are printed before the rest is only counted.
const SHOWN: usize = 8;

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = |entries: &[ShapeMismatch]| -> Vec<String> {
            entries.iter().map(|m| format!("{}: model {:?}, file {:?}", m.key, m.model, m.file)).collect()
        };
        write!(f, "loaded {} tensors", self.loaded.len())?;
        section(f, "missing in the file", &self.missing)?;
        section(f, "unexpected in the file", &self.unexpected)?;
        section(f, "of another shape", &shapes(&self.wrong_shape))?;
        section(f, "not in the file, kept as initialised", &self.allowed_missing)?;
        section(f, "of another shape, kept as initialised", &shapes(&self.allowed_shape))?;
        section(f, "in the file but not wanted", &self.ignored)?;
        section(f, "no tensors", &self.not_tensors)
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, entries: &[String]) -> fmt::Result {
    if entries.is_empty() {
        return Ok(());
    }
    write!(f, "\n{} {title}:", entries.len())?;
    for entry in entries.iter().take(SHOWN) {
        write!(f, "\n  {entry}")?;
    }
    match entries.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        rest => write!(f, "\n  … and {rest} more"),
    }
}
