//! The report of loading a checkpoint.

use std::fmt;

use super::{ClassRows, Origin};

/// A tensor whose shapes in the file and in the model differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// Official key in the model.
    pub key: String,
    /// Shape in the model.
    pub model: Vec<usize>,
    /// Shape in the file.
    pub file: Vec<usize>,
}

/// What became of every key. Keys of the model are official ones; keys of the file are written as in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Which set of the file was loaded; none where the weights do not come from a file.
    pub origin: Option<Origin>,
    /// How the class layers were loaded; `None` if the file has no class layer.
    pub classes: Option<ClassRows>,
    /// Keys of class layers that were not loaded because the classes differ. They keep their initial values.
    pub other_classes: Vec<String>,
    /// Keys of the model whose values were loaded from the file.
    pub loaded: Vec<String>,
    /// Keys of the model that the file lacks. An error.
    pub missing: Vec<String>,
    /// Keys of the file that the model lacks. An error.
    pub unexpected: Vec<String>,
    /// Keys with different shapes in model and file. An error.
    pub wrong_shape: Vec<ShapeMismatch>,
    /// Keys with invalid values, each with the reason. An error.
    pub invalid: Vec<String>,
    /// Keys of the model that the file lacks, as the options allow: they keep their values.
    pub allowed_missing: Vec<String>,
    /// Keys with different shapes, as the options allow: they keep their values.
    pub allowed_shape: Vec<ShapeMismatch>,
    /// Keys of the file that the model lacks, as the options allow.
    pub ignored: Vec<String>,
    /// Entries of the file that are not tensors.
    pub not_tensors: Vec<String>,
}

impl LoadReport {
    /// Says which set of the file was loaded.
    #[must_use]
    pub fn from(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Adds how the class layers were loaded. `removed` is the result of [`ClassRows::apply`].
    #[must_use]
    pub fn with_classes(mut self, rows: &ClassRows, removed: Option<Vec<String>>) -> Self {
        if let Some(removed) = removed {
            self.allowed_missing.retain(|key| !removed.contains(key));
            (self.classes, self.other_classes) = (Some(rows.clone()), removed);
        }
        self
    }

    /// Whether there is no error and at least one tensor was loaded.
    pub fn is_ok(&self) -> bool {
        let faults = [self.missing.len(), self.unexpected.len(), self.wrong_shape.len(), self.invalid.len()];
        faults == [0; 4] && !self.loaded.is_empty()
    }
}

/// Entries of a list to print; the others are only counted.
const SHOWN: usize = 8;

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = |entries: &[ShapeMismatch]| -> Vec<String> {
            entries.iter().map(|m| format!("{}: model {:?}, file {:?}", m.key, m.model, m.file)).collect()
        };
        write!(f, "loaded {} tensors", self.loaded.len())?;
        if let Some(origin) = &self.origin {
            write!(f, " of the {origin}")?;
        }
        match &self.classes {
            None | Some(ClassRows::Same) => (),
            Some(ClassRows::Unknown) => {
                let number = "the class layers are loaded unchanged if the number of classes agrees";
                write!(f, "\nthe file does not name its classes; {number}")?;
            }
            Some(ClassRows::Mapped(_)) => {
                write!(f, "\nthe file has the classes of the data in another order; the rows of the class layers are mapped by name")?;
            }
            Some(ClassRows::Other { reason, .. }) => {
                write!(f, "\nthe class layers are not loaded, because the classes differ: {reason}")?;
            }
        }
        section(f, "missing in the file", &self.missing)?;
        section(f, "unexpected in the file", &self.unexpected)?;
        section(f, "of another shape", &shapes(&self.wrong_shape))?;
        section(f, "of invalid values", &self.invalid)?;
        section(f, "not in the file, kept as initialised", &self.allowed_missing)?;
        section(f, "of other classes, kept as initialised", &self.other_classes)?;
        section(f, "of another shape, kept as initialised", &shapes(&self.allowed_shape))?;
        section(f, "in the file, ignored", &self.ignored)?;
        section(f, "not tensors", &self.not_tensors)
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
