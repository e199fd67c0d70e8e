//! Which weights of a checkpoint the programs use, and what they say about them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tests::tool::{Place, program, run};
use vmamba::checkpoint::{Checkpoint, StateDict, Weights, export_safetensors, save_checkpoint};

/// A segmentor that was trained with averages.
fn trained() -> Place {
    let place = Place::new(2);
    place.train_with(program::TRAIN_SEG, "run", &[]).succeeded();
    place
}

fn read(path: &str, weights: Weights) -> StateDict {
    Checkpoint::read(path).and_then(|checkpoint| checkpoint.state_dict(weights)).expect("readable")
}

/// Saves changed weights with the metadata of a checkpoint.
fn save_like(checkpoint: &str, path: &str, state: &StateDict, change: impl FnOnce(&mut String)) {
    let mut metadata = Checkpoint::read(checkpoint).expect("readable").metadata().clone();
    change(metadata.get_mut("config").expect("a configuration"));
    save_checkpoint(Path::new(path), state, None, &metadata, &Default::default()).expect("it can be written");
}

#[test]
fn what_was_validated_is_exported_tested_predicted_and_trained_on() {
    let place = trained();
    let (checkpoint, file) = (place.path("run/last.safetensors"), place.path("weights.safetensors"));
    let exported = run(program::EXPORT_WEIGHTS, &[&checkpoint, &file]);
    assert!(exported.succeeded().contains("averaged weights (`model_ema`)"), "{exported:?}");
    assert_eq!(read(&file, Weights::Model), read(&checkpoint, Weights::Ema));
    assert_ne!(read(&file, Weights::Model), read(&checkpoint, Weights::Model));

    let json = place.path("figures.json");
    let tested = run(program::TEST_SEG, &[&checkpoint, "--json", &json]);
    assert!(tested.succeeded().contains("last.safetensors: averaged weights (`model_ema`)"), "{tested:?}");
    assert!(fs::read_to_string(&json).expect("figures").contains("\"weights\": \"model_ema\""));
    let raw = run(program::TEST_SEG, &[&checkpoint, "--weights", "model"]);
    assert!(raw.succeeded().contains("last.safetensors: weights (`model`)"), "{raw:?}");

    let photo = place.path("data/images/validation");
    let predicted = run(program::PREDICT, &[&checkpoint, &photo, "--out", &place.path("out")]);
    assert!(predicted.succeeded().contains("averaged weights (`model_ema`)"), "{predicted:?}");

    let next = place.train_with(program::TRAIN_SEG, "next", &["--set", &format!("init={checkpoint}")]);
    assert!(next.succeeded().contains("tensors of the averaged weights (`model_ema`)"), "{next:?}");
}

#[test]
fn studies_name_the_weights_that_they_load() {
    let place = trained();
    let (run_folder, out) = (place.path("run"), place.path("out"));
    let maps = ["--scene", "1", "--size", "64", "--layer", "2.0", "--checkpoint", &run_folder, "--out", &out];
    let fields = ["--checkpoint", &format!("mine={run_folder}"), "--trained-only", "--images", "1", "--size", "64", "--out", &out];
    for (name, arguments) in [(program::ACTIVATION, &maps[..]), (program::ERF, &fields[..])] {
        let ran = run(name, arguments);
        ran.succeeded();
        assert!(ran.stderr.contains("best.safetensors: averaged weights (`model_ema`)"), "{ran:?}");
    }
}

/// The rows of a tensor, one for every class, and what follows them.
fn rows(state: &StateDict, key: &str, per_class: usize) -> Vec<Vec<f32>> {
    let tensor = state.get(key).unwrap_or_else(|| panic!("no {key}"));
    let width = tensor.data.len() / tensor.shape[0] * per_class;
    tensor.data.chunks(width).map(<[f32]>::to_vec).collect()
}

/// Asserts that row `k` of a model is row `of[k]` of the one that it started from, but for a tiny step; rows behind the classes stay.
fn assert_mapped(before: &StateDict, after: &StateDict, key: &str, per_class: usize, of: &[usize]) {
    let (before, after) = (rows(before, key, per_class), rows(after, key, per_class));
    for (index, row) in after.iter().enumerate() {
        let expected = &before[of.get(index).copied().unwrap_or(index)];
        assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{key}, row {index}");
    }
}

/// Trains one step of nearly nothing from the checkpoint of `run`; returns the output.
fn go_on(place: &Place, train: &str, out: &str, more: &[&str]) -> String {
    let init = format!("init={}", place.path("run/last.safetensors"));
    let fixed = ["--set", &init, "--set", "train.optimizer.lr=1e-12", "--set", "train.iterations=1"];
    place.train_with(train, out, &[&fixed[..], more].concat()).succeeded().to_owned()
}

