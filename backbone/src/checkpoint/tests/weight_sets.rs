//! Which set of weights a file of each trainer gives, and its keys without its values.

use std::io::Write;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

/// The value of a top-level entry of a `.pth` file.
enum Entry {
    /// A state dict: keys, and the value of both elements of every tensor.
    Weights(&'static [&'static str], f32),
    /// A dictionary without tensors.
    Dict,
}

fn text(value: &str) -> Vec<u8> {
    [&[b'X'][..], &(value.len() as u32).to_le_bytes(), value.as_bytes()].concat()
}

/// `torch._utils._rebuild_tensor_v2(storage, 0, (2,), (1,), False, OrderedDict())` for a float32 storage of two elements.
fn tensor(storage: usize) -> Vec<u8> {
    let storage = [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text(&storage.to_string()), &text("cpu"), b"K\x02tQ"].concat();
    [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], b"K\x00K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR"].concat()
}

/// Writes a file as `torch.save` does.
fn write_pth(path: &Path, entries: &[(&str, Entry)]) {
    let (mut pickle, mut storages) = (b"\x80\x02}".to_vec(), Vec::new());
    for (name, entry) in entries {
        pickle.extend([&text(name)[..], b"}"].concat());
        match entry {
            Entry::Weights(keys, value) => {
                for key in *keys {
                    pickle.extend([&text(key)[..], &tensor(storages.len()), b"s"].concat());
                    storages.push(*value);
                }
            }
            Entry::Dict => pickle.extend([&text("epoch")[..], b"K\x0cs"].concat()),
        }
        pickle.push(b's');
    }
    pickle.push(b'.');
    let mut archive = ZipWriter::new(File::create(path).unwrap());
    let mut write = |name: String, bytes: &[u8]| {
        archive.start_file(name, SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored)).unwrap();
        archive.write_all(bytes).unwrap();
    };
    write("archive/data.pkl".to_owned(), &pickle);
    for (number, value) in storages.into_iter().enumerate() {
        write(format!("archive/data/{number}"), &[value.to_le_bytes(), value.to_le_bytes()].concat());
    }
    archive.finish().unwrap();
}

const TRAINED: f32 = 1.0;
const AVERAGED: f32 = 2.0;
const PLAIN: &[&str] = &["weight", "bias"];
const WRAPPED: &[&str] = &["module.weight", "module.bias", "steps"];

/// The values under `Model`, `Ema` and `Validated`; none where the file has no such set.
fn values(entries: &[(&str, Entry)]) -> [Option<f32>; 3] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    write_pth(&path, entries);
    let checkpoint = Checkpoint::read(&path).unwrap();
    [Weights::Model, Weights::Ema, Weights::Validated].map(|weights| {
        let state = checkpoint.state_dict(weights).ok()?;
        assert_eq!(checkpoint.keys(weights).unwrap(), ["bias", "weight"], "{weights:?}");
        assert_eq!(checkpoint.shapes(weights).unwrap()["bias"], [2]);
        Some(state.get("weight").unwrap().data[0])
    })
}

/// The three families of files, from the sources of their trainers:
///
/// * VMamba's `save_checkpoint_ema` (classification/utils/utils.py, 1171792) saves `'model': model.state_dict()` and, with averages,
///   `'model_ema': model_ema.ema.state_dict()`.
/// * timm's `CheckpointSaver._save` (timm/utils/checkpoint_saver.py, 021a523) saves
///   `save_state['state_dict'] = get_state_dict(self.model, self.unwrap_fn)` and, with averages,
///   `save_state['state_dict_ema'] = get_state_dict(self.model_ema, self.unwrap_fn)`.
/// * mmengine's `EMAHook.before_save_checkpoint` (mmengine/hooks/ema_hook.py, 02f1880) sets
///   `checkpoint['ema_state_dict'] = self.ema_model.state_dict()`, whose keys are `module.KEY` and `steps`, and then exchanges the values
///   under `KEY` and `module.KEY`: "Save ema parameters to the source model's state dict so that we can directly load the averaged model
///   weights for deployment." See `the_ema_hook_of_openmmlab_stores_the_averages_as_the_state_dict`.
#[test]
fn every_trainers_averaged_weights_are_found() {
    let both = [Some(TRAINED), Some(AVERAGED), Some(AVERAGED)];
    let official = values(&[("model", Entry::Weights(PLAIN, TRAINED)), ("model_ema", Entry::Weights(PLAIN, AVERAGED))]);
    assert_eq!(official, both, "official VMamba");
    let timm = values(&[("state_dict", Entry::Weights(PLAIN, TRAINED)), ("state_dict_ema", Entry::Weights(PLAIN, AVERAGED))]);
    assert_eq!(timm, both, "timm");
    let other = values(&[("state_dict", Entry::Weights(PLAIN, TRAINED)), ("ema_state_dict", Entry::Weights(WRAPPED, AVERAGED))]);
    assert_eq!(other, both, "a trainer that does not swap");
}

