use burn::module::Param;
use burn::prelude::*;

use super::*;

mod limits;
mod weight_sets;

/// A layer with two parameters.
#[derive(Module, Debug)]
struct Layer {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

fn layer(value: f32) -> Layer {
    let device = Device::flex();
    Layer { weight: Param::from_tensor(Tensor::full([2, 3], value, &device)), bias: Param::from_tensor(Tensor::full([2], value, &device)) }
}

fn values(layer: &Layer) -> Vec<f32> {
    let weight = layer.weight.val().into_data().iter::<f32>().collect::<Vec<_>>();
    weight.into_iter().chain(layer.bias.val().into_data().iter::<f32>()).collect()
}

fn state(entries: &[(&str, &[usize])]) -> StateDict {
    let mut state = StateDict::new();
    for (key, shape) in entries {
        let count = shape.iter().product();
        state.insert((*key).to_owned(), StateTensor { shape: shape.to_vec(), data: vec![7.0; count] });
    }
    state
}

fn keys(path: &str) -> String {
    path.to_owned()
}

fn save(path: &Path, model: &StateDict, ema: Option<&StateDict>) -> Result<(), CheckpointError> {
    let metadata = BTreeMap::from([("iteration".to_owned(), "12".to_owned())]);
    let blobs = BTreeMap::from([("optimizer".to_owned(), vec![1, 2, 3])]);
    save_checkpoint(path, model, ema, &metadata, &blobs)
}

#[test]
fn what_is_saved_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    let (model, averaged) = (state_dict_of(&layer(1.5), &keys), state_dict_of(&layer(2.5), &keys));
    save(&path, &model, Some(&averaged)).unwrap();
    let checkpoint = Checkpoint::read(&path).unwrap();
    assert!(checkpoint.is_ours());
    assert_eq!(checkpoint.metadata().get("iteration").map(String::as_str), Some("12"));
    assert_eq!(checkpoint.blob("optimizer").unwrap(), Some(vec![1, 2, 3]));
    assert_eq!(checkpoint.blob("none").unwrap(), None);
    for (weights, value) in [(Weights::Model, 1.5), (Weights::Ema, 2.5), (Weights::Validated, 2.5)] {
        let (loaded, report) = load_into(layer(0.0), &keys, &checkpoint.state_dict(weights).unwrap(), &LoadOptions::new()).unwrap();
        assert_eq!(values(&loaded), [value; 8]);
        assert_eq!(report.loaded, ["bias", "weight"]);
    }
}

/// The file begins with the length of its header, whose lowest byte must not be mistaken for the start of a pickle.
#[test]
fn files_with_headers_of_every_length_come_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.safetensors");
    let mut lowest_bytes = std::collections::BTreeSet::new();
    for length in 0..256 {
        let metadata = BTreeMap::from([("note".to_owned(), "x".repeat(length))]);
        save_checkpoint(&path, &state(&[("weight", &[2, 3])]), None, &metadata, &BTreeMap::new()).expect("a file");
        lowest_bytes.insert(std::fs::read(&path).expect("the file")[0]);
        let read = Checkpoint::read(&path).and_then(|file| file.state_dict(Weights::Model));
        assert!(read.is_ok_and(|state| state.len() == 1), "a note of {length} letters");
    }
    assert!(lowest_bytes.contains(&0x80), "{lowest_bytes:?}");
}

#[test]
fn a_save_that_fails_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    // A folder has the name of the file, so the rename at the end fails.
    std::fs::create_dir_all(path.join("inside")).unwrap();
    let error = save(&path, &state(&[("weight", &[2, 3])]), None).unwrap_err().to_string();
    assert!(error.contains("last.safetensors"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    let error = save(&folder.path().join("none/last.safetensors"), &state(&[]), None).unwrap_err().to_string();
    assert!(error.contains("none"), "{error}");
}

#[test]
fn the_report_names_everything_that_does_not_fit_and_the_module_is_unchanged() {
    let state = state(&[("weight", &[4, 3]), ("extra", &[1])]);
    let error = load_into(layer(1.0), &keys, &state, &LoadOptions::new()).unwrap_err();
    let LoadReport { missing, unexpected, wrong_shape, .. } = &*error.report;
    assert_eq!((missing.as_slice(), unexpected.as_slice()), (&["bias".to_owned()][..], &["extra".to_owned()][..]));
    assert_eq!(wrong_shape[..], [ShapeMismatch { key: "weight".to_owned(), model: vec![2, 3], file: vec![4, 3] }]);
    let text = error.to_string();
    assert!(["bias", "extra", "model [2, 3], file [4, 3]"].iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn what_may_be_missing_keeps_its_values() {
    let options = LoadOptions::new().may_be_missing("bias").ignore_unexpected("head.");
    let state = state(&[("weight", &[2, 3]), ("head.weight", &[5]), ("bn.num_batches_tracked", &[1])]);
    let (loaded, report) = load_into(layer(1.0), &keys, &state, &options).unwrap();
    assert_eq!(values(&loaded), [7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 1.0, 1.0]);
    assert_eq!((report.allowed_missing.len(), report.ignored.len()), (1, 2));
}

#[test]
fn a_file_of_which_nothing_fits_is_another_model_even_when_everything_may_be_missing() {
    let options = LoadOptions::new().may_be_missing("").ignore_unexpected("");
    let error = load_into(layer(1.0), &keys, &state(&[("other", &[1])]), &options).unwrap_err().to_string();
    assert!(error.contains("another model"), "{error}");
}

#[test]
fn linear_weights_stored_as_1x1_convolutions_fit() {
    let state = state(&[("weight", &[2, 3, 1, 1]), ("bias", &[2])]);
    assert_eq!(values(&load_into(layer(1.0), &keys, &state, &LoadOptions::new()).unwrap().0), [7.0; 8]);
}

#[test]
fn a_prefix_is_removed_and_what_lacks_it_is_unexpected() {
    let state = state(&[("backbone.weight", &[2, 3]), ("backbone.bias", &[2]), ("neck.weight", &[1])]);
    let options = LoadOptions::new().strip_prefix("backbone.");
    assert_eq!(load_into(layer(1.0), &keys, &state, &options).unwrap_err().report.unexpected, ["neck.weight"]);
    assert!(load_into(layer(1.0), &keys, &state, &options.ignore_unexpected("neck.")).is_ok());
}

#[test]
fn an_exported_file_holds_the_keys_and_nothing_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    export_safetensors(&path, &state_dict_of(&layer(1.5), &keys)).unwrap();
    let checkpoint = Checkpoint::read(&path).unwrap();
    assert!(!checkpoint.is_ours());
    assert_eq!(checkpoint.weight_sets(), [""]);
    assert_eq!(checkpoint.state_dict(Weights::Validated).unwrap().keys().collect::<Vec<_>>(), ["bias", "weight"]);
    let error = checkpoint.state_dict(Weights::Ema).unwrap_err().to_string();
    assert!(error.contains("bare state dict"), "{error}");
}

#[test]
fn every_truncation_of_a_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.safetensors");
    save(&path, &state_dict_of(&layer(1.0), &keys), None).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = Checkpoint::read(&path).and_then(|checkpoint| checkpoint.state_dict(Weights::Validated)).err();
        let error = error.unwrap_or_else(|| panic!("{length} of {} bytes were accepted", whole.len())).to_string();
        assert!(error.contains("cut.safetensors"), "{error}");
    }
}