#[test]
fn classes_in_another_order_are_mapped_by_name_when_a_segmentor_is_trained_on() {
    let place = trained();
    let list = place.path("data/objectInfo.csv");
    let text = fs::read_to_string(&list).expect("the class list");
    let lines: Vec<&str> = text.lines().collect();
    // The eight classes count down.
    let reversed: Vec<String> =
        lines[1..].iter().enumerate().map(|(index, line)| format!("{},{}", 8 - index, line.split_once(',').expect("columns").1)).collect();
    fs::write(&list, format!("{}\n{}\n", lines[0], reversed.join("\n"))).expect("the class list");
    let said = go_on(&place, program::TRAIN_SEG, "next", &[]);
    assert!(said.contains("in another order; the rows of the class layers are mapped by name"), "{said}");
    let before = read(&place.path("run/last.safetensors"), Weights::Ema);
    let after = read(&place.path("next/last.safetensors"), Weights::Model);
    for layer in ["decode_head.conv_seg", "auxiliary_head.conv_seg"] {
        for kind in ["weight", "bias"] {
            assert_mapped(&before, &after, &format!("{layer}.{kind}"), 1, &[7, 6, 5, 4, 3, 2, 1, 0]);
        }
    }
    assert_mapped(&before, &after, "decode_head.fpn_bottleneck.conv.weight", 1, &[]);

    // Other classes: their layers start anew, all others do not.
    fs::write(&list, text.replacen(",sky,", ",heaven,", 1)).expect("the class list");
    let said = go_on(&place, program::TRAIN_SEG, "other", &[]);
    assert!(said.contains("the class layers are not loaded, because the classes differ"), "{said}");
    assert!(said.contains("does not know the class \"heaven\"") && said.contains("4 of other classes, kept as initialised"), "{said}");
    let other = read(&place.path("other/last.safetensors"), Weights::Model);
    assert_mapped(&before, &other, "decode_head.fpn_bottleneck.conv.weight", 1, &[]);
    let key = "decode_head.conv_seg.weight";
    assert_ne!(rows(&before, key, 1)[3], rows(&other, key, 1)[3]);

    // The same classes: nothing to say. A file without names: a word of caution.
    fs::write(&list, &text).expect("the class list");
    let said = go_on(&place, program::TRAIN_SEG, "same", &[]);
    assert!(!said.contains("another order") && !said.contains("does not name its classes"), "{said}");
    let foreign = place.path("foreign.safetensors");
    run(program::EXPORT_WEIGHTS, &[&place.path("run/last.safetensors"), &foreign]).succeeded();
    let said = go_on(&place, program::TRAIN_SEG, "foreign", &["--set", &format!("init={foreign}")]);
    assert!(said.contains("the file does not name its classes"), "{said}");
}

#[test]
fn classes_in_another_order_are_mapped_by_name_when_a_detector_is_trained_on() {
    let place = Place::detection(1);
    place.train_with(program::TRAIN_DET, "run", &[]).succeeded();
    let mut count = 0;
    for split in ["train", "val"] {
        let path = place.path(&format!("data/annotations/instances_{split}.json"));
        let mut document: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("annotations")).expect("JSON");
        let categories = document["categories"].as_array_mut().expect("a list");
        categories.reverse();
        count = categories.len();
        fs::write(&path, document.to_string()).expect("annotations");
    }
    let said = go_on(&place, program::TRAIN_DET, "next", &[]);
    assert!(said.contains("in another order; the rows of the class layers are mapped by name"), "{said}");
    let before = read(&place.path("run/last.safetensors"), Weights::Ema);
    let after = read(&place.path("next/last.safetensors"), Weights::Model);
    let of: Vec<usize> = (0..count).rev().collect();
    for (layer, per_class) in [("bbox_head.fc_cls", 1), ("bbox_head.fc_reg", 4), ("mask_head.conv_logits", 1)] {
        for kind in ["weight", "bias"] {
            assert_mapped(&before, &after, &format!("roi_head.{layer}.{kind}"), per_class, &of);
        }
    }
    assert_eq!(rows(&after, "roi_head.bbox_head.fc_cls.bias", 1).len(), count + 1, "the background is last");
}

#[test]
fn a_negative_running_variance_is_an_error_that_names_the_tensor() {
    let place = trained();
    let (checkpoint, bad) = (place.path("run/last.safetensors"), place.path("bad.safetensors"));
    let mut state = read(&checkpoint, Weights::Model);
    let key = "decode_head.bottleneck.bn.running_var";
    state.get_mut(key).expect(key).data[0] = -1.0;
    save_like(&checkpoint, &bad, &state, |_| {});
    run(program::TEST_SEG, &[&bad]).failed(&["bad.safetensors", key, "a variance is -1"]);
    place.train_with(program::TRAIN_SEG, "next", &["--set", &format!("init={bad}")]).failed(&["bad.safetensors", key]);
}

