//! Training and evaluation of a segmentor from data to figures, and interrupted runs.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::tool::{Place, Ran, program, run};

const TRAIN: &str = program::TRAIN_SEG;
const TEST: &str = program::TEST_SEG;

fn train(place: &Place, out: &str, more: &[&str]) -> Ran {
    place.train_with(TRAIN, out, more)
}

#[test]
fn a_run_leaves_checkpoints_curves_pictures_and_figures() {
    let place = Place::new(4);
    let ran = train(&place, "run", &[]);
    let text = ran.succeeded();
    assert!(text.contains("starting from random weights"), "{text}");
    assert!(text.contains("mIoU"), "{text}");
    for file in ["best.safetensors", "last.safetensors", "config.toml", "metrics.jsonl", "loss.png", "loss.svg", "mIoU.png", "mIoU.svg"] {
        assert!(Path::new(&place.path("run")).join(file).is_file(), "{file}");
    }
    let count = |folder: &str| fs::read_dir(place.path(folder)).expect(folder).count();
    assert_eq!((count("run/pictures"), count("run/tensorboard")), (3, 1), "two pictures and their list");
    let trace = place.trace("run");
    // Four steps; validations after step 3 and at the end.
    assert_eq!(trace.len(), 6, "{trace:?}");
    let first: Value = serde_json::from_str(&trace[0]).expect("JSON");
    let parts = first["decode.loss_ce"].as_f64().zip(first["aux.loss_ce"].as_f64()).map(|(decode, auxiliary)| decode + auxiliary);
    assert!((first["loss"].as_f64().expect("a loss") - parts.expect("its parts")).abs() < 1e-5, "{first}");
}

#[test]
fn a_checkpoint_and_the_data_suffice_for_an_evaluation() {
    let place = Place::new(3);
    train(&place, "run", &[]).succeeded();
    fs::remove_file(&place.config).expect("the configuration is there");
    let (checkpoint, json, out) = (place.path("run/best.safetensors"), place.path("figures.json"), place.path("out"));
    let ran = run(TEST, &[&checkpoint, "--json", &json, "--out", &out]);
    let text = ran.succeeded();
    assert!(text.contains("crate") && text.contains("mean"), "a row for each class: {text}");
    let figures: Value = serde_json::from_slice(&fs::read(&json).expect("figures")).expect("JSON");
    assert_eq!(figures["images"], 4);
    // The same weights on the same images as the validation of the run.
    let logged: Value = serde_json::from_str(place.trace("run").last().expect("a validation")).expect("JSON");
    for name in ["mIoU", "mAcc", "aAcc"] {
        assert_eq!(figures["metrics"][name], logged[name], "{name}");
    }
    assert_eq!(fs::read_dir(place.path("out/pictures")).expect("pictures").count(), 4);
    let labels = image::open(place.path("out/labels/scene_000006.png")).expect("a label map").into_luma8();
    assert_eq!(labels.dimensions(), (32, 32));
    assert!(labels.pixels().all(|pixel| pixel.0[0] < 8), "class indices");
    for more in ["--tta", "--slide"] {
        let ran = run(TEST, &[checkpoint.as_str(), more]);
        assert!(ran.succeeded().contains("mIoU"), "{more}");
    }
}

#[test]
fn a_resumed_run_takes_the_steps_of_an_uninterrupted_one_bit_by_bit() {
    let place = Place::new(40);
    train(&place, "whole", &[]).succeeded();
    train(&place, "workers", &["--set", "train.checkpoint_interval=5", "--set", "data.workers=3"]).succeeded();

    let interrupted = place.interrupt(TRAIN, "cut", &["INT"]);
    assert!(interrupted.ended_with(130).contains("interrupted after iteration"), "{interrupted:?}");
    assert!(place.trace("cut").len() < place.trace("whole").len(), "it was interrupted before its end");
    let resumed = train(&place, "cut", &["--resume"]);
    assert!(resumed.succeeded().contains("resumed after iteration"), "{resumed:?}");
    let only = |out: &str, kind: &str| -> Vec<String> { place.trace(out).into_iter().filter(|line| line.contains(kind)).collect() };
    assert_eq!(only("cut", "\"train\""), only("whole", "\"train\""));
    assert_eq!(only("workers", "\"train\""), only("whole", "\"train\""), "the number of workers changes nothing");
    assert_eq!(only("cut", "\"val\""), only("whole", "\"val\""));
    let weights = |out: &str| fs::read(Path::new(&place.path(out)).join("last.safetensors")).expect("a checkpoint");
    assert!(weights("cut") == weights("whole"), "checkpoints are equal to the last byte");
}

