//! `.pth` files: the zip container of PyTorch 1.6 and later, and the older sequence of pickles (`torch/serialization.py`).
//!
//! zip: `<folder>/data.pkl` describes the objects, `<folder>/data/<key>` are the storages, `<folder>/byteorder` names their byte order.
//! legacy: five pickles (a magic number, the protocol version, system information, the objects, the storage keys in file order), then
//! each storage as its number of elements (int64) and the elements.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::sync::{Mutex, PoisonError};

use zip::ZipArchive;
use zip::result::ZipError;

use super::element::ElementType;
use super::error::Fault;
use super::pickle::{Heap, Id, Input, Limits, Pickle, StorageRef, TensorRef, Value, read_pickle};
use super::state_dict::{StateDict, StateTensor};

/// The magic number of a legacy file.
const LEGACY_MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// The protocol version of a legacy file.
const LEGACY_PROTOCOL: i128 = 1001;

/// Limit for `data.pkl` in bytes. A trainer with a long history writes about 10 MB.
const MAX_DESCRIPTION: u64 = 256 << 20;

/// Limit for the elements in a set of weights, per byte of the file and above [`FREE_ELEMENTS`]. A one-byte type has one, tied weights have a
/// few. More come from views with stride 0 or a tensor listed many times, in a file made to exhaust the memory.
const ELEMENTS_PER_BYTE: u64 = 4;
const FREE_ELEMENTS: u64 = 1 << 20;

/// An open `.pth` file.
pub(crate) struct TorchFile {
    /// The weight sets, in the order of the file.
    pub sets: Vec<WeightSet>,
    /// Top-level dictionaries without weights: name and description.
    pub others: Vec<(String, String)>,
    /// Numbers, flags and strings at the top level and in `meta`.
    pub scalars: BTreeMap<String, String>,
    /// Whether a runner of OpenMMLab wrote the file: a dictionary `meta` or `message_hub` stands beside the weights.
    pub open_mmlab: bool,
    source: Mutex<Source>,
    big_endian: bool,
}

/// A dictionary with tensors in it.
pub(crate) struct WeightSet {
    /// Its key at the top level; empty for a bare state dict.
    pub name: String,
    tensors: BTreeMap<String, TensorRef>,
    skipped: Vec<(String, String)>,
}

enum Source {
    Zip { archive: ZipArchive<BufReader<File>>, folder: String },
    Legacy { file: BufReader<File>, storages: HashMap<String, LegacyStorage> },
}

struct LegacyStorage {
    start: u64,
    elements: u64,
}

