//! Checkpoints of the official trainers: every file gives the weights its manifest says, and wrong files say what is wrong.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::prelude::*;
use tests::{Comparison, FORWARD_TOLERANCE, Fixture, FixtureTensor, fixtures_root, present};
use vmamba::checkpoint::{Checkpoint, LoadOptions, StateDict, StateTensor, Weights, export_safetensors, load_into, state_dict_of};
use vmamba::{OfficialConfig, VmambaClassifier, official_key};

/// Half precision keeps 11 bits of a value.
const HALF_TOLERANCE: f64 = 5e-4;

fn file(name: &str) -> PathBuf {
    fixtures_root().join("pth").join(name)
}

/// The checkpoint files of the fixture set.
fn files() -> Vec<String> {
    let entries = std::fs::read_dir(fixtures_root().join("pth")).unwrap();
    let names = entries.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".pth")).collect();
    names.sort();
    assert!(!names.is_empty(), "the fixture set has no .pth file");
    names
}

fn classifier(case: &Fixture) -> VmambaClassifier {
    let official = OfficialConfig::parse(case.config()).unwrap();
    let classes = case.config()["num_classes"].as_u64().unwrap() as usize;
    official.config.init_classifier(classes, &Device::flex())
}

/// Compares all weights of a checkpoint, by the key the official model has today.
fn compare(name: &str, state: &StateDict, expected: &BTreeMap<String, FixtureTensor>, scale: f64, tolerance: f64) {
    let mut comparison = Comparison::new(format!("pth/{name}"));
    for (key, expected) in expected.iter().filter(|(key, _)| !key.ends_with("num_batches_tracked")) {
        let tensor = state.get(key).unwrap_or_else(|| panic!("{name} has no `{key}`"));
        // Linear weights may be stored as 1x1 convolutions.
        let values: Vec<f64> = tensor.data.iter().map(|v| f64::from(*v) / scale).collect();
        assert_eq!(values.len(), expected.values.len(), "{name}: {key}");
        comparison.check_values(key, &expected.shape, &values, expected, tolerance);
    }
    comparison.finish();
}

#[test]
fn every_checkpoint_holds_the_weights_of_its_model() {
    for name in files() {
        let checkpoint = Checkpoint::read(file(&name)).unwrap();
        let state = checkpoint.state_dict(Weights::Model).unwrap();
        let case = match name.as_str() {
            "upernet_mmseg.pth" => ("upernet", "weights", ""),
            "maskrcnn_mmdet.pth" => ("maskrcnn", "weights", ""),
            // Its keys are compared by loading, below.
            "cls_v0_oldkeys.pth" => continue,
            _ => ("classifier_s1", "data", "w."),
        };
        // Where the weights themselves are left out, `parity_mask_rcnn` computes with those of the checkpoint.
        if !present(&format!("{}/{}.safetensors", case.0, case.1)) {
            continue;
        }
        let expected = Fixture::read(case.0, case.1).with_prefix(case.2);
        let tolerance = if name.contains("half") { HALF_TOLERANCE } else { 0.0 };
        compare(&name, &state, &expected, 1.0, tolerance);
        if checkpoint.weight_sets().contains(&"model_ema") {
            compare(&format!("{name} model_ema"), &checkpoint.state_dict(Weights::Ema).unwrap(), &expected, 0.5, tolerance);
        }
    }
}

#[test]
fn classification_checkpoints_load_strictly_and_give_the_official_logits() {
    for name in files().into_iter().filter(|name| name.starts_with("cls_")) {
        let case = Fixture::read(if name.contains("v0") { "classifier_v0" } else { "classifier_s1" }, "data");
        let state = Checkpoint::read(file(&name)).unwrap().state_dict(Weights::Model).unwrap();
        let (model, report) =
            load_into(classifier(&case), &official_key, &state, &LoadOptions::new()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(report.loaded.len(), case.with_prefix("w.").len(), "{name}");

        let mut comparison = Comparison::new(format!("pth/{name} logits"));
        let tolerance = if name.contains("half") { 10.0 * HALF_TOLERANCE } else { FORWARD_TOLERANCE };
        for size in ["even", "odd"] {
            let logits = model.forward(case.tensor(&format!("x_{size}")).to_tensor(&Device::flex()));
            comparison.check(size, logits, case.tensor(&format!("logits_{size}")), tolerance);
        }
        comparison.finish();
    }
}

#[test]
fn a_classification_checkpoint_becomes_a_backbone_when_the_caller_allows_what_differs() {
    if !present("classifier_s1") {
        return;
    }
    let name = files().into_iter().find(|name| name.starts_with("cls_s1")).expect("a classification checkpoint");
    let state = Checkpoint::read(file(&name)).unwrap().state_dict(Weights::Validated).unwrap();
    let config = OfficialConfig::parse(Fixture::read("classifier_s1", "data").config()).unwrap().config;
    let backbone = config.init(&Device::flex());

    let error = load_into(backbone.clone(), &official_key, &state, &LoadOptions::new()).unwrap_err();
    assert!(error.report.missing.iter().all(|key| key.starts_with("outnorm")), "{error}");
    assert!(error.report.unexpected.iter().all(|key| key.starts_with("classifier.")), "{error}");

    let options = LoadOptions::new().ignore_unexpected("classifier.").may_be_missing("outnorm");
    let (_, report) = load_into(backbone, &official_key, &state, &options).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.allowed_missing.len(), 2 * config.out_indices.len());
    assert_eq!(report.ignored.len(), 4);
}

