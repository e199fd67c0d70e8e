//! The check of a data set and training read annotations with the same judge: what one refuses, the other refuses.

use std::path::Path;

use image::RgbImage;
use serde_json::{Value, json};
use tempfile::TempDir;
use vision_datasets::check::{FindingKind, ObjectCheckOptions, ObjectReport, check_coco};
use vision_datasets::coco::{CocoDataset, CocoOptions, EvalConfig, IouType, evaluate, to_results};
use vision_datasets::sample::DetectionDataset;
use vmamba_types::Detection;

/// Two images of 96x96 pixels with one object each.
fn document() -> Value {
    let image = |id: i64| json!({"id": id, "file_name": format!("{id}.png"), "height": 96, "width": 96});
    let annotation = |id: i64, image: i64| {
        json!({"id": id, "image_id": image, "category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0,
               "segmentation": [[10, 20, 40, 20, 40, 60, 10, 60]]})
    };
    json!({"images": [image(1), image(2)], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
           "annotations": [annotation(1, 1), annotation(2, 2)]})
}

/// A folder with the annotations and their images.
fn folder(annotations: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.json"), annotations).unwrap();
    for (id, side) in [("1.png", 96), ("2.png", 96), ("s.png", 20)] {
        RgbImage::from_pixel(side, side, image::Rgb([id.len() as u8, side as u8, id.as_bytes()[0]])).save(folder.path().join(id)).unwrap();
    }
    folder
}

fn check(folder: &Path) -> Result<ObjectReport, String> {
    check_coco(&folder.join("a.json"), folder, &ObjectCheckOptions::default()).map_err(|error| error.to_string())
}

/// Opens the data for training and reads every sample.
fn train(folder: &Path) -> Result<CocoDataset, String> {
    let data = CocoDataset::open(&folder.join("a.json"), folder, &CocoOptions::train()).map_err(|error| error.to_string())?;
    (0..data.len()).try_for_each(|index| data.get(index).map(drop)).map_err(|error| error.to_string())?;
    Ok(data)
}

/// Asserts that both refuse the annotations, and that training's error contains `part`.
#[track_caller]
fn both_refuse(annotations: &[u8], part: &str) {
    let folder = folder(annotations);
    let error = train(folder.path()).expect_err("training takes the annotations");
    assert!(error.contains("a.json") && error.contains(part), "{part}: {error}");
    match check(folder.path()) {
        Ok(report) => {
            assert!(!report.passes(false), "the check passes what training refuses: {error}");
            let problem = error.split_once("a.json: ").expect("the file").1;
            let told = report.findings.iter().any(|f| f.examples.iter().any(|example| example == problem) || f.message == problem);
            assert!(told, "the check does not tell `{problem}`: {:?}", report.findings);
        }
        Err(other) => assert_eq!(other, error),
    }
}

/// Asserts that both take the annotations; returns the report of the check.
#[track_caller]
fn both_take(annotations: &Value) -> (ObjectReport, CocoDataset, TempDir) {
    let folder = folder(annotations.to_string().as_bytes());
    let report = check(folder.path()).unwrap();
    assert!(report.passes(false), "{:?}", report.findings);
    let data = train(folder.path()).unwrap();
    (report, data, folder)
}

fn changed(edit: impl FnOnce(&mut Value)) -> Value {
    let mut document = document();
    edit(&mut document);
    document
}

