//! `.safetensors` files, foreign and our own.
//!
//! The layout: the length of the header (u64, little-endian), the header as JSON (name → type, shape, byte range), the data. Our own
//! checkpoints are such files with [`FORMAT_KEY`] in the metadata; names of averaged weights and attachments have reserved prefixes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Mutex, PoisonError};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::element::ElementType;
use super::error::Fault;
use super::state_dict::{StateDict, StateTensor};

/// The metadata entry that marks our own files; its value is [`FORMAT`].
pub(super) const FORMAT_KEY: &str = "vmamba.format";
/// Value of [`FORMAT_KEY`].
pub(super) const FORMAT: &str = "checkpoint";
/// The metadata entry with the version of our format.
pub(super) const VERSION_KEY: &str = "vmamba.version";
/// The version that we write, and the newest that we read.
pub(super) const VERSION: u32 = 1;
/// Prefix of the averaged weights in our own files.
pub(super) const EMA_PREFIX: &str = "__ema__.";
/// Prefix of attachments (one-dimensional, u8) in our own files.
pub(super) const BLOB_PREFIX: &str = "__blob__.";

/// The limit in bytes that the safetensors format sets for its header.
const MAX_HEADER: u64 = 100_000_000;

/// Limit for the entries of `__metadata__`. Programs write some hundreds at most.
const MAX_METADATA: usize = 10_000;

/// Limit for the tensors of a file. Large language models have some thousands, a checkpoint of this toolkit with the state of the optimiser
/// has five for every parameter.
const MAX_TENSORS: usize = 200_000;

/// An open `.safetensors` file.
pub(crate) struct SafetensorsFile {
    /// `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// Whether [`save_checkpoint`](super::save_checkpoint) wrote the file.
    pub ours: bool,
    entries: BTreeMap<String, Entry>,
    file: Mutex<File>,
}

struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    start: u64,
    bytes: u64,
}

impl SafetensorsFile {
    /// Reads and checks the header. `length` is the size of the file in bytes.
    pub(crate) fn open(mut file: File, length: u64) -> Result<Self, Fault> {
        let mut size = [0; 8];
        file.read_exact(&mut size)?;
        let size = u64::from_le_bytes(size);
        if size.saturating_add(8) > length {
            return Err(Fault::Corrupt(format!("its header claims {size} bytes, the file has {length}")));
        }
        if size > MAX_HEADER {
            let limit = format!("its header has {size} bytes; the safetensors format allows {MAX_HEADER}");
            return Err(Fault::Unsupported(limit));
        }
        let mut header = Vec::new();
        file.by_ref().take(size).read_to_end(&mut header)?;
        let header = serde_json::from_slice(&header).map_err(|error| Fault::Corrupt(format!("header: {error}")))?;
        let header = checked(header)?;
        let data = 8 + size;
        let end = data.saturating_add(header.data_len() as u64);
        if end != length {
            return Err(Fault::Corrupt(format!("the file has {length} bytes, its header describes {end}")));
        }
        let entry = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
            let (start, end) = info.data_offsets;
            (name, Entry { dtype: info.dtype, shape: info.shape.clone(), start: data + start as u64, bytes: (end - start) as u64 })
        };
        let entries = header.tensors().into_iter().map(entry).collect();
        let metadata: BTreeMap<String, String> = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let ours = metadata.get(FORMAT_KEY).is_some_and(|format| format == FORMAT);
        if ours {
            check_version(metadata.get(VERSION_KEY))?;
        }
        Ok(Self { metadata, ours, entries, file: Mutex::new(file) })
    }

    /// See [`Checkpoint::weight_sets`](super::Checkpoint::weight_sets).
    pub(crate) fn weight_sets(&self) -> Vec<&str> {
        if !self.ours {
            return if self.entries.is_empty() { Vec::new() } else { vec![""] };
        }
        let averaged = self.entries.keys().any(|name| name.starts_with(EMA_PREFIX));
        if averaged { vec!["model", "model_ema"] } else { vec!["model"] }
    }

    /// Names and shapes of the tensors of the set called `name`.
    pub(crate) fn shapes(&self, name: &str) -> BTreeMap<String, Vec<usize>> {
        self.set(name).map(|(key, entry)| (key.to_owned(), entry.shape.clone())).collect()
    }

    /// Reads the set called `name`, one tensor at a time.
    pub(crate) fn state_dict(&self, name: &str) -> Result<StateDict, Fault> {
        let mut state = StateDict::new();
        for (key, entry) in self.set(name) {
            let unsupported = || Fault::Unsupported(format!("tensor `{key}` has elements of type {}", entry.dtype));
            let element = element_type(entry.dtype).ok_or_else(unsupported)?;
            let data = element.decode(&self.read(entry)?, false).ok_or_else(unsupported)?;
            state.insert(key, StateTensor { shape: entry.shape.clone(), data });
        }
        Ok(state)
    }

    /// The entries of the set called `name`, with the keys they have in that set.
    fn set(&self, name: &str) -> impl Iterator<Item = (&str, &Entry)> {
        let averaged = name == "model_ema";
        self.entries.iter().filter_map(move |(key, entry)| {
            let key = match (self.ours, averaged) {
                (true, true) => key.strip_prefix(EMA_PREFIX)?,
                (true, false) if key.starts_with(EMA_PREFIX) || key.starts_with(BLOB_PREFIX) => return None,
                _ => key,
            };
            Some((key, entry))
        })
    }

    /// Names of the attachments.
    pub(crate) fn blob_names(&self) -> Vec<&str> {
        if self.ours { self.entries.keys().filter_map(|name| name.strip_prefix(BLOB_PREFIX)).collect() } else { Vec::new() }
    }

    /// Reads an attachment.
    pub(crate) fn blob(&self, name: &str) -> Result<Option<Vec<u8>>, Fault> {
        match self.entries.get(&format!("{BLOB_PREFIX}{name}")).filter(|_| self.ours) {
            Some(entry) => self.read(entry).map(Some),
            None => Ok(None),
        }
    }

    fn read(&self, entry: &Entry) -> Result<Vec<u8>, Fault> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(entry.start))?;
        let mut raw = Vec::new();
        file.by_ref().take(entry.bytes).read_to_end(&mut raw)?;
        if raw.len() as u64 == entry.bytes { Ok(raw) } else { Err(Fault::Corrupt("the file became shorter while it was read".to_owned())) }
    }
}

