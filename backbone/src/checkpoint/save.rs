//! Writes checkpoints, all or nothing.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use vmamba_files::Durability;

use super::error::{CheckpointError, Fault};
use super::safetensors::{BLOB_PREFIX, EMA_PREFIX, FORMAT, FORMAT_KEY, VERSION, VERSION_KEY};
use super::state_dict::{StateDict, StateTensor};

/// Saves a checkpoint that [`Checkpoint::read`](super::Checkpoint::read) opens: a `.safetensors` file with the weights `model`, averaged
/// weights `ema`, free-form `metadata` (configuration, class names, iteration, metric) and binary attachments `blobs` (optimiser state,
/// random generators).
///
/// The write is atomic: a temporary file in the same folder is written, synced to disk and renamed. After an error, a previous file is
/// unchanged and no temporary file is left.
///
/// # Errors
/// [`Fault::Save`] with the path: the folder is missing or not writable, or the disk is full.
pub fn save_checkpoint(
    path: impl AsRef<Path>,
    model: &StateDict,
    ema: Option<&StateDict>,
    metadata: &BTreeMap<String, String>,
    blobs: &BTreeMap<String, Vec<u8>>,
) -> Result<(), CheckpointError> {
    let mut metadata = metadata.clone();
    metadata.insert(FORMAT_KEY.to_owned(), FORMAT.to_owned());
    metadata.insert(VERSION_KEY.to_owned(), VERSION.to_string());
    let mut entries: Vec<Entry> = floats(model, "");
    entries.extend(ema.into_iter().flat_map(|state| floats(state, EMA_PREFIX)));
    entries.extend(blobs.iter().map(|(name, bytes)| Entry { key: format!("{BLOB_PREFIX}{name}"), data: Data::Bytes(bytes) }));
    write_atomically(path.as_ref(), |writer| write_safetensors(writer, &entries, &metadata))
}

/// Writes only the weights, with the official keys, as a `.safetensors` file that the official model loads
/// (`model.load_state_dict(safetensors.torch.load_file(path))`). Atomic like [`save_checkpoint`].
///
/// # Errors
/// [`Fault::Save`] with the path.
pub fn export_safetensors(path: impl AsRef<Path>, state: &StateDict) -> Result<(), CheckpointError> {
    // Python libraries expect the framework's name here.
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let entries = floats(state, "");
    write_atomically(path.as_ref(), |writer| write_safetensors(writer, &entries, &metadata))
}

struct Entry<'a> {
    key: String,
    data: Data<'a>,
}

enum Data<'a> {
    Floats(&'a StateTensor),
    Bytes(&'a [u8]),
}

fn floats<'a>(state: &'a StateDict, prefix: &str) -> Vec<Entry<'a>> {
    state.iter().map(|(key, tensor)| Entry { key: format!("{prefix}{key}"), data: Data::Floats(tensor) }).collect()
}

/// Writes the header, then the entries in order; floats come first, so that they are aligned.
fn write_safetensors(writer: &mut dyn Write, entries: &[Entry], metadata: &BTreeMap<String, String>) -> io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!(metadata));
    let mut end = 0;
    for Entry { key, data } in entries {
        let start = end;
        let (dtype, shape) = match data {
            Data::Floats(tensor) => ("F32", tensor.shape.clone()),
            Data::Bytes(bytes) => ("U8", vec![bytes.len()]),
        };
        end += match data {
            Data::Floats(tensor) => 4 * tensor.data.len(),
            Data::Bytes(bytes) => bytes.len(),
        };
        header.insert(key.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
    }
    let mut header = serde_json::to_vec(&Value::Object(header))?;
    // The format requires that the data begin at a multiple of 8, and pads the header with spaces.
    header.resize(header.len().next_multiple_of(8), b' ');
    writer.write_all(&(header.len() as u64).to_le_bytes())?;
    writer.write_all(&header)?;
    for Entry { data, .. } in entries {
        match data {
            Data::Bytes(bytes) => writer.write_all(bytes)?,
            Data::Floats(tensor) => {
                for chunk in tensor.data.chunks(4096) {
                    let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
                    writer.write_all(&bytes)?;
                }
            }
        }
    }
    Ok(())
}

fn write_atomically(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), CheckpointError> {
    vmamba_files::write_with(path, Durability::Synced, content).map_err(|reason| Fault::Save { reason, previous: path.is_file() }.of(path))
}
