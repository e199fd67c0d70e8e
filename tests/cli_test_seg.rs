//! Evaluation of a segmentor: classes in another order, label maps that are written, sliding windows, foreign checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use image::{GrayImage, Luma};
use serde_json::Value;
use tests::tool::{Place, Ran, program, run};

const TRAIN: &str = program::TRAIN_SEG;
const TEST: &str = program::TEST_SEG;

/// A place with a trained model; the path of its checkpoint.
fn trained() -> (Place, String) {
    let place = Place::new(2);
    place.train_with(TRAIN, "run", &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    (place, checkpoint)
}

/// Evaluates; returns the JSON of the figures and the outcome.
fn test(place: &Place, arguments: &[&str]) -> (Value, Ran) {
    let json = place.path("figures.json");
    let ran = run(TEST, &[arguments, &["--json", &json]].concat());
    ran.succeeded();
    (serde_json::from_slice(&fs::read(json).expect("figures")).expect("JSON"), ran)
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Copies the data of a place to `to` and changes every label of the validation set.
fn copy_data(place: &Place, to: &str, change: impl Fn(u8) -> u8) {
    let (from, to) = (PathBuf::from(place.path("data")), PathBuf::from(place.path(to)));
    for file in files(&from) {
        let target = to.join(file.strip_prefix(&from).expect("a path below the data"));
        fs::create_dir_all(target.parent().expect("a folder")).expect("a folder");
        fs::copy(&file, &target).expect("a copy");
    }
    for file in files(&to.join("annotations/validation")) {
        let mut labels = image::open(&file).expect("labels").into_luma8();
        labels.pixels_mut().for_each(|Luma([label])| *label = change(*label));
        labels.save(&file).expect("labels");
    }
}

#[test]
fn classes_in_another_order_are_mapped_by_name_and_other_classes_are_refused() {
    let (place, checkpoint) = trained();
    let (expected, ran) = test(&place, &[&checkpoint]);
    assert!(!ran.stdout.contains("another order"), "{}", ran.stdout);
    // The first class moves to the end, in the list and in the label maps, where 0 is ignored.
    copy_data(&place, "moved", |label| match label {
        0 => 0,
        1 => 8,
        other => other - 1,
    });
    let list = fs::read_to_string(place.path("data/objectInfo.csv")).expect("the class list");
    let names: Vec<&str> = list.lines().skip(1).filter_map(|line| line.split(',').nth(1)).collect();
    let moved: Vec<&str> = names[1..].iter().chain(&names[..1]).copied().collect();
    let write = |names: &[&str]| {
        let lines: Vec<String> = names.iter().enumerate().map(|(index, name)| format!("{},{name}\n", index + 1)).collect();
        fs::write(place.path("moved/objectInfo.csv"), format!("Idx,Name\n{}", lines.concat())).expect("the class list");
    };
    write(&moved);
    let out = place.path("out");
    let (figures, ran) = test(&place, &[&checkpoint, "--data", &place.path("moved"), "--out", &out]);
    assert!(ran.stdout.contains("another order"), "{}", ran.stdout);
    assert_eq!((&figures["classes"], &figures["metrics"]), (&expected["classes"], &expected["metrics"]));
    // The label maps have the numbers of these data: as annotations they are without a fault.
    assert_eq!(miou_of_own_predictions(&place, &checkpoint, "moved", &out), 1.0);

    let others: Vec<&str> = moved[1..].iter().copied().chain(["zeppelin"]).collect();
    write(&others);
    run(TEST, &[&checkpoint, "--data", &place.path("moved")]).failed(&[
        "does not know the class \"zeppelin\"",
        "moved",
        "last.safetensors",
    ]);
}

/// Makes the label maps in `out` the annotations of a copy of `data`, and evaluates on it.
fn miou_of_own_predictions(place: &Place, checkpoint: &str, data: &str, out: &str) -> f64 {
    let folder = PathBuf::from(place.path(data)).join("annotations/validation");
    for file in files(&PathBuf::from(out).join("labels")) {
        fs::copy(&file, folder.join(file.file_name().expect("a name"))).expect("a copy");
    }
    let (figures, _) = test(place, &[checkpoint, "--data", &place.path(data)]);
    figures["metrics"]["mIoU"].as_f64().expect("an mIoU")
}

#[test]
fn label_maps_that_are_written_are_what_training_reads() {
    let (place, checkpoint) = trained();
    let (out, predicted) = (place.path("out"), place.path("predicted"));
    run(TEST, &[&checkpoint, "--out", &out]).succeeded();
    let maps = files(Path::new(&format!("{out}/labels")));
    assert_eq!(maps.len(), 4);
    // The data have reduce_zero_label: class 0 is 1 in a file.
    for map in &maps {
        let labels = image::open(map).expect("labels").into_luma8().into_raw();
        assert!(labels.iter().all(|label| (1..=8).contains(label)), "{labels:?}");
        // `predict` writes the same map.
        let name = map.file_stem().expect("a name").to_string_lossy();
        let photo = place.path(&format!("data/images/validation/{name}.png"));
        run(program::PREDICT, &[&checkpoint, &photo, "--out", &predicted]).succeeded();
        let own = image::open(format!("{predicted}/{name}_labels.png")).expect("labels").into_luma8().into_raw();
        assert_eq!(own, labels);
    }
    copy_data(&place, "own", |label| label);
    assert_eq!(miou_of_own_predictions(&place, &checkpoint, "own", &out), 1.0);
}

#[test]
fn pictures_and_label_maps_of_subfolders_are_in_subfolders() {
    let (place, checkpoint) = trained();
    copy_data(&place, "deep", |label| label);
    // One name in two subfolders.
    for kind in ["images", "annotations"] {
        let folder = PathBuf::from(place.path(&format!("deep/{kind}/validation")));
        for (file, city) in files(&folder).iter().zip(["a", "b", "c", "d"]) {
            fs::create_dir(folder.join(city)).expect("a folder");
            fs::rename(file, folder.join(city).join("street.png")).expect("a file");
        }
    }
    let out = place.path("out");
    let (figures, _) = test(&place, &[&checkpoint, "--data", &place.path("deep"), "--out", &out]);
    assert_eq!(figures["images"], 4);
    for kind in ["pictures", "labels"] {
        for city in ["a", "b", "c", "d"] {
            assert!(Path::new(&format!("{out}/{kind}/{city}/street.png")).is_file(), "{kind}/{city}");
        }
    }
}

#[test]
fn slide_works_on_the_image_at_its_own_size() {
    let (place, checkpoint) = trained();
    let labels = |out: &str, arguments: &[&str]| -> Vec<Vec<u8>> {
        let out = place.path(out);
        let (figures, _) = test(&place, &[arguments, &[&checkpoint, "--out", &out]].concat());
        assert!(figures["mode"]["slide"].is_object(), "{}", figures["mode"]);
        assert_eq!(figures["configuration"]["data"]["test"]["resize"], Value::Null);
        let mut maps = files(Path::new(&format!("{out}/labels")));
        maps.sort();
        maps.iter().map(|map| image::open(map).expect("labels").into_luma8().into_raw()).collect()
    };
    // A configuration that shrinks the image, as the published ones do.
    let text = fs::read_to_string(&place.config).expect("the configuration");
    let mut table: toml::Table = text.parse().expect("TOML");
    let crop = table["data"]["train"]["crop"]["size"].clone();
    let side = crop[0].as_integer().expect("a side");
    let set = |table: &mut toml::Table, resize: Option<[i64; 2]>, slide: bool| {
        let test = table["data"]["test"].as_table_mut().expect("a table");
        match resize {
            Some(limits) => test.insert("resize".into(), limits.to_vec().into()),
            None => test.remove("resize"),
        };
        if slide {
            let stride = vec![side * 2 / 3; 2];
            let mode = format!("mode = {{ slide = {{ crop = {crop}, stride = {stride:?} }} }}");
            table.insert("test".into(), mode.parse::<toml::Table>().expect("TOML").into());
        }
    };
    let path = |name: &str| place.path(&format!("{name}.toml"));
    set(&mut table, Some([32, 32]), false);
    fs::write(path("shrunk"), table.to_string()).expect("a configuration");
    set(&mut table, None, true);
    fs::write(path("slide"), table.to_string()).expect("a configuration");
    assert_eq!(labels("a", &["--slide", "--config", &path("shrunk")]), labels("b", &["--config", &path("slide")]));
}

#[test]
fn a_foreign_checkpoint_takes_its_classes_from_the_folder_of_the_data() {
    let (place, checkpoint) = trained();
    let foreign = place.path("foreign.safetensors");
    run(program::EXPORT_WEIGHTS, &[&checkpoint, &foreign]).succeeded();
    let text = fs::read_to_string(&place.config).expect("the configuration");
    let elsewhere = place.path("elsewhere.toml");
    fs::write(&elsewhere, text.replace(&place.path("data"), &place.path("nowhere"))).expect("a configuration");
    let (figures, _) = test(&place, &[&foreign, "--config", &elsewhere, "--data", &place.path("data")]);
    let (expected, _) = test(&place, &[&checkpoint]);
    assert_eq!((&figures["classes"], &figures["metrics"]), (&expected["classes"], &expected["metrics"]));
    run(TEST, &[&foreign, "--config", &elsewhere]).failed(&["nowhere"]);
}

#[test]
fn data_without_a_labelled_pixel_have_no_figure() {
    let (place, checkpoint) = trained();
    copy_data(&place, "ignored", |_| 255);
    run(TEST, &[&checkpoint, "--data", &place.path("ignored")]).failed(&["no labelled pixel"]);
    // One labelled pixel is enough.
    let map = &files(Path::new(&place.path("ignored/annotations/validation")))[0];
    GrayImage::from_fn(32, 32, |x, y| Luma([if (x, y) == (0, 0) { 1 } else { 255 }])).save(map).expect("labels");
    test(&place, &[&checkpoint, "--data", &place.path("ignored")]);
}

#[test]
fn the_list_of_a_folder_serves_a_checkpoint_that_names_another_file() {
    let (place, checkpoint) = trained();
    let (expected, _) = test(&place, &[&checkpoint]);
    copy_data(&place, "other", |label| label);
    let list = fs::read_to_string(place.path("data/objectInfo.csv")).expect("the class list");
    let names: Vec<&str> = list.lines().skip(1).filter_map(|line| line.split(',').nth(1)).collect();
    fs::remove_file(place.path("other/objectInfo.csv")).expect("the class list");
    fs::write(place.path("other/classes.txt"), names.join("\n")).expect("a class list");
    let (figures, ran) = test(&place, &[&checkpoint, "--data", &place.path("other")]);
    assert_eq!(figures["metrics"], expected["metrics"]);
    assert!(ran.stdout.contains("other/classes.txt"), "{}", ran.stdout);
    // Without a list there is nothing to compare.
    fs::remove_file(place.path("other/classes.txt")).expect("a class list");
    run(TEST, &[&checkpoint, "--data", &place.path("other")]).failed(&["other", "has no class list"]);
}

#[test]
fn a_class_list_from_elsewhere_is_named_beside_the_one_of_the_folder() {
    let (place, checkpoint) = trained();
    let list = place.path("data/objectInfo.csv");
    let elsewhere = place.path("list.csv");
    fs::copy(&list, &elsewhere).expect("a copy");
    let text = fs::read_to_string(&list).expect("the class list");
    fs::write(&list, text.replacen(",sky,", ",heaven,", 1)).expect("the class list");
    let (_, ran) = test(&place, &[&checkpoint, "--set", &format!("data.source.classes={elsewhere}")]);
    assert!(ran.stdout.contains("list.csv; the names in") && ran.stdout.contains("objectInfo.csv differ"), "{}", ran.stdout);
}

#[test]
fn a_published_row_is_printed_for_its_own_way_of_testing_only() {
    let place = Place::new(1);
    let text = fs::read_to_string(&place.config).expect("the configuration");
    fs::write(&place.config, text.replace("\"tiny\"", "\"upernet_vmamba_tiny_s1l8_512\"")).expect("the configuration");
    place.train_with(TRAIN, "run", &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    let whole = run(TEST, &[&checkpoint]);
    assert!(whole.succeeded().contains("published"), "{}", whole.stdout);
    let slide = run(TEST, &[checkpoint.as_str(), "--slide"]);
    assert!(!slide.succeeded().contains("published"), "{}", slide.stdout);
}