#[test]
fn a_folder_with_a_run_is_not_touched_without_overwrite_or_resume() {
    let place = Place::new(1);
    train(&place, "run", &[]).succeeded();
    let before = place.trace("run");
    train(&place, "run", &[]).failed(&["--resume", "--overwrite"]);
    assert_eq!(place.trace("run"), before);
    train(&place, "run", &["--overwrite", "--set", "train.seed=1"]).succeeded();
    assert_ne!(place.trace("run"), before, "another seed, another run");
    train(&place, "none", &["--resume"]).failed(&["nothing to resume", "last.safetensors"]);
}

#[test]
fn a_run_resumed_by_its_folder_alone_keeps_its_configuration() {
    let place = Place::new(2);
    train(&place, "run", &[]).succeeded();
    let ran = run(TRAIN, &["--out", &place.path("run"), "--resume", "--set", "train.iterations=3"]);
    let text = ran.succeeded();
    assert!(text.contains("changed since the run began: train.iterations was 2, is 3"), "{text}");
    assert!(text.contains("resumed after iteration 2"), "{text}");
    assert!(!text.contains("starting from"), "a resumed run does not start from random weights: {text}");
}

#[test]
fn a_resumed_run_does_not_need_the_checkpoint_it_started_from() {
    let place = Place::new(1);
    train(&place, "pretrained", &[]).succeeded();
    let init = format!("init={}", place.path("pretrained/last.safetensors"));
    let started = train(&place, "run", &["--set", &init]);
    assert!(started.succeeded().contains("starting from"), "{started:?}");
    fs::remove_dir_all(place.path("pretrained")).expect("the pretrained model");
    let resumed = train(&place, "run", &["--resume", "--set", &init, "--set", "train.iterations=2"]);
    let text = resumed.succeeded();
    assert!(text.contains("resumed after iteration 1") && !text.contains("starting from"), "{text}");
    train(&place, "other", &["--set", &init]).failed(&["init", "pretrained/last.safetensors"]);
}

#[test]
fn a_trained_segmentor_starts_one_for_other_classes() {
    let place = Place::new(1);
    train(&place, "run", &[]).succeeded();
    let list = fs::read_to_string(place.path("data/objectInfo.csv")).expect("the class list");
    fs::write(place.path("data/objectInfo.csv"), list + "9,unseen,1,2,3\n").expect("the class list is writable");
    let init = format!("init={}", place.path("run/last.safetensors"));
    let ran = train(&place, "more", &["--set", &init]);
    let text = ran.succeeded();
    assert!(text.contains("loaded") && text.contains("conv_seg"), "the report names the layers that keep random weights: {text}");
}

#[test]
fn groups_are_shown_without_training() {
    let place = Place::new(1);
    let ran = train(&place, "run", &["--show-groups"]);
    let text = ran.succeeded();
    let decay = |key: &str| text.lines().find(|line| line.contains(key)).and_then(|line| line.split_whitespace().nth(2)).map(str::to_owned);
    assert_eq!(decay("backbone.layers.0.blocks.0.norm.weight").as_deref(), Some("0"));
    assert_eq!(decay("backbone.patch_embed.2.weight").as_deref(), Some("0.01"), "the official recipe decays this norm");
    assert!(!Path::new(&place.path("run")).exists());
}

#[test]
fn devices_that_cannot_share_a_run_are_refused_before_it_begins() {
    let place = Place::new(4);
    for (devices, reason) in [
        ("cpu,cpu", "Burn's CPU backend has no all-reduce"),
        ("vulkan:0,vulkan:1", "Burn's Vulkan backend has no all-reduce"),
        ("cuda:1,cuda:1", "cuda:1 is named twice"),
    ] {
        let ran = train(&place, "run", &["--devices", devices]);
        assert_eq!(ran.code, Some(1), "{devices}: {ran:?}");
        assert!(ran.stderr.contains("error: devices: ") && ran.stderr.contains(reason), "{devices}: {ran:?}");
        assert!(!Path::new(&place.path("run")).exists(), "no run was started");
    }
    for usage in [&["--devices", "cpu,gpu"][..], &["--devices", "cpu", "--device", "cpu"]] {
        assert_eq!(train(&place, "run", usage).code, Some(2), "{usage:?}");
    }
}