#[test]
fn the_check_refuses_every_field_that_training_refuses() {
    let square = json!([[10, 20, 40, 20, 40, 60, 10, 60]]);
    for (field, value, part) in [
        ("id", json!(2), "id 2 occurs twice"),
        ("id", json!(-1), "id -1 is negative"),
        ("id", json!(1.5), "`id` is the number 1.5; expected a whole number"),
        ("id", json!("one"), "`id` is the text \"one\"; expected a whole number"),
        ("id", Value::Null, "`id` is missing"),
        ("image_id", json!(7), "image_id 7 is not among the images"),
        ("image_id", json!([1]), "`image_id` is a list; expected a whole number"),
        ("category_id", json!(7), "category_id 7 is not among the categories"),
        ("iscrowd", json!("0"), "`iscrowd` is the text \"0\"; expected 0 or 1"),
        ("iscrowd", json!(2), "`iscrowd` is the number 2; expected 0 or 1"),
        ("area", json!("1200"), "`area` is the text \"1200\"; expected a number"),
        ("area", json!([]), "`area` is a list; expected a number"),
        ("bbox", Value::Null, "`bbox` is missing"),
        ("bbox", json!([1, 2, 3]), "`bbox` has 3 numbers"),
        ("bbox", json!([1, 2, 3, "4"]), "`bbox` is a list with the text \"4\" at place 3"),
        ("bbox", json!({"x": 1}), "`bbox` is an object; expected four numbers"),
        ("segmentation", json!("text"), "`segmentation` is the text \"text\""),
        ("segmentation", json!([[1, 2, 3, 4, 5]]), "polygon 0 has 5 numbers"),
        ("segmentation", json!([{"size": [96, 96], "counts": [9216]}]), "a list of run-length encoded masks"),
        ("segmentation", json!({"size": [96, 96], "counts": [9215]}), "9215 pixels"),
        ("segmentation", json!({"size": [96, 95], "counts": [9120]}), "expected 96x96"),
        ("segmentation", json!({"size": [96, 96], "counts": "b'P\\'"}), "Python's text of a bytes object"),
        ("segmentation", json!([[200, 200, 230, 200, 230, 230]]), "the polygons lie outside the image"),
    ] {
        both_refuse(changed(|document| document["annotations"][0][field] = value).to_string().as_bytes(), part);
    }
    for (field, value, part) in [
        ("id", json!(-1), "image -1: id -1 is negative"),
        ("id", json!(2), "image 2: id 2 occurs twice"),
        ("file_name", json!(""), "image 1: `file_name` is empty"),
        ("file_name", Value::Null, "image 1: `file_name` is missing"),
        ("height", json!(0), "the image is 96x0 pixels"),
        ("width", json!("wide"), "image 1: `width` is the text \"wide\"; expected a whole number"),
    ] {
        both_refuse(changed(|document| document["images"][0][field] = value).to_string().as_bytes(), part);
    }
    both_refuse(changed(|document| document["categories"][0]["id"] = json!(-1)).to_string().as_bytes(), "category -1: id -1 is negative");
    both_refuse(changed(|document| document["categories"][0]["name"] = json!(3)).to_string().as_bytes(), "`name` is the number 3");
    both_refuse(changed(|document| document["annotations"][1] = square).to_string().as_bytes(), "annotations[1]: the entry is a list");
    let doubled = document().to_string().replace("\"iscrowd\":0", "\"iscrowd\":0,\"iscrowd\":1");
    both_refuse(doubled.as_bytes(), "annotation 1: the key `iscrowd` occurs twice");
}