impl TorchFile {
    /// Opens a file of the zip format. `length` is its size in bytes.
    pub(crate) fn open_zip(file: File, length: u64) -> Result<Self, Fault> {
        let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| zip_fault(error, "archive"))?;
        let folder = description_folder(&archive)?;
        if archive.index_for_name(&format!("{folder}constants.pkl")).is_some() {
            return Err(Fault::Unsupported("a TorchScript archive (torch.jit.save); only files of torch.save are supported".to_owned()));
        }
        let description = read_entry(&mut archive, &format!("{folder}data.pkl"), None, MAX_DESCRIPTION)?;
        let byte_order = format!("{folder}byteorder");
        let big_endian = match archive.index_for_name(&byte_order) {
            None => false,
            Some(_) => match read_entry(&mut archive, &byte_order, None, 16)?.as_slice() {
                b"little" => false,
                b"big" => true,
                _ => return Err(Fault::Corrupt("its byte order is neither little nor big".to_owned())),
            },
        };
        let pickle = read_pickle(&mut Input::new(description.as_slice()), Limits::default())?;
        drop(description);
        Self::new(&pickle, Source::Zip { archive, folder }, big_endian, length)
    }

    /// Opens a file of the format before PyTorch 1.6. `length` is its size in bytes.
    pub(crate) fn open_legacy(file: File, length: u64) -> Result<Self, Fault> {
        let mut input = Input::new(BufReader::new(file.try_clone()?));
        let limits = Limits::default();
        let magic = read_pickle(&mut input, limits)?;
        if !is_int(&magic, LEGACY_MAGIC) {
            return Err(Fault::Unsupported("a pickle that torch.save did not write".to_owned()));
        }
        if !is_int(&read_pickle(&mut input, limits)?, LEGACY_PROTOCOL) {
            return Err(Fault::Unsupported("a legacy PyTorch file of another protocol than 1001".to_owned()));
        }
        let system = read_pickle(&mut input, limits)?;
        let objects = read_pickle(&mut input, limits)?;
        let keys = read_pickle(&mut input, limits)?;
        let big_endian = matches!(entry(&system, "little_endian"), Some(Value::Bool(false)));

        let mut file = BufReader::new(file);
        let storages = index_legacy_storages(&mut file, input.offset(), length, big_endian, &objects, &keys)?;
        Self::new(&objects, Source::Legacy { file, storages }, big_endian, length)
    }

    fn new(pickle: &Pickle, source: Source, big_endian: bool, length: u64) -> Result<Self, Fault> {
        let heap = &pickle.heap;
        let Some(items) = heap.mapping(pickle.root) else {
            let what = heap.describe(pickle.root);
            return Err(Fault::Unsupported(format!("it holds no dictionary of weights but: {what}; save model.state_dict() instead")));
        };
        let mut sets = Vec::new();
        let mut others = Vec::new();
        let mut scalars = BTreeMap::new();
        let mut open_mmlab = false;
        for (key, value) in items {
            let Some(name) = heap.text(*key).filter(|name| !name.is_empty()) else {
                continue;
            };
            if let Some(scalar) = heap.scalar(*value) {
                scalars.insert(name.to_owned(), scalar);
            }
            open_mmlab |= matches!(name, "meta" | "message_hub") && heap.mapping(*value).is_some();
            match heap.mapping(*value) {
                Some(entries) if has_tensors(heap, entries) => sets.push(WeightSet::new(heap, name, entries)),
                Some(entries) if name == "meta" => scalars
                    .extend(entries.iter().filter_map(|(key, value)| Some((format!("meta.{}", heap.text(*key)?), heap.scalar(*value)?)))),
                Some(_) => others.push((name.to_owned(), heap.describe(*value))),
                None => {}
            }
        }
        if has_tensors(heap, items) {
            sets.push(WeightSet::new(heap, "", items));
        }
        let file = Self { sets, others, scalars, open_mmlab, source: Mutex::new(source), big_endian };
        file.check(length)?;
        Ok(file)
    }

    /// Checks that every tensor lies in its storage, and that every storage is in the file with the right size.
    fn check(&self, length: u64) -> Result<(), Fault> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        for set in &self.sets {
            let mut elements = 0_u64;
            for (key, tensor) in &set.tensors {
                let count = tensor.check().map_err(|what| Fault::Corrupt(format!("tensor `{key}` {what}")))?;
                elements = elements.saturating_add(count);
                source.check(&tensor.storage).map_err(|what| Fault::Corrupt(format!("tensor `{key}`: {what}")))?;
            }
            let limit = length.saturating_mul(ELEMENTS_PER_BYTE).saturating_add(FREE_ELEMENTS);
            if elements > limit {
                return Err(Fault::Corrupt(format!("its tensors claim {elements} elements, which a file of {length} bytes cannot hold")));
            }
        }
        Ok(())
    }

    /// Names and shapes of the plain tensors of the set called `name`.
    pub(crate) fn shapes(&self, name: &str) -> BTreeMap<String, Vec<usize>> {
        let sets = self.sets.iter().filter(|set| set.name == name);
        sets.flat_map(|set| &set.tensors).map(|(key, tensor)| (key.clone(), tensor.dims())).collect()
    }

    /// Reads the set called `name`, one storage at a time.
    pub(crate) fn state_dict(&self, name: &str) -> Result<StateDict, Fault> {
        let mut state = StateDict::new();
        let Some(set) = self.sets.iter().find(|set| set.name == name) else {
            return Ok(state);
        };
        for (key, what) in &set.skipped {
            // An unsupported tensor must not look like a missing one.
            if what.contains("torch._utils._rebuild") {
                return Err(Fault::Unsupported(format!("`{key}` is not a plain tensor but an {what}")));
            }
            state.skip(format!("{key} ({what})"));
        }
        let mut by_storage: BTreeMap<_, Vec<(&String, &TensorRef)>> = BTreeMap::new();
        for (key, tensor) in &set.tensors {
            let StorageRef { key: storage, element, elements, .. } = &tensor.storage;
            by_storage.entry((storage, *element, *elements)).or_default().push((key, tensor));
        }
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        for tensors in by_storage.into_values() {
            let Some((_, first)) = tensors.first() else {
                continue;
            };
            let raw = source.read(&first.storage)?;
            for (key, tensor) in tensors {
                let data = tensor
                    .gather(&raw, self.big_endian)
                    .ok_or_else(|| Fault::Unsupported(format!("tensor `{key}` has elements of the type {}", tensor.storage.element)))?;
                state.insert(key, StateTensor { shape: tensor.dims(), data });
            }
        }
        Ok(state)
    }
}

