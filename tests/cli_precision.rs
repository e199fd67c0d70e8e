//! `train.precision` and `--precision` from the command line to the checkpoint.

use std::fs;

use serde_json::Value;
use tests::tool::{Place, program, run};
use vmamba::checkpoint::{Checkpoint, Weights};

const TRAIN_SEG: &str = program::TRAIN_SEG;
const TRAIN_DET: &str = program::TRAIN_DET;
const TEST_SEG: &str = program::TEST_SEG;
const TEST_DET: &str = program::TEST_DET;
const PREDICT: &str = program::PREDICT;

const BF16: [&str; 2] = ["--set", "train.precision=bf16"];

/// The losses of all steps of a run.
fn losses(place: &Place, out: &str) -> Vec<f64> {
    let values = place.trace(out).into_iter().map(|line| serde_json::from_str::<Value>(&line).expect("JSON"));
    values.filter_map(|value| value["loss"].as_f64()).collect()
}

/// Asserts that the weights and the averaged weights of a checkpoint are float32: that is their type, and their values use more than the 8
/// bits of mantissa of bf16.
#[track_caller]
fn assert_float32(path: &str) {
    let bytes = fs::read(path).expect("a checkpoint");
    let (length, rest) = bytes.split_first_chunk().expect("a header");
    let header: Value = serde_json::from_slice(&rest[..u64::from_le_bytes(*length) as usize]).expect("JSON");
    let types: Vec<&str> = header.as_object().expect("tensors").values().filter_map(|entry| entry["dtype"].as_str()).collect();
    // The state of the optimiser is stored as bytes.
    assert!(types.contains(&"F32") && types.iter().all(|own| ["F32", "U8"].contains(own)), "{types:?}");
    let checkpoint = Checkpoint::read(path).expect("a checkpoint");
    for weights in [Weights::Model, Weights::Ema] {
        let state = checkpoint.state_dict(weights).expect("weights");
        let values: Vec<f32> = state.iter().flat_map(|(_, tensor)| &tensor.data).copied().filter(|value| *value != 0.0).collect();
        let fine = values.iter().filter(|value| value.to_bits() & 0xffff != 0).count();
        assert!(fine * 10 > values.len() * 9, "{fine} of {} values are no bf16", values.len());
    }
}

/// Asserts that two traces are close but differ; equal traces would mean that bf16 has no effect.
#[track_caller]
fn assert_near(narrow: &[f64], wide: &[f64]) {
    assert!(narrow.len() == wide.len() && !wide.is_empty());
    assert!(narrow != wide, "bf16 has no effect");
    // Some forty activations in a row round to eight bits of mantissa.
    assert!(narrow.iter().zip(wide).all(|(a, b)| (a / b - 1.0).abs() < 0.02), "{narrow:?} instead of {wide:?}");
}

#[test]
fn a_segmentor_trains_in_bf16_on_float32_weights() {
    let place = Place::new(4);
    place.train_with(TRAIN_SEG, "wide", &[]).succeeded();
    place.train_with(TRAIN_SEG, "narrow", &BF16).succeeded();
    assert_near(&losses(&place, "narrow"), &losses(&place, "wide"));
    assert_float32(&place.path("narrow/last.safetensors"));
    assert_float32(&place.path("narrow/best.safetensors"));
    assert!(fs::read_to_string(place.path("narrow/config.toml")).expect("a configuration").contains("precision = \"bf16\""));

    let (checkpoint, json) = (place.path("narrow/best.safetensors"), place.path("figures.json"));
    let figures = |more: &[&str]| {
        run(TEST_SEG, &[&[checkpoint.as_str(), "--json", &json], more].concat()).succeeded();
        serde_json::from_slice::<Value>(&fs::read(&json).expect("figures")).expect("JSON")
    };
    // Validations and evaluations compute in float32 by default.
    let wide = figures(&[]);
    let logged: Value = serde_json::from_str(place.trace("narrow").last().expect("a validation")).expect("JSON");
    assert_eq!(wide["metrics"]["mIoU"], logged["mIoU"]);
    let narrow = figures(&["--precision", "bf16"]);
    assert_eq!((&wide["precision"], &narrow["precision"]), (&Value::from("float32"), &Value::from("bf16")));
    let accuracy = |figures: &Value| figures["metrics"]["aAcc"].as_f64().expect("a figure");
    assert!((accuracy(&narrow) - accuracy(&wide)).abs() < 0.05, "{narrow} instead of {wide}");
    let photo = place.path("data/images/validation/scene_000006.png");
    run(PREDICT, &[&checkpoint, &photo, "--precision", "bf16", "--out", &place.path("predicted")]).succeeded();
}

#[test]
fn a_run_in_bf16_resumes_bit_by_bit() {
    let place = Place::new(30);
    let config = fs::read_to_string(&place.config).expect("a configuration");
    fs::write(&place.config, config.replace("[train]\n", "[train]\nprecision = \"bf16\"\n")).expect("a configuration");
    place.train_with(TRAIN_SEG, "whole", &[]).succeeded();
    assert!(place.interrupt(TRAIN_SEG, "cut", &["INT"]).ended_with(130).contains("interrupted after iteration"));
    place.train_with(TRAIN_SEG, "cut", &["--resume"]).succeeded();
    assert_eq!(losses(&place, "cut"), losses(&place, "whole"));
    let weights = |out: &str| fs::read(place.path(&format!("{out}/last.safetensors"))).expect("a checkpoint");
    assert!(weights("cut") == weights("whole"), "checkpoints are equal to the last byte");
}

#[test]
fn a_detector_trains_in_bf16_on_float32_weights() {
    let place = Place::detection(3);
    place.train_with(TRAIN_DET, "wide", &[]).succeeded();
    place.train_with(TRAIN_DET, "narrow", &BF16).succeeded();
    // Only the first step: later steps sample other boxes, because the proposals differ.
    assert_near(&losses(&place, "narrow")[..1], &losses(&place, "wide")[..1]);
    assert_float32(&place.path("narrow/last.safetensors"));
    let checkpoint = place.path("narrow/best.safetensors");
    let ran = run(TEST_DET, &[&checkpoint, "--precision", "bf16"]);
    assert!(ran.succeeded().contains("segm AP"), "{ran:?}");
}

#[test]
fn a_loss_that_is_not_finite_in_bf16_is_found() {
    let place = Place::new(3);
    let ran = place.train_with(TRAIN_SEG, "run", &[&BF16[..], &["--set", "train.optimizer.lr=1000"]].concat());
    ran.failed(&["is not finite", "first in"]);
}

#[test]
fn an_unknown_precision_is_named_with_the_known_ones() {
    let place = Place::new(2);
    let ran = place.train_with(TRAIN_SEG, "run", &["--set", "train.precision=fp16"]);
    ran.failed(&["train.precision", "fp16", "float32", "bf16"]);
    for program in [TEST_SEG, TEST_DET] {
        let ran = run(program, &["any.safetensors", "--precision", "half"]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(["--precision", "half", "float32", "bf16"].iter().all(|part| ran.stderr.contains(part)), "{ran:?}");
    }
}