#[test]
fn the_check_refuses_every_document_that_training_refuses() {
    let text = document().to_string();
    both_refuse(b"", "it is empty");
    both_refuse(b"hello", "it begins with `hello`");
    both_refuse(&text.as_bytes()[..text.len() - 9], "it ends in the middle of the document");
    both_refuse(format!("{text}{text}").as_bytes(), "it holds a second document or is damaged");
    both_refuse(format!("{}, \"images\": []}}", &text[..text.len() - 1]).as_bytes(), "the key `images` occurs twice");
    both_refuse(text.replace("1200", "NaN").as_bytes(), "annotations[0].area: `NaN` at line 1");
    both_refuse(b"[]", "expected an object with COCO's lists");
    both_refuse(br#"{"images": []}"#, "the list `categories` is missing");
    both_refuse(br#"{"images": {}, "categories": []}"#, "images: expected a list of objects, found an object");
    both_refuse(changed(|document| document["categories"] = json!([])).to_string().as_bytes(), "category_id 1 is not among");
}

#[test]
fn a_set_without_anything_to_learn_from_is_refused_by_both() {
    let every =
        |edit: fn(&mut Value)| changed(|document| document["annotations"].as_array_mut().unwrap().iter_mut().for_each(edit)).to_string();
    both_refuse(every(|a| a["area"] = json!(0)).as_bytes(), "no image has an object to learn from (2 annotations with `area` 0)");
    both_refuse(every(|a| a["iscrowd"] = json!(1)).as_bytes(), "2 annotations that are crowd regions");
    both_refuse(every(|a| a["bbox"] = json!([0.1, 0.2, 0.3, 0.4])).as_bytes(), "the boxes are shares of the image, 0 to 1");
    both_refuse(every(|a| a["bbox"] = json!([200, 20, 30, 30])).as_bytes(), "2 annotations with a box outside its image");
    let small = changed(|document| {
        for image in document["images"].as_array_mut().unwrap() {
            (image["height"], image["width"], image["file_name"]) = (json!(20), json!(20), json!("s.png"));
        }
        document["annotations"].as_array_mut().unwrap().iter_mut().for_each(|a| {
            (a["bbox"], a["segmentation"]) = (json!([1, 1, 9, 9]), json!([[1, 1, 10, 1, 10, 10, 1, 10]]));
        });
    });
    both_refuse(small.to_string().as_bytes(), "2 annotations in images smaller than 32 pixels");
    both_refuse(changed(|document| document["annotations"] = json!([])).to_string().as_bytes(), "no image has an object");
    let without = changed(|document| drop(document.as_object_mut().unwrap().remove("annotations")));
    both_refuse(without.to_string().as_bytes(), "no image has an object");
}

#[test]
fn whole_ids_null_flags_and_polygons_beyond_the_image_are_taken_by_both() {
    let (report, data, _folder) = both_take(&changed(|document| {
        let first = &mut document["annotations"][0];
        (first["id"], first["image_id"], first["category_id"]) = (json!("1"), json!(1.0), json!("1.0"));
        (first["iscrowd"], first["area"]) = (Value::Null, Value::Null);
        (first["bbox"], first["segmentation"]) = (json!([-2, -2, 100, 100]), json!([[-2, -2, 98, -2, 98, 98, -2, 98]]));
    }));
    let truth = data.truth().unwrap();
    assert_eq!((truth.annotations[0].area, report.annotations, report.crowds), (9216.0, 2, 0));
    let mask = data.get(0).unwrap().instances[0].mask.as_ref().unwrap().rle();
    assert_eq!(mask.area(), 9216, "the polygon around the image is clipped to it");
}

#[test]
fn the_awkward_files_of_the_shared_cases_are_judged_alike() {
    let Some(cases) = std::env::var_os("VMAMBA_SHARED").map(|root| Path::new(&root).join("cases/coco")) else {
        println!("not run: the files lie in $VMAMBA_SHARED/cases/coco, which is not set");
        return;
    };
    for (name, refusal) in [
        ("03-list-of-rle", Some("a list of run-length encoded masks")),
        ("09-duplicate-names", None),
        ("12b-iscrowd-null", None),
        ("12d-area-0", Some("annotations with `area` 0")),
        ("15-extra-data", Some("it holds a second document or is damaged")),
        ("21-polygon-around-whole-image", None),
        ("22d-rle-str-of-bytes", Some("Python's text of a bytes object")),
    ] {
        let annotations = std::fs::read(cases.join(format!("{name}.json"))).unwrap();
        let folder = folder(&annotations);
        for number in 0..40_u8 {
            let image = RgbImage::from_pixel(96, 96, image::Rgb([number, 0, 7]));
            image.save(folder.path().join(format!("2_{number:03}.png"))).unwrap();
        }
        match refusal {
            Some(part) => both_refuse(&annotations, part),
            None => {
                let report = check(folder.path()).unwrap();
                assert!(report.passes(false), "{name}: {:?}", report.findings);
                train(folder.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        }
    }
}

#[test]
fn roboflows_root_category_is_named_and_can_be_dropped() {
    let root = changed(|document| {
        document["categories"] =
            json!([{"id": 0, "name": "animals", "supercategory": "none"}, {"id": 1, "name": "cat", "supercategory": "animals"}]);
    });
    let (report, data, _folder) = both_take(&root);
    let named = report.findings.iter().find(|finding| finding.kind == FindingKind::RootCategory).expect("a finding");
    assert!(named.examples[0].contains("category 0: `animals`") && named.remedy.contains("data.source.drop_root_category = true"));
    assert!(data.notes().iter().any(|note| note.contains("category 0 `animals` is Roboflow's root category")), "{:?}", data.notes());
    let folder = folder(root.to_string().as_bytes());
    let file = folder.path().join("a.json");
    let options = CocoOptions { drop_root_category: true, ..CocoOptions::train() };
    let data = CocoDataset::open(&file, folder.path(), &options).unwrap();
    assert_eq!((&data.classes().names[..], &data.classes().ids[..]), (&["cat".to_owned()][..], &[1][..]));
    assert_eq!((data.get(0).unwrap().instances[0].category, data.notes()), (0, vec![]));
    let report = check_coco(
        &file,
        folder.path(),
        &ObjectCheckOptions { num_classes: Some(1), drop_root_category: true, ..ObjectCheckOptions::default() },
    )
    .unwrap();
    assert!(report.passes(true), "{:?}", report.findings);
    // A trained model decides the classes; but without one, a switch without effect is a mistake.
    CocoDataset::open(&file, folder.path(), &options.clone().with_classes(data.classes())).unwrap();
    std::fs::write(&file, document().to_string()).unwrap();
    let error = CocoDataset::open(&file, folder.path(), &options).unwrap_err().to_string();
    assert!(error.contains("no category is Roboflow's root category"), "{error}");
}

#[test]
fn objects_of_two_categories_with_one_name_are_kept_in_training_and_validation() {
    let (report, data, folder) = both_take(&changed(|document| {
        document["categories"][1]["name"] = json!("cat");
        document["annotations"][1]["category_id"] = json!(2);
    }));
    assert!(report.findings.iter().any(|finding| finding.kind == FindingKind::DuplicateClassName));
    assert_eq!((data.classes().ids.clone(), data.get(1).unwrap().instances[0].category), (vec![1, 2], 1));
    // As validation data of a model with these classes: both categories count, so that finding the objects of one is half the AP.
    let options = CocoOptions::evaluation().with_classes(data.classes());
    let truth = CocoDataset::open(&folder.path().join("a.json"), folder.path(), &options).unwrap().truth().unwrap();
    let found = [(1, vec![Detection { bbox: [10.0, 20.0, 40.0, 60.0], score: 0.9, category: 0, mask: None }])];
    let report = evaluate(&truth, &to_results(&truth, &found).unwrap(), &EvalConfig::new(IouType::Bbox)).unwrap();
    assert!((report.stats[0] - 0.5).abs() < 1e-9, "{:?}", report.stats);
    assert!(data.notes().iter().any(|note| note.contains("`cat (id 1)`, `cat (id 2)`")), "{:?}", data.notes());
}