impl WeightSet {
    fn new(heap: &Heap, name: &str, items: &[(Id, Id)]) -> Self {
        let mut set = Self { name: name.to_owned(), tensors: BTreeMap::new(), skipped: Vec::new() };
        for (key, value) in items {
            match (heap.text(*key), heap.get(*value)) {
                (Some(key), Value::Tensor(tensor)) => drop(set.tensors.insert(key.to_owned(), TensorRef::clone(tensor))),
                (Some(key), _) => set.skipped.push((key.to_owned(), heap.describe(*value))),
                (None, _) => set.skipped.push(("a key that is not a string".to_owned(), heap.describe(*value))),
            }
        }
        set
    }
}

impl TensorRef {
    /// The shape of a tensor that has been checked.
    fn dims(&self) -> Vec<usize> {
        self.shape.iter().map(|size| *size as usize).collect()
    }

    /// The number of elements; an error unless all of them lie in the storage.
    fn check(&self) -> Result<u64, String> {
        let elements = self.shape.iter().try_fold(1_u64, |n, size| n.checked_mul(*size)).filter(|n| *n <= MAX_ELEMENTS);
        let elements = elements.ok_or_else(|| format!("claims the shape {:?}", self.shape))?;
        if elements == 0 {
            return Ok(0);
        }
        let last = self
            .shape
            .iter()
            .zip(&self.strides)
            .try_fold(self.offset, |last, (size, stride)| last.checked_add((size - 1).checked_mul(*stride)?));
        let available = self.storage.view.end - self.storage.view.start;
        match last {
            Some(last) if last < available => Ok(elements),
            _ => Err(format!(
                "of shape {:?}, strides {:?} and offset {} lies outside its storage of {available} elements",
                self.shape, self.strides, self.offset
            )),
        }
    }

