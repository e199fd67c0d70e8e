//! The check of COCO annotations: every kind of mistake has a name, and one run reports them all.

use std::fs;

use serde_json::{Value, json};
use tests::shared_root;
use tests::tool::{Place, Ran, program, run};

const CHECK: &str = program::CHECK_DATA;

fn check(place: &Place, more: &[&str]) -> (Ran, Value) {
    let (file, images, report) = (place.path("data/annotations/instances_train.json"), place.path("data/train"), place.path("report.json"));
    let ran = run(CHECK, &[&["--coco", &file, "--images", &images, "--json", &report], more].concat());
    let report = fs::read(&report).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or(Value::Null);
    (ran, report)
}

fn change(place: &Place, edit: impl FnOnce(&mut Value)) {
    let path = place.path("data/annotations/instances_train.json");
    let mut document: Value = serde_json::from_slice(&fs::read(&path).expect("annotations")).expect("JSON");
    edit(&mut document);
    fs::write(&path, document.to_string()).expect("annotations");
}

/// The count of the findings of this kind; 0 when there is none.
fn count(report: &Value, kind: &str) -> u64 {
    let findings = report["findings"].as_array().expect("findings");
    findings.iter().filter(|finding| finding["kind"] == kind).map(|finding| finding["count"].as_u64().expect("a count")).sum()
}

#[test]
fn a_good_set_is_ready_and_counted() {
    let place = Place::detection(1);
    let sheet = place.path("sheet.png");
    let (ran, report) = check(&place, &["--num-classes", "5", "--scale", "256", "256", "--anchor-scales", "4,8", "--sheet", &sheet]);
    let text = ran.succeeded();
    for part in ["ready for training: 0 errors", "6 images", "5 categories", "small", "anchors", "crate"] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let sizes: u64 = report["sizes"].as_array().expect("sizes").iter().filter_map(Value::as_u64).sum();
    assert!(sizes > 0 && sizes <= report["annotations"].as_u64().expect("a number"));
    assert!(image::open(&sheet).expect("a sheet").width() > 600);
}

#[test]
fn every_mistake_is_reported_at_once() {
    let place = Place::detection(1);
    let square = json!([[10, 10, 30, 10, 30, 30, 10, 30]]);
    let entry = |id: i64, fields: Value| {
        let mut entry =
            json!({"id": id, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0, "segmentation": square});
        entry.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        entry
    };
    change(&place, |document| {
        document["annotations"].as_array_mut().expect("a list").extend([
            entry(1, json!({})),
            entry(101, json!({"image_id": 99})),
            entry(102, json!({"category_id": 99})),
            entry(103, json!({"category_id": null})),
            entry(104, json!({"bbox": [1, 2, 3]})),
            entry(105, json!({"bbox": [10, 10, 0, 20]})),
            entry(106, json!({"bbox": [50, 50, 30, 30], "segmentation": [[50, 50, 80, 50, 80, 80, 50, 80]]})),
            entry(107, json!({"bbox": [200, 200, 30, 30], "segmentation": [[200, 200, 230, 200, 230, 230, 200, 230]]})),
            entry(108, json!({"segmentation": [[1, 2, 3, 4, 5]]})),
            entry(109, json!({"segmentation": {"size": [64, 64], "counts": [1, 2]}})),
            entry(110, json!({"segmentation": [[40, 40, 60, 40, 60, 60, 40, 60]]})),
            entry(111, json!({"iscrowd": 1})),
            entry(112, json!({"segmentation": []})),
        ]);
        document["categories"].as_array_mut().expect("a list").push(json!({"id": 9, "name": "crate"}));
        document["images"][5]["height"] = json!(66);
        document["images"].as_array_mut().expect("a list").push(json!({"id": 50, "file_name": "none.png", "height": 64, "width": 64}));
    });
    fs::write(place.path("data/train/scene_000001.png"), b"no picture").expect("an image");
    fs::copy(place.path("data/train/scene_000002.png"), place.path("data/train/scene_000003.png")).expect("an image");
    let (ran, report) = check(&place, &["--num-classes", "5"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("not ready for training"), "{}", ran.stdout);
    for (kind, least) in [
        ("duplicate_id", 1),
        ("unknown_image", 1),
        ("unknown_category", 1),
        ("invalid_field", 1),
        ("bad_box", 1),
        ("degenerate_box", 1),
        ("box_outside_image", 2),
        ("polygon_outside", 1),
        ("bad_polygon", 1),
        ("bad_rle", 1),
        ("box_mask_mismatch", 1),
        ("crowds", 1),
        ("no_mask", 1),
        ("category_id_gaps", 3),
        ("num_classes_mismatch", 1),
        ("duplicate_class_name", 1),
        ("class_never_present", 1),
        ("size_mismatch", 1),
        ("missing_image_file", 1),
        ("unreadable_image", 1),
        ("duplicate_in_split", 1),
    ] {
        assert!(count(&report, kind) >= least, "{kind}: {} in {report:#}", count(&report, kind));
    }
    assert_eq!(count(&report, "corner_boxes"), 0);
}

#[test]
fn corners_instead_of_sizes_are_recognised() {
    let place = Place::detection(1);
    change(&place, |document| {
        for annotation in document["annotations"].as_array_mut().expect("a list") {
            let side = |index: usize| annotation["bbox"][index].as_f64().expect("a number");
            let corners = json!([side(0), side(1), side(0) + side(2), side(1) + side(3)]);
            annotation["bbox"] = corners;
        }
    });
    let (ran, report) = check(&place, &[]);
    assert_eq!(ran.code, Some(1));
    assert!(count(&report, "corner_boxes") > 3, "{report:#}");
    assert_eq!(count(&report, "box_mask_mismatch"), 0, "one cause, one finding");
}

#[test]
fn anchors_that_fit_no_object_are_a_warning() {
    let place = Place::detection(1);
    let (ran, report) = check(&place, &["--scale", "64", "64", "--anchor-scales", "64"]);
    assert!(ran.succeeded().contains("have no anchor with an IoU of 0.5"), "{ran:?}");
    assert!(count(&report, "anchors_miss_objects") > 3);
    assert_eq!(check(&place, &["--scale", "64", "64", "--anchor-scales", "64", "--strict"]).0.code, Some(1));
}

#[test]
fn files_that_are_not_coco_annotations_are_errors() {
    let place = Place::detection(1);
    let path = place.path("data/annotations/instances_train.json");
    for (text, part) in [("[", "expected an object"), ("{", "it is cut off"), ("{\"images\": []}", "the list `categories` is missing")] {
        fs::write(&path, text).expect("annotations");
        check(&place, &[]).0.failed(&["instances_train.json", part]);
    }
    let none = place.path("none.json");
    run(CHECK, &["--coco", &none, "--images", &place.path("data")]).failed(&["none.json"]);
    assert_eq!(run(CHECK, &["--coco", &none]).code, Some(2), "wrong usage");
}

#[test]
fn real_annotations_are_ready_for_training() {
    let Some(root) = shared_root() else {
        println!("not run: the annotations lie in $VMAMBA_SHARED/data, which is not set");
        return;
    };
    for (set, split, classes) in [("nuclei_256", "val", "1"), ("coco_mini_cc", "val2017", "80")] {
        let folder = root.join("data").join(set);
        let file = folder.join(format!("annotations/instances_{split}.json"));
        let ran =
            run(CHECK, &["--coco", &file.to_string_lossy(), "--images", &folder.join(split).to_string_lossy(), "--num-classes", classes]);
        assert!(ran.succeeded().contains("ready for training: 0 errors"), "{set}: {ran:?}");
    }
}