#[test]
fn a_checkpoint_of_another_model_is_refused_and_the_model_stays_as_it_was() {
    if !present("classifier_s1") {
        return;
    }
    let case = Fixture::read("classifier_s1", "data");
    let mut config = OfficialConfig::parse(case.config()).unwrap().config;
    config.ssm_ratio = 2.0;
    let model = config.init_classifier(10, &Device::flex());
    let before = state_dict_of(&model, &official_key);
    let name = files().into_iter().find(|name| name.starts_with("cls_s1")).expect("a classification checkpoint");
    let state = Checkpoint::read(file(&name)).unwrap().state_dict(Weights::Validated).unwrap();
    let error = load_into(model.clone(), &official_key, &state, &LoadOptions::new()).unwrap_err();
    let message = error.to_string();
    let mismatch = error.report.wrong_shape.iter().find(|m| m.key.ends_with(".op.A_logs")).expect("A_logs has another shape");
    assert_eq!(mismatch.model[0], 2 * mismatch.file[0], "{message}");
    assert!(message.contains("A_logs"), "{message}");
    assert_eq!(state_dict_of(&model, &official_key), before);
}

#[test]
fn exported_weights_come_back_unchanged_under_the_official_keys() {
    let case = Fixture::read("backbone_ds2pe1", "weights");
    let mut expected = StateDict::new();
    for (key, tensor) in case.with_prefix("") {
        expected.insert(key, StateTensor { shape: tensor.shape.clone(), data: tensor.to_f32() });
    }
    let backbone = OfficialConfig::parse(case.config()).unwrap().config.init(&Device::flex());
    let (model, _) = load_into(backbone, &official_key, &expected, &LoadOptions::new()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    export_safetensors(&path, &state_dict_of(&model, &official_key)).unwrap();
    let back = Checkpoint::read(&path).unwrap().state_dict(Weights::Validated).unwrap();
    assert_eq!(back, expected);
}

#[test]
fn files_that_are_no_checkpoint_name_themselves_and_the_fault() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.pth");
    std::fs::write(&text, "these are notes, not weights").unwrap();
    let message = |path: &std::path::Path| Checkpoint::read(path).err().expect("this is no checkpoint").to_string();
    assert!(message(&text).contains("notes.pth") && message(&text).contains("text file"), "{}", message(&text));
    let none = folder.path().join("none.pth");
    assert!(message(&none).contains("none.pth"), "{}", message(&none));

    let whole = std::fs::read(file(&files()[0])).unwrap();
    for keep in [30, 1000, whole.len() / 2, whole.len() - 1] {
        let path = folder.path().join("truncated.pth");
        std::fs::write(&path, &whole[..keep]).unwrap();
        let error = Checkpoint::read(&path).and_then(|checkpoint| checkpoint.state_dict(Weights::Validated)).expect_err("it is truncated");
        assert!(error.to_string().contains("truncated.pth"), "{error}");
    }
}

#[test]
fn damaged_files_are_errors_or_other_weights_but_never_a_crash() {
    let whole = std::fs::read(file(&files()[0])).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.pth");
    let mut state = 1_u64;
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // The structure lies at both ends of the file.
            let span = 20_000.min(bytes.len() / 2);
            let at = (state >> 33) as usize % (2 * span);
            let at = if at < span { at } else { bytes.len() - 1 - (at - span) };
            bytes[at] = (state >> 20) as u8;
        }
        std::fs::write(&path, &bytes).unwrap();
        drop(Checkpoint::read(&path).and_then(|checkpoint| checkpoint.state_dict(Weights::Validated)));
    }
}