    /// Converts the elements in row-major order. `raw` is the whole storage; the tensor has been checked.
    fn gather(&self, raw: &[u8], big_endian: bool) -> Option<Vec<f32>> {
        let elements = self.check().ok()? as usize;
        let size = self.storage.element.bytes()? as usize;
        let start = (self.storage.view.start + self.offset) as usize;
        if elements == 0 {
            return self.storage.element.decode(&[], big_endian);
        }
        if self.is_contiguous() {
            return self.storage.element.decode(raw.get(start * size..(start + elements) * size)?, big_endian);
        }
        // Gather the bytes first, so that only one function decodes types.
        let mut ordered = Vec::with_capacity(elements * size);
        let mut index = vec![0_u64; self.shape.len()];
        // Wraps around: the stride of an axis of size 1 may be any number. It is added and subtracted again, and no element is read between.
        let mut position = start as u64;
        for _ in 0..elements {
            let at = position as usize * size;
            ordered.extend_from_slice(raw.get(at..at + size)?);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                position = position.wrapping_add(self.strides[axis]);
                if index[axis] < self.shape[axis] {
                    break;
                }
                position = position.wrapping_sub(index[axis].wrapping_mul(self.strides[axis]));
                index[axis] = 0;
            }
        }
        self.storage.element.decode(&ordered, big_endian)
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (size, stride) in self.shape.iter().zip(&self.strides).rev() {
            if *size != 1 && *stride != expected {
                return false;
            }
            expected *= size;
        }
        true
    }
}

/// Limit for the elements of a tensor, so that byte positions never overflow.
const MAX_ELEMENTS: u64 = 1 << 48;

impl Source {
    /// Checks that the storage exists and has the size that its description claims.
    fn check(&mut self, storage: &StorageRef) -> Result<(), String> {
        let bytes = storage.bytes().ok_or("its type is not known")?;
        match self {
            Self::Zip { archive, folder } => {
                let name = format!("{folder}data/{}", storage.key);
                let index = archive.index_for_name(&name).ok_or_else(|| format!("the archive has no {name}"))?;
                let size = archive.by_index_raw(index).map_err(|error| format!("{name}: {error}"))?.size();
                if size == bytes { Ok(()) } else { Err(format!("{name} has {size} bytes instead of {bytes}")) }
            }
            Self::Legacy { storages, .. } => match storages.get(&storage.key) {
                None => Err(format!("storage {} is not in the file", storage.key)),
                Some(found) if found.elements == storage.elements => Ok(()),
                Some(found) => Err(format!("storage {} has {} elements instead of {}", storage.key, found.elements, storage.elements)),
            },
        }
    }

    fn read(&mut self, storage: &StorageRef) -> Result<Vec<u8>, Fault> {
        let bytes = storage.bytes().ok_or_else(|| Fault::Unsupported(format!("elements of the type {}", storage.element)))?;
        match self {
            Self::Zip { archive, folder } => read_entry(archive, &format!("{folder}data/{}", storage.key), Some(bytes), bytes),
            Self::Legacy { file, storages } => {
                let found = storages.get(&storage.key).ok_or_else(|| Fault::Corrupt(format!("no storage {}", storage.key)))?;
                file.seek(SeekFrom::Start(found.start))?;
                read_exactly(file, bytes, &storage.key)
            }
        }
    }
}

impl StorageRef {
    fn bytes(&self) -> Option<u64> {
        self.elements.checked_mul(self.element.bytes()?)
    }
}

/// The folder with `data.pkl`, including the slash at its end.
fn description_folder(archive: &ZipArchive<BufReader<File>>) -> Result<String, Fault> {
    const NAME: &str = "data.pkl";
    let names = archive.file_names().filter_map(Result::ok);
    let folders = names.filter_map(|name| {
        let folder = name.strip_suffix(NAME)?;
        (folder.is_empty() || folder.ends_with('/')).then(|| folder.to_owned())
    });
    folders.min_by_key(String::len).ok_or_else(|| {
        Fault::NotACheckpoint("it is a zip archive without data.pkl, which torch.save would have written; an archive to unpack?".to_owned())
    })
}