/// The entries of a header, in the order of the file.
struct Header {
    metadata: Option<Texts>,
    tensors: Vec<(String, TensorInfo)>,
}

/// The entries of `__metadata__`; no key occurs twice.
struct Texts(HashMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Texts;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = HashMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if texts.contains_key(&key) {
                        return Err(A::Error::custom(format!("the key `{}` occurs twice", key.escape_debug())));
                    }
                    if texts.len() == MAX_METADATA {
                        return Err(A::Error::custom(format!("more than {MAX_METADATA} entries in `__metadata__`")));
                    }
                    texts.insert(key, value);
                }
                Ok(Texts(texts))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { metadata: None, tensors: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if header.metadata.is_some() {
                            return Err(A::Error::custom("the key `__metadata__` occurs twice"));
                        }
                        header.metadata = Some(map.next_value()?);
                    } else if header.tensors.len() < MAX_TENSORS {
                        header.tensors.push((name, map.next_value()?));
                    } else {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// Checks types, shapes and positions: the tensors fill the data without gaps, and no name stands twice.
fn checked(Header { metadata, mut tensors }: Header) -> Result<Metadata, Fault> {
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut names = HashSet::with_capacity(tensors.len());
    if let Some((name, _)) = tensors.iter().find(|(name, _)| !names.insert(name.as_str())) {
        return Err(Fault::Corrupt(format!("header: two tensors are called `{}`", name.escape_debug())));
    }
    Metadata::new(metadata.map(|Texts(texts)| texts), tensors).map_err(|error| Fault::Corrupt(format!("header: {error}")))
}

fn check_version(version: Option<&String>) -> Result<(), Fault> {
    match version.map(|version| version.parse::<u32>()) {
        Some(Ok(1..=VERSION)) => Ok(()),
        Some(Ok(newer)) => Err(Fault::Unsupported(format!("version {newer} of the checkpoint format; this program knows up to {VERSION}"))),
        _ => Err(Fault::Corrupt(format!("`{VERSION_KEY}` in its metadata is not a number"))),
    }
}

fn element_type(dtype: Dtype) -> Option<ElementType> {
    Some(match dtype {
        Dtype::F32 => ElementType::F32,
        Dtype::F16 => ElementType::F16,
        Dtype::BF16 => ElementType::Bf16,
        Dtype::F64 => ElementType::F64,
        Dtype::I64 => ElementType::I64,
        Dtype::I32 => ElementType::I32,
        Dtype::I16 => ElementType::I16,
        Dtype::I8 => ElementType::I8,
        Dtype::U8 => ElementType::U8,
        Dtype::BOOL => ElementType::Bool,
        _ => return None,
    })
}