#[test]
fn the_ema_hook_of_openmmlab_stores_the_averages_as_the_state_dict() {
    for beside in ["meta", "message_hub"] {
        let found = values(&[
            (beside, Entry::Dict),
            ("state_dict", Entry::Weights(PLAIN, AVERAGED)),
            ("ema_state_dict", Entry::Weights(WRAPPED, TRAINED)),
        ]);
        assert_eq!(found, [Some(TRAINED), Some(AVERAGED), Some(AVERAGED)], "{beside}");
    }
    // Without the hook.
    let found = values(&[("meta", Entry::Dict), ("state_dict", Entry::Weights(PLAIN, TRAINED))]);
    assert_eq!(found, [Some(TRAINED), None, Some(TRAINED)]);
}

#[test]
fn a_set_of_a_foreign_file_is_chosen_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("distilled.pth");
    write_pth(&path, &[("student", Entry::Weights(PLAIN, TRAINED)), ("teacher", Entry::Weights(WRAPPED, AVERAGED))]);
    let checkpoint = Checkpoint::read(&path).unwrap();
    let error = checkpoint.state_dict(Weights::Validated).unwrap_err().to_string();
    assert!(error.contains("`student`, `teacher`") && error.contains("--weights-key"), "{error}");
    let (state, origin) = checkpoint.model_state(Weights::Key("teacher")).unwrap();
    assert_eq!(state.get("weight").unwrap().data[0], AVERAGED);
    assert_eq!(origin.to_string(), "weights (`teacher`) without the prefix `module.`");
    let error = checkpoint.state_dict(Weights::Key("net")).unwrap_err().to_string();
    assert!(error.contains("no `net` weights") && error.contains("`student`"), "{error}");
}

#[test]
fn a_file_of_averages_alone_has_no_trained_weights() {
    assert_eq!(values(&[("model_ema", Entry::Weights(PLAIN, AVERAGED))]), [None, Some(AVERAGED), Some(AVERAGED)]);
}

#[test]
fn our_own_files_give_their_averages_and_the_keys_of_each_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    save(&path, &state(&[("weight", &[2, 3])]), Some(&state(&[("weight", &[2, 3]), ("average.only", &[1])]))).unwrap();
    let checkpoint = Checkpoint::read(&path).unwrap();
    assert_eq!(checkpoint.weight_set(Weights::Validated), Some("model_ema"));
    assert_eq!(checkpoint.keys(Weights::Validated).unwrap(), ["average.only", "weight"]);
    assert_eq!(checkpoint.keys(Weights::Model).unwrap(), ["weight"], "neither averages nor attachments");
    assert_eq!(checkpoint.model_state(Weights::Validated).unwrap().1.to_string(), "averaged weights (`model_ema`)");
    save(&path, &state(&[("weight", &[2, 3])]), None).unwrap();
    let checkpoint = Checkpoint::read(&path).unwrap();
    assert_eq!(checkpoint.weight_set(Weights::Validated), Some("model"));
    assert_eq!(checkpoint.shapes(Weights::Validated).unwrap()["weight"], [2, 3]);
    assert!(checkpoint.keys(Weights::Ema).unwrap_err().to_string().contains("no EMA"));
}

/// Half of the bytes of the tensor are missing, which only reading the tensor reveals.
#[test]
fn keys_are_listed_without_reading_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    export_safetensors(&path, &state(&[("weight", &[2, 3])])).unwrap();
    let checkpoint = Checkpoint::read(&path).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(std::fs::metadata(&path).unwrap().len() - 12).unwrap();
    assert_eq!(checkpoint.keys(Weights::Validated).unwrap(), ["weight"]);
    assert!(checkpoint.state_dict(Weights::Validated).unwrap_err().to_string().contains("shorter"));
}
