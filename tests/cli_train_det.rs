//! Training, evaluation and prediction of a detector from COCO annotations to figures, and interrupted runs.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tests::tool::{Place, Ran, program, run};
use vision_datasets::coco::{EvalConfig, IouType, evaluate, read_results};
use vision_datasets::ground_truth::GroundTruth;
use vmamba::checkpoint::{Checkpoint, StateDict, Weights, export_safetensors};

const TRAIN: &str = program::TRAIN_DET;
const TEST: &str = program::TEST_DET;
const PREDICT: &str = program::PREDICT;

fn train(place: &Place, out: &str, more: &[&str]) -> Ran {
    place.train_with(TRAIN, out, more)
}

#[test]
fn a_run_leaves_checkpoints_curves_pictures_and_figures() {
    let place = Place::detection(4);
    let ran = train(&place, "run", &[]);
    let text = ran.succeeded();
    for part in ["starting from random weights", "bbox AP", "segm", "5 classes", "APs", "AR1000", "crate"] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    for file in ["best.safetensors", "last.safetensors", "config.toml", "loss.png", "loss.svg", "bbox_AP.png"] {
        assert!(Path::new(&place.path("run")).join(file).is_file(), "{file}");
    }
    let count = |folder: &str| fs::read_dir(place.path(folder)).expect(folder).count();
    assert_eq!((count("run/pictures"), count("run/tensorboard")), (3, 1), "two pictures and their list");
    let trace = place.trace("run");
    // Four steps; validations after step 3 and at the end.
    assert_eq!(trace.len(), 6, "{trace:?}");
    let first: Value = serde_json::from_str(&trace[0]).expect("JSON");
    let part = |name: &str| first[name].as_f64().unwrap_or_else(|| panic!("no {name} in {first}"));
    let sum: f64 = ["loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask"].into_iter().map(part).sum();
    assert!((part("loss") - sum).abs() < 1e-5, "{first}");
}

#[test]
fn a_checkpoint_and_the_data_suffice_for_an_evaluation() {
    let place = Place::detection(3);
    train(&place, "run", &[]).succeeded();
    fs::remove_file(&place.config).expect("the configuration is there");
    let (checkpoint, json, out) = (place.path("run/best.safetensors"), place.path("figures.json"), place.path("out"));
    let ran = run(TEST, &[&checkpoint, "--json", &json, "--out", &out]);
    assert!(ran.succeeded().contains("segm AP"), "{ran:?}");
    let figures: Value = serde_json::from_slice(&fs::read(&json).expect("figures")).expect("JSON");
    assert_eq!(figures["images"], 4);
    // The same weights on the same images as the validation of the run.
    let logged: Value = serde_json::from_str(place.trace("run").last().expect("a validation")).expect("JSON");
    for (kind, name) in [("bbox", "AP"), ("bbox", "AP50"), ("segm", "AP"), ("segm", "AP75")] {
        let figure = figures[kind][name].as_f64().unwrap_or(0.0);
        assert_eq!(Some(figure), logged[format!("{kind}_{name}")].as_f64(), "{kind} {name}");
    }
    for name in ["classes_bbox", "classes_segm"] {
        let rows = figures[name].as_array().expect("a row for each class");
        assert!(!rows.is_empty(), "{name}");
        let shares: Vec<f64> = rows.iter().filter_map(|row| row["AP"].as_f64()).collect();
        assert!(rows.iter().all(|row| row.get("AP75").is_some() && row["id"].is_i64()), "{name}: {rows:?}");
        // One unit in a file: the mean of the classes is the figure of the whole.
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        let whole = figures[name.trim_start_matches("classes_")]["AP"].as_f64().expect("an AP");
        assert!((0.0..=1.0).contains(&whole) && (mean - whole).abs() < 0.05, "{name}: {mean}, {whole}");
    }
    assert_eq!(fs::read_dir(place.path("out/pictures")).expect("pictures").count(), 4);
    // The written results evaluate to the same figures.
    let truth = GroundTruth::read(Path::new(&place.path("data/annotations/instances_val.json"))).expect("annotations");
    for kind in [IouType::Bbox, IouType::Segm] {
        let results = read_results(Path::new(&place.path(&format!("out/results.{}.json", kind.name()))), &truth).expect("results");
        let stats = evaluate(&truth, &results, &EvalConfig::mmdetection(kind)).expect("an evaluation").stats;
        assert_eq!(Some(stats[0]), figures[kind.name()]["AP"].as_f64());
    }
    // Annotations chosen on the command line.
    let ran = run(TEST, &[checkpoint.as_str(), "--annotations", "annotations/instances_train.json", "--images", "train"]);
    assert!(ran.succeeded().contains("(6 images"), "{ran:?}");
}

