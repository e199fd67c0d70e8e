//! Wrong input of the detection programs: each mistake gives exit code 1 and one error that names the file and the mistake, and no data are
//! lost.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tests::tool::{Place, Ran, program, run};
use vmamba::checkpoint::{Checkpoint, StateTensor, Weights, export_safetensors};

const TRAIN: &str = program::TRAIN_DET;
const TEST: &str = program::TEST_DET;

const ANNOTATIONS: &str = "data/annotations/instances_train.json";

fn train(place: &Place, more: &[&str]) -> Ran {
    place.train_with(TRAIN, "run", more)
}

/// Changes the training annotations.
fn change(place: &Place, edit: impl FnOnce(&mut Value)) {
    let path = place.path(ANNOTATIONS);
    let mut document: Value = serde_json::from_slice(&fs::read(&path).expect("annotations")).expect("JSON");
    edit(&mut document);
    fs::write(&path, document.to_string()).expect("annotations");
}

/// Asserts that training refuses the first annotation after `edit` with an error that contains `parts`.
fn refused(edit: impl FnOnce(&mut Value), parts: &[&str]) {
    let place = Place::detection(1);
    change(&place, |document| edit(&mut document["annotations"][0]));
    train(&place, &[]).failed(&[&["instances_train.json"], parts].concat());
    assert!(!Path::new(&place.path("run/last.safetensors")).exists());
}

fn remove(value: &mut Value, field: &str) {
    value.as_object_mut().expect("an object").remove(field);
}

#[test]
fn json_that_is_not_coco_is_an_error() {
    let place = Place::detection(1);
    for (text, part) in
        [("{\"pictures\": []}", "`images` is missing"), ("[1, 2", "expected an object"), ("hello", "it begins with `hello`")]
    {
        fs::write(place.path(ANNOTATIONS), text).expect("annotations");
        train(&place, &[]).failed(&["instances_train.json", part]);
    }
    fs::remove_file(place.path(ANNOTATIONS)).expect("annotations");
    train(&place, &[]).failed(&["instances_train.json", "No such file"]);
}

#[test]
fn an_annotation_without_category_is_an_error() {
    refused(|annotation| remove(annotation, "category_id"), &["annotation 1", "`category_id` is missing"]);
}

#[test]
fn an_image_id_without_image_is_an_error() {
    refused(|annotation| annotation["image_id"] = json!(777), &["annotation 1", "image_id 777"]);
}

#[test]
fn a_polygon_with_an_odd_count_and_one_outside_the_image_are_errors() {
    refused(|annotation| annotation["segmentation"] = json!([[1, 2, 3, 4, 5, 6, 7]]), &["annotation 1", "segmentation", "7 numbers"]);
    refused(
        |annotation| annotation["segmentation"] = json!([[100, 100, 120, 100, 110, 130]]),
        &["annotation 1", "outside the image of 64x64"],
    );
}

#[test]
fn a_box_without_area_is_left_out_and_reported() {
    let place = Place::detection(1);
    change(&place, |document| document["annotations"][0]["bbox"] = json!([5, 5, 0, 9]));
    let ran = train(&place, &[]);
    assert!(ran.succeeded().contains("1 annotation without area in its image is left out, first 1"), "{ran:?}");
}

#[test]
fn an_rle_of_the_wrong_length_is_an_error() {
    refused(|annotation| annotation["segmentation"] = json!({"size": [64, 64], "counts": [10, 20, 30]}), &["annotation 1", "60 pixels"]);
    refused(|annotation| annotation["segmentation"] = json!({"size": [32, 64], "counts": [0, 2048]}), &["annotation 1", "expected 64x64"]);
}

#[test]
fn duplicate_ids_are_an_error() {
    let place = Place::detection(1);
    change(&place, |document| document["annotations"][1]["id"] = json!(1));
    train(&place, &[]).failed(&["instances_train.json", "id 1 occurs twice"]);
    let place = Place::detection(1);
    change(&place, |document| document["images"][1]["id"] = json!(1));
    train(&place, &[]).failed(&["instances_train.json", "image 1: id 1 occurs twice"]);
}

#[test]
fn annotations_without_objects_are_an_error() {
    let place = Place::detection(1);
    change(&place, |document| document["annotations"] = json!([]));
    train(&place, &[]).failed(&["instances_train.json", "no image has an object"]);
}

#[test]
fn an_image_that_is_missing_or_of_another_size_is_an_error() {
    let place = Place::detection(1);
    change(&place, |document| document["images"][2]["height"] = json!(65));
    // The mask, which has the size too, is read before the image.
    train(&place, &[]).failed(&["instances_train.json", "expected 64x65"]);
    let place = Place::detection(1);
    fs::remove_file(place.path("data/train/scene_000002.png")).expect("an image");
    train(&place, &[]).failed(&["scene_000002.png"]);
    let image = image::open(place.path("data/train/scene_000001.png")).expect("an image");
    let place = Place::detection(1);
    image.crop_imm(0, 0, 60, 64).save(place.path("data/train/scene_000002.png")).expect("an image");
    train(&place, &[]).failed(&["scene_000002.png", "60x64", "64x64"]);
    fs::remove_dir_all(place.path("data/train")).expect("images");
    train(&place, &[]).failed(&["data/train", "no such folder"]);
}

