//! Results of the official implementations, in a folder with the layout of `tests/fixtures`: a case is `<name>.safetensors` with its
//! manifest `<name>.json`.

use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn::tensor::TensorData;
use serde_json::Value;
use vmamba::checkpoint::{Checkpoint, StateDict, StateTensor, Weights};

use crate::error::{Place, Result, StudyError, invalid};

/// A folder of fixtures.
#[derive(Clone, Debug)]
pub struct FixtureSet {
    root: PathBuf,
}

impl FixtureSet {
    /// Opens a folder.
    ///
    /// # Errors
    /// When it cannot be read or has no case of a network.
    pub fn open(root: &Path) -> Result<Self> {
        let set = Self { root: root.to_owned() };
        let found = set.folders("")?;
        let known =
            |name: &String| name.starts_with("backbone_") || name.starts_with("classifier_") || name == "upernet" || name == "maskrcnn";
        if !found.iter().any(known) {
            return Err(invalid!("--fixtures: {} has no folder backbone_*, classifier_*, upernet or maskrcnn", root.display()));
        }
        Ok(set)
    }

    /// Names of the folders that begin with `prefix`, sorted.
    pub(super) fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.names(&self.root, |path| path.is_dir().then(|| path.file_name()?.to_str().map(str::to_owned)).flatten())
            .map(|names| names.into_iter().filter(|name| name.starts_with(prefix)).collect())
    }

    /// Names of the cases in a folder, sorted; empty for a missing folder.
    pub(super) fn cases(&self, folder: &str) -> Result<Vec<String>> {
        let path = self.root.join(folder);
        if !path.exists() {
            return Ok(Vec::new());
        }
        self.names(&path, |path| (path.extension()? == "safetensors").then(|| path.file_stem()?.to_str().map(str::to_owned)).flatten())
    }

    fn names(&self, folder: &Path, name: impl Fn(&Path) -> Option<String>) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let entries = entries.map_err(StudyError::read(folder)).at("--fixtures")?;
        let mut names: Vec<String> = entries.iter().filter_map(|entry| name(&entry.path())).collect();
        names.sort();
        Ok(names)
    }

    /// The path of a file in the folder.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// The manifest of a case.
    pub(super) fn manifest(&self, folder: &str, name: &str) -> Result<Value> {
        let path = self.root.join(folder).join(format!("{name}.json"));
        let bytes = vmamba_files::read(&path).map_err(StudyError::read(&path))?;
        serde_json::from_slice(&bytes).map_err(StudyError::json(path.display()))
    }

    /// Reads a case.
    pub(super) fn read(&self, folder: &str, name: &str) -> Result<Fixture> {
        let path = self.root.join(folder).join(format!("{name}.safetensors"));
        let tensors = Checkpoint::read(&path).and_then(|file| file.state_dict(Weights::Validated))?;
        Ok(Fixture { name: format!("{folder}/{name}"), manifest: self.manifest(folder, name)?, tensors })
    }
}

/// A case: the manifest and its tensors, as float32, which represents all their values exactly.
pub(super) struct Fixture {
    pub name: String,
    pub manifest: Value,
    tensors: StateDict,
}

impl Fixture {
    /// The tensor called `key`.
    pub(super) fn get(&self, key: &str) -> Result<&StateTensor> {
        self.tensors.get(key).ok_or_else(|| StudyError::content(&self.name)(format!("no tensor `{key}`")))
    }

    /// The names of all tensors, sorted.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys()
    }

    /// The tensor called `key` on a device.
    pub(super) fn tensor<const D: usize>(&self, key: &str, device: &Device) -> Result<Tensor<D>> {
        let tensor = self.get(key)?;
        if tensor.shape.len() != D {
            return Err(StudyError::content(&self.name)(format!("`{key}` has the shape {:?}, expected {D} dimensions", tensor.shape)));
        }
        Ok(Tensor::from_data(TensorData::new(tensor.data.clone(), tensor.shape.clone()), device))
    }

    /// The tensor called `key` as rows of `N` numbers.
    pub(super) fn rows<const N: usize>(&self, key: &str) -> Result<Vec<[f32; N]>> {
        let (rows, rest) = self.get(key)?.data.as_chunks::<N>();
        if !rest.is_empty() {
            return Err(StudyError::content(&self.name)(format!("`{key}` does not have rows of {N} numbers")));
        }
        Ok(rows.to_vec())
    }

    /// The tensor called `key` as indices.
    pub(super) fn indices(&self, key: &str) -> Result<Vec<usize>> {
        Ok(self.get(key)?.data.iter().map(|value| *value as usize).collect())
    }

    /// The tensors whose name begins with `prefix`, without it.
    pub(super) fn with_prefix(&self, prefix: &str) -> StateDict {
        self.tensors.iter().filter_map(|(key, tensor)| Some((key.strip_prefix(prefix)?.to_owned(), tensor.clone()))).collect()
    }
}