/// A run, and its checkpoint.
fn trained() -> (Place, String) {
    let place = Place::detection(1);
    train(&place, "run", &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    (place, checkpoint)
}

/// Changes the validation annotations.
fn change(place: &Place, edit: impl FnOnce(&mut Value)) {
    let path = place.path("data/annotations/instances_val.json");
    let mut document: Value = serde_json::from_slice(&fs::read(&path).expect("annotations")).expect("JSON");
    edit(&mut document);
    fs::write(&path, document.to_string()).expect("annotations");
}

#[test]
fn a_test_set_without_annotations_gives_results_and_no_ap() {
    let (place, checkpoint) = trained();
    change(&place, |document| drop(document.as_object_mut().expect("an object").remove("annotations")));
    run(TEST, &[&checkpoint]).failed(&["the annotations have no object, so there is no AP", "--out"]);
    let (out, json) = (place.path("out"), place.path("figures.json"));
    let ran = run(TEST, &[&checkpoint, "--out", &out, "--json", &json]);
    assert!(ran.succeeded().contains("\nnote: the annotations have no object, so there is no AP"), "{ran:?}");
    let figures: Value = serde_json::from_slice(&fs::read(&json).expect("figures")).expect("JSON");
    assert!(figures["bbox"].is_null() && figures["segm"].is_null() && figures["images"] == 4, "{figures:#}");
    for kind in ["bbox", "segm"] {
        let results = fs::read(place.path(&format!("out/results.{kind}.json"))).expect("results");
        assert!(serde_json::from_slice::<Value>(&results).expect("JSON").is_array());
    }
    // There is nothing to choose the best weights by.
    train(&place, "other", &[]).failed(&["instances_val.json", "no image has an object"]);
}

#[test]
fn masks_have_no_ap_where_an_annotation_has_no_mask() {
    let (place, checkpoint) = trained();
    change(&place, |document| document["annotations"][0]["segmentation"] = serde_json::json!([]));
    let json = place.path("figures.json");
    let ran = run(TEST, &[&checkpoint, "--json", &json]);
    let text = ran.succeeded();
    assert!(text.contains("\nnote: no segm AP: 1 of ") && text.contains("first annotation 1\n"), "{text}");
    assert!(!text.contains("segm AP5") && text.contains("bbox AP50"), "{text}");
    let figures: Value = serde_json::from_slice(&fs::read(&json).expect("figures")).expect("JSON");
    assert!(figures["segm"].is_null() && figures["classes_segm"].is_null() && figures["bbox"]["AP"].is_number(), "{figures:#}");
}

#[test]
fn an_annotation_of_id_0_is_named_with_the_figure_of_pycocotools() {
    let (place, checkpoint) = trained();
    change(&place, |document| document["annotations"][0]["id"] = serde_json::json!(0));
    let ran = run(TEST, &[&checkpoint]);
    assert!(
        ran.succeeded().contains("note: annotation 0: pycocotools takes a match with id 0 as no match and would give bbox AP"),
        "{ran:?}"
    );
}

#[test]
fn figures_into_a_missing_folder_fail_before_the_evaluation() {
    let (place, checkpoint) = trained();
    let json = place.path("none/figures.json");
    // No image is read: they are gone.
    fs::remove_dir_all(place.path("data")).expect("the data");
    run(TEST, &[&checkpoint, "--json", &json]).failed(&["--json", "figures.json", "none is not there"]);
    run(program::CHECK_DATA, &["--json", &json]).failed(&["--json", "none is not there"]);
    run(program::CHECK_DATA, &["--sheet", &json]).failed(&["--sheet", "none is not there"]);
}

#[test]
fn training_on_boxes_alone_says_that_masks_are_not_learned() {
    let place = Place::detection(1);
    for split in ["train", "val"] {
        let path = place.path(&format!("data/annotations/instances_{split}.json"));
        let mut document: Value = serde_json::from_slice(&fs::read(&path).expect("annotations")).expect("JSON");
        for annotation in document["annotations"].as_array_mut().expect("a list") {
            annotation.as_object_mut().expect("an object").remove("segmentation");
        }
        fs::write(&path, document.to_string()).expect("annotations");
    }
    let ran = train(&place, "run", &[]);
    let text = ran.succeeded();
    assert!(text.contains("annotations have no mask") && text.contains("only boxes are learned"), "{text}");
    assert!(text.contains("no segm AP"), "{text}");
    let logged: Value = serde_json::from_str(place.trace("run").last().expect("a validation")).expect("JSON");
    assert!(logged["bbox_AP"].is_number() && logged.get("segm_AP").is_none(), "{logged}");
}

#[test]
fn an_official_checkpoint_is_evaluated_with_its_configuration() {
    let place = Place::detection(1);
    train(&place, "run", &[]).succeeded();
    let state = Checkpoint::read(place.path("run/last.safetensors")).and_then(|c| c.state_dict(Weights::Model)).expect("a checkpoint");
    let plain = place.path("plain.safetensors");
    export_safetensors(&plain, &state).expect("weights");
    run(TEST, &[&plain]).failed(&["plain.safetensors", "--config"]);
    let config = place.config.to_string_lossy().into_owned();
    // Such a file gives the number of classes; the data give their names.
    let figures = |arguments: &[&str]| -> Value {
        let json = place.path("figures.json");
        run(TEST, &[arguments, &["--json", &json]].concat()).succeeded();
        serde_json::from_slice(&fs::read(&json).expect("figures")).expect("JSON")
    };
    let (official, own) = (figures(&[&plain, "--config", &config]), figures(&[&place.path("run/last.safetensors")]));
    assert_eq!(official["classes"], own["classes"]);
    let path = place.path("data/annotations/instances_val.json");
    let more =
        fs::read_to_string(&path).expect("annotations").replace("\"categories\":[", "\"categories\":[{\"id\":77,\"name\":\"more\"},");
    fs::write(&path, more).expect("annotations");
    run(TEST, &[plain.as_str(), "--config", &config]).failed(&["plain.safetensors has 5 classes", "has 6"]);
    // A Faster R-CNN has no mask head.
    let boxes_only: StateDict = state.into_iter().filter(|(key, _)| !key.starts_with("roi_head.mask_head.")).collect();
    let faster = place.path("faster_rcnn.safetensors");
    export_safetensors(&faster, &boxes_only).expect("weights");
    let photo = place.path("photo.png");
    image::RgbImage::new(32, 32).save(&photo).expect("a photo");
    let refused = ["faster_rcnn.safetensors", "no weights of a mask_rcnn"];
    run(TEST, &[&faster, "--config", &config]).failed(&refused);
    run(PREDICT, &[&faster, &photo, "--config", &config]).failed(&refused);
}

#[test]
fn a_resumed_run_takes_the_steps_of_an_uninterrupted_one_bit_by_bit() {
    let place = Place::detection(30);
    train(&place, "whole", &[]).succeeded();
    let interrupted = place.interrupt(TRAIN, "cut", &["INT"]);
    assert!(interrupted.ended_with(130).contains("interrupted after iteration"), "{interrupted:?}");
    assert!(place.trace("cut").len() < place.trace("whole").len(), "it was interrupted before its end");
    let resumed = train(&place, "cut", &["--resume", "--set", "data.workers=3"]);
    assert!(resumed.succeeded().contains("resumed after iteration"), "{resumed:?}");
    let only = |out: &str, kind: &str| -> Vec<String> { place.trace(out).into_iter().filter(|line| line.contains(kind)).collect() };
    assert_eq!(only("cut", "\"train\""), only("whole", "\"train\""));
    assert_eq!(only("cut", "\"val\""), only("whole", "\"val\""));
}

#[test]
fn frozen_parameters_keep_their_values_and_the_others_move() {
    let place = Place::detection(2);
    train(&place, "start", &["--set", "train.iterations=1", "--set", "train.optimizer.lr=1e-30"]).succeeded();
    let init = format!("init={}", place.path("start/last.safetensors"));
    let freeze = ["--set", &init, "--set", "train.freeze=[\"backbone.patch_embed\"]", "--set", "train.freeze_norms=true"];
    train(&place, "run", &freeze).succeeded();
    let weights = |out: &str, weights| {
        Checkpoint::read(place.path(&format!("{out}/last.safetensors"))).and_then(|c| c.state_dict(weights)).expect("a checkpoint")
    };
    // `init` starts from the validated weights, here the averaged ones.
    let (before, after) = (weights("start", Weights::Validated), weights("run", Weights::Model));
    let moved = |key: &str| before.get(key).expect(key) != after.get(key).expect(key);
    for key in ["backbone.patch_embed.0.weight", "backbone.outnorm0.weight", "backbone.layers.0.downsample.3.weight"] {
        assert!(!moved(key), "{key} is frozen");
    }
    for key in ["neck.fpn_convs.0.conv.weight", "rpn_head.rpn_cls.weight", "backbone.layers.1.blocks.0.mlp.fc1.weight"] {
        assert!(moved(key), "{key} is trained");
    }
    // A setting without effect is refused before any file is touched.
    let wrong = ["--set", "train.freeze=[\"no.such\"]"];
    train(&place, "wrong", &wrong).failed(&["train.freeze", "no.such"]);
    assert!(!Path::new(&place.path("wrong")).exists());
    let files = || ["run/last.safetensors", "run/config.toml", "run/metrics.jsonl"].map(|file| fs::read(place.path(file)).expect(file));
    let kept = files();
    for option in ["--overwrite", "--resume"] {
        train(&place, "run", &[&[option], &wrong[..]].concat()).failed(&["train.freeze", "no.such"]);
        assert!(files() == kept, "{option}");
    }
}

#[test]
fn photos_get_overlays_and_objects() {
    let place = Place::detection(2);
    train(&place, "run", &[]).succeeded();
    let (checkpoint, out) = (place.path("run/last.safetensors"), place.path("out"));
    let ran = run(PREDICT, &[checkpoint.as_str(), &place.path("data/val"), "--out", &out, "--score", "0.0"]);
    assert!(ran.succeeded().contains("4 of 4 photos predicted"), "{ran:?}");
    let document: Value =
        serde_json::from_slice(&fs::read(Path::new(&out).join("scene_000006_objects.json")).expect("objects")).expect("JSON");
    assert_eq!((document["width"].as_u64(), document["height"].as_u64()), (Some(64), Some(64)));
    let objects = document["objects"].as_array().expect("a list");
    assert!(!objects.is_empty(), "no object with a score threshold of 0");
    for object in objects {
        assert_eq!(object["segmentation"]["size"], serde_json::json!([64, 64]));
        assert!(object["class"].is_string() && object["score"].as_f64() > Some(0.0));
    }
    assert!(Path::new(&out).join("scene_000006_overlay.png").is_file());
    run(PREDICT, &[checkpoint.as_str(), &place.path("data/val"), "--tta"]).failed(&["--tta", "detector"]);
}