#[test]
fn validation_classes_that_training_lacks_are_an_error() {
    let place = Place::detection(1);
    let path = place.path("data/annotations/instances_val.json");
    let text = fs::read_to_string(&path).expect("annotations").replace("\"ring\"", "\"hoop\"");
    fs::write(&path, text).expect("annotations");
    train(&place, &[]).failed(&["instances_val.json", "`ring`", "hoop"]);
}

#[test]
fn checkpoints_of_other_models_and_tasks_are_errors() {
    let place = Place::detection(1);
    train(&place, &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    let init = format!("init={checkpoint}");
    place.train_with(TRAIN, "wide", &["--set", &init, "--set", "model.backbone.dims=16"]).failed(&["last.safetensors", "of another shape"]);
    let segmentation = Place::new(1);
    segmentation.train_with(program::TRAIN_SEG, "run", &[]).succeeded();
    run(TEST, &[segmentation.path("run/last.safetensors")]).failed(&["segmentation", "detection"]);
    run(program::TEST_SEG, &[checkpoint]).failed(&["detection", "segmentation"]);
}

#[test]
fn a_misspelt_key_is_explained() {
    let place = Place::detection(1);
    train(&place, &["--set", "model.heads.rpn.chanels=3"]).failed(&["model.heads.rpn", "did you mean `channels`"]);
    train(&place, &["--set", "model.heads.rpn.sampler.num=0"]).failed(&["heads.rpn.sampler.num"]);
    train(&place, &["--set", "data.train.scales=[]"]).failed(&["data.train.scales"]);
    train(&place, &["--set", "train.epochs=2"]).failed(&["train.iterations", "train.epochs"]);
}

/// A file with the weights of the run, one value of `key` replaced by NaN.
fn poisoned(place: &Place, key: &str) -> String {
    let mut state = Checkpoint::read(place.path("run/last.safetensors")).and_then(|c| c.state_dict(Weights::Model)).expect("a checkpoint");
    let tensor = state.get(key).unwrap_or_else(|| panic!("no {key}"));
    let mut data = tensor.data.clone();
    data[0] = f32::NAN;
    let shape = tensor.shape.clone();
    state.insert(key.to_owned(), StateTensor { shape, data });
    let path = place.path("poisoned.safetensors");
    export_safetensors(&path, &state).expect("weights");
    path
}

#[test]
fn a_nan_in_the_weights_is_found_named_and_written_down() {
    let place = Place::detection(3);
    train(&place, &[]).succeeded();
    let key = "neck.fpn_convs.1.conv.weight";
    let init = format!("init={}", poisoned(&place, key));
    let ran = place.train_with(TRAIN, "nan", &["--set", &init]);
    ran.failed(&["iteration 1", key, "scene_0000", "non_finite.json"]);
    let report: Value = serde_json::from_slice(&fs::read(place.path("nan/non_finite.json")).expect("a report")).expect("JSON");
    assert_eq!((report["iteration"].as_u64(), report["first_in"].as_str()), (Some(1), Some(key)));
    assert!(report["images"].as_array().is_some_and(|images| !images.is_empty()));
    // With `skip`, the run leaves out every step, and the weights stay as they were.
    let ran = place.train_with(TRAIN, "skip", &["--set", &init, "--set", "train.non_finite=skip", "--set", "train.val_interval=99"]);
    assert_eq!(ran.stdout.matches("skipped this step: the loss of iteration").count(), 3, "{ran:?}");
}

#[test]
fn a_validation_set_without_an_object_that_counts_is_refused_by_training_and_check() {
    for (edit, part) in [
        ((|annotation: &mut Value| annotation["area"] = json!(0)) as fn(&mut Value), "with `area` 0"),
        (|annotation| annotation["bbox"] = json!([0.2, 0.2, 0.5, 0.5]), "with a box narrower than a pixel"),
    ] {
        let place = Place::detection(1);
        let path = place.path("data/annotations/instances_val.json");
        let mut document: Value = serde_json::from_slice(&fs::read(&path).expect("annotations")).expect("JSON");
        document["annotations"].as_array_mut().expect("a list").iter_mut().for_each(edit);
        fs::write(&path, document.to_string()).expect("annotations");
        train(&place, &[]).failed(&["instances_val.json", "no image has an object", part]);
        assert!(!Path::new(&place.path("run")).exists(), "nothing was begun");
        let checked = run(program::CHECK_DATA, &["--coco", &path, "--images", &place.path("data/val")]);
        assert!(checked.code == Some(1) && checked.stdout.contains(part), "{}", checked.stdout);
    }
}