#[test]
fn an_overflow_within_the_network_names_the_largest_weight() {
    let place = trained();
    let (checkpoint, bad) = (place.path("run/last.safetensors"), place.path("bad.safetensors"));
    let mut state = read(&checkpoint, Weights::Model);
    let key = "decode_head.conv_seg.weight";
    // Finite, but their sum and their products overflow.
    state.get_mut(key).expect(key).data.fill(3e38);
    save_like(&checkpoint, &bad, &state, |_| {});
    let ran = run(program::TEST_SEG, &[&bad]);
    ran.failed(&["not finite", "overflow", "the largest weight is 3e38", key]);
    assert!(!ran.stderr.contains("have a NaN or an infinity"), "{ran:?}");
}

#[test]
fn a_detector_serves_as_the_start_of_a_segmentor() {
    let detector = Place::detection(1);
    detector.train_with(program::TRAIN_DET, "run", &[]).succeeded();
    let place = Place::new(1);
    let ran = place.train_with(program::TRAIN_SEG, "run", &["--set", &format!("init={}", detector.path("run/last.safetensors"))]);
    assert!(ran.succeeded().contains("starting from") && ran.stdout.contains("loaded"), "{ran:?}");
}

#[test]
fn prefixes_of_wrappers_are_removed_and_named() {
    let place = trained();
    let state = read(&place.path("run/last.safetensors"), Weights::Ema);
    let config = place.config.to_string_lossy().into_owned();
    for prefix in ["_orig_mod.", "model.", "module.", "encoder.", "module._orig_mod."] {
        let file = place.path("wrapped.safetensors");
        let wrapped: StateDict = state.iter().map(|(key, tensor)| (format!("{prefix}{key}"), tensor.clone())).collect();
        export_safetensors(Path::new(&file), &wrapped).expect("it can be written");
        let tested = run(program::TEST_SEG, &["--config", &config, &file]);
        assert!(tested.succeeded().contains(&format!("without the prefix `{prefix}`")), "{prefix}: {tested:?}");
        let trained = place.train_with(program::TRAIN_SEG, "next", &["--overwrite", "--set", &format!("init={file}")]);
        assert!(trained.succeeded().contains(&format!("without the prefix `{prefix}`")), "{prefix}: {trained:?}");
    }
}

#[test]
fn weights_with_a_nan_are_an_error_that_names_the_tensor() {
    for (place, train, test, key) in [
        (Place::new(1), program::TRAIN_SEG, program::TEST_SEG, "decode_head.conv_seg.bias"),
        (Place::detection(1), program::TRAIN_DET, program::TEST_DET, "roi_head.bbox_head.fc_cls.bias"),
    ] {
        place.train_with(train, "run", &[]).succeeded();
        let (checkpoint, bad) = (place.path("run/last.safetensors"), place.path("bad.safetensors"));
        let mut state = read(&checkpoint, Weights::Model);
        state.get_mut(key).expect(key).data[0] = f32::NAN;
        save_like(&checkpoint, &bad, &state, |_| {});
        run(test, &[&bad]).failed(&["not finite", "first in", key]);
        let photos = if test == program::TEST_SEG { "data/images/validation" } else { "data/val" };
        run(program::PREDICT, &[&bad, &place.path(photos), "--out", &place.path("out")]).failed(&["not finite", key]);
        let next = place.train_with(train, "next", &["--set", &format!("init={bad}")]);
        next.failed(&["not finite", "no checkpoint has been saved yet"]);
    }
}

#[test]
fn a_resumed_run_does_not_claim_random_weights_and_says_when_nothing_is_left() {
    let place = trained();
    let ran = place.train_with(program::TRAIN_SEG, "run", &["--resume", "--set", "train.iterations=1"]);
    assert!(!ran.succeeded().contains("starting from"), "{ran:?}");
    assert!(ran.stdout.contains("resumed after iteration 2"), "{ran:?}");
    assert!(ran.stdout.contains("nothing is left to train: the run has done 2 iterations, and the configuration asks for 1"), "{ran:?}");
}

#[test]
fn a_stored_configuration_is_compared_with_the_tensors_before_memory_is_taken() {
    let place = trained();
    let (checkpoint, liar) = (place.path("run/last.safetensors"), place.path("liar.safetensors"));
    let state = read(&checkpoint, Weights::Model);
    // A decode head of 60,000 channels has weights of 130 GB.
    save_like(&checkpoint, &liar, &state, |config| {
        *config = config.replacen("\"head\":{\"channels\":8", "\"head\":{\"channels\":60000", 1);
    });
    let begin = Instant::now();
    run(program::TEST_SEG, &[&liar]).failed(&["liar.safetensors", "decode_head", "60000"]);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    save_like(&checkpoint, &liar, &state, |config| {
        *config = config.replacen("\"head\":{\"channels\":8", "\"head\":{\"channels\":100000000000", 1);
    });
    run(program::TEST_SEG, &[&liar]).failed(&["liar.safetensors", "model.head.channels", "65536"]);
}