/// Reads an entry of the archive and verifies its checksum. `expected` is its size, if known.
fn read_entry(archive: &mut ZipArchive<BufReader<File>>, name: &str, expected: Option<u64>, limit: u64) -> Result<Vec<u8>, Fault> {
    let index = archive.index_for_name(name).ok_or_else(|| Fault::Corrupt(format!("the archive has no {name}")))?;
    // PyTorch can omit the checksums, which are then 0.
    let unchecked = {
        let entry = archive.by_index_raw(index).map_err(|error| zip_fault(error, name))?;
        if entry.size() > limit {
            return Err(Fault::Corrupt(format!("{name} claims {} bytes; at most {limit} are allowed", entry.size())));
        }
        entry.crc32() == 0 && entry.compression() == zip::CompressionMethod::Stored
    };
    let entry = if unchecked { archive.by_index_raw(index) } else { archive.by_index(index) };
    let entry = entry.map_err(|error| zip_fault(error, name))?;
    let size = expected.unwrap_or_else(|| entry.size());
    // Ask for one byte too many: the checksum is only compared at the end of the entry.
    let mut bytes = Vec::new();
    entry.take(size.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| Fault::Corrupt(format!("{name}: {error}")))?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(Fault::Corrupt(format!("{name} has {} bytes instead of {size}", bytes.len()))) }
}

fn read_exactly(reader: &mut impl Read, bytes: u64, key: &str) -> Result<Vec<u8>, Fault> {
    let mut raw = Vec::new();
    reader.take(bytes).read_to_end(&mut raw)?;
    if raw.len() as u64 == bytes { Ok(raw) } else { Err(Fault::Corrupt(format!("the file ends within storage {key}"))) }
}

fn zip_fault(error: ZipError, what: &str) -> Fault {
    match error {
        ZipError::Io(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Fault::Io(error),
        ZipError::UnsupportedArchive(reason) => Fault::Unsupported(format!("{what}: {reason}")),
        error => Fault::Corrupt(format!("{what}: {error}")),
    }
}

fn has_tensors(heap: &Heap, items: &[(Id, Id)]) -> bool {
    items.iter().any(|(_, value)| matches!(heap.get(*value), Value::Tensor(_)))
}

fn is_int(pickle: &Pickle, expected: i128) -> bool {
    matches!(pickle.heap.get(pickle.root), Value::Int(value) if *value == expected)
}

fn entry<'a>(pickle: &'a Pickle, name: &str) -> Option<&'a Value> {
    let items = pickle.heap.mapping(pickle.root)?;
    items.iter().find(|(key, _)| pickle.heap.text(*key) == Some(name)).map(|(_, value)| pickle.heap.get(*value))
}

/// Indexes the storages after the pickles. Only the pickled descriptions contain the sizes of their elements.
fn index_legacy_storages(
    file: &mut BufReader<File>,
    start: u64,
    length: u64,
    big_endian: bool,
    objects: &Pickle,
    keys: &Pickle,
) -> Result<HashMap<String, LegacyStorage>, Fault> {
    let sizes: HashMap<&str, ElementType> = objects.heap.storages().map(|storage| (storage.key.as_str(), storage.element)).collect();
    let keys = keys.heap.sequence(keys.root).map(|ids| ids.iter().map(|id| keys.heap.text(*id)).collect::<Option<Vec<_>>>());
    let Some(Some(keys)) = keys else {
        return Err(Fault::Corrupt("the list of storages is not a list of names".to_owned()));
    };
    let mut storages = HashMap::new();
    let mut position = start;
    for key in keys {
        let size = sizes.get(key).and_then(|element| element.bytes());
        let size = size.ok_or_else(|| Fault::Unsupported(format!("storage {key} has elements of an unknown type")))?;
        let mut count = [0; 8];
        file.seek(SeekFrom::Start(position))?;
        file.read_exact(&mut count).map_err(|_| Fault::Corrupt(format!("the file ends before storage {key}")))?;
        let elements = if big_endian { u64::from_be_bytes(count) } else { u64::from_le_bytes(count) };
        let first = position.saturating_add(8);
        let end = elements.checked_mul(size).and_then(|bytes| first.checked_add(bytes)).filter(|end| *end <= length);
        position = end.ok_or_else(|| Fault::Corrupt(format!("the file ends within storage {key}")))?;
        storages.insert(key.to_owned(), LegacyStorage { start: first, elements });
    }
    Ok(storages)
}
