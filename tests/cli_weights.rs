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
