//! Wrong input of the segmentation programs: each mistake gives exit code 1 and one error that names the file and the mistake, and no data
//! are lost.

use std::fs;
use std::path::Path;
use std::process::Command;

use image::{GrayImage, Luma, Rgb, RgbImage};
use tests::tool::{CLAIMING_PNG, Place, Ran, executable, program, run};

const TRAIN: &str = program::TRAIN_SEG;
const TEST: &str = program::TEST_SEG;

fn train(place: &Place, more: &[&str]) -> Ran {
    place.train_with(TRAIN, "run", more)
}

/// Name of a training picture and its label map.
fn sample(place: &Place) -> (String, String) {
    (place.path("data/images/training/scene_000001.png"), place.path("data/annotations/training/scene_000001.png"))
}

#[test]
fn a_missing_label_map_is_an_error_and_a_missing_image_is_not() {
    let place = Place::new(2);
    let (image, labels) = sample(&place);
    let kept = fs::read(&labels).expect("labels");
    fs::remove_file(&labels).expect("labels");
    train(&place, &[]).failed(&["scene_000001.png", "no label map"]);
    fs::write(&labels, kept).expect("labels");
    fs::remove_file(&image).expect("an image");
    fs::create_dir(&image).expect("a folder in its place");
    // A folder whose name looks like a picture is ignored.
    train(&place, &[]).succeeded();
}

#[test]
fn an_unreadable_image_is_an_error() {
    let place = Place::new(2);
    fs::write(sample(&place).0, b"<html>404</html>").expect("an image");
    train(&place, &[]).failed(&["scene_000001.png"]);
}

#[test]
fn an_image_that_claims_a_huge_size_is_named_in_training() {
    let place = Place::new(2);
    fs::write(sample(&place).0, CLAIMING_PNG).expect("an image");
    train(&place, &[]).failed(&["scene_000001.png", "200000x200000", "--max-pixels"]);
}

#[test]
fn a_truncated_jpeg_is_an_error() {
    let place = Place::new(2);
    let (image, _) = sample(&place);
    let jpeg = image.replace(".png", ".jpg");
    image::open(&image).expect("an image").save(&jpeg).expect("a JPEG");
    fs::remove_file(&image).expect("an image");
    let bytes = fs::read(&jpeg).expect("a JPEG");
    fs::write(&jpeg, &bytes[..bytes.len() * 2 / 3]).expect("a shorter JPEG");
    train(&place, &[]).failed(&["scene_000001.jpg", "truncated"]);
}

#[test]
fn an_image_and_a_label_map_of_different_size_are_an_error() {
    let place = Place::new(2);
    RgbImage::from_pixel(30, 32, Rgb([1, 2, 3])).save(sample(&place).0).expect("an image");
    train(&place, &[]).failed(&["scene_000001.png", "30x32", "32x32"]);
}

#[test]
fn a_label_outside_the_class_range_is_an_error() {
    let place = Place::new(2);
    let mut labels = GrayImage::from_pixel(32, 32, Luma([1]));
    labels.put_pixel(5, 7, Luma([99]));
    labels.save(sample(&place).1).expect("labels");
    train(&place, &[]).failed(&["annotations/training/scene_000001.png", "label 98", "column 5, row 7", "8 classes"]);
}

#[test]
fn an_empty_folder_and_a_missing_one_are_errors() {
    let place = Place::new(2);
    fs::remove_dir_all(place.path("data/images/training")).expect("images");
    train(&place, &[]).failed(&["images/training", "no such folder"]);
    fs::create_dir(place.path("data/images/training")).expect("a folder");
    train(&place, &[]).failed(&["images/training", "no image"]);
    train(&place, &["--data", &place.path("nowhere")]).failed(&["nowhere"]);
}

#[test]
fn a_missing_class_list_is_an_error() {
    let place = Place::new(2);
    fs::remove_file(place.path("data/objectInfo.csv")).expect("the class list");
    train(&place, &[]).failed(&["objectInfo.csv"]);
}

#[test]
fn a_missing_pretrained_file_stops_the_run() {
    let place = Place::new(2);
    train(&place, &["--set", "init=checkpoints/none.pth"]).failed(&["init", "checkpoints/none.pth"]);
    assert!(!Path::new(&place.path("run")).exists(), "nothing was begun");
}

#[test]
fn a_checkpoint_of_another_model_stops_the_run_and_the_evaluation() {
    let place = Place::new(2);
    train(&place, &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    let init = format!("init={checkpoint}");
    let other = place.path("other");
    let config = place.config.to_string_lossy().into_owned();
    let ran = run(TRAIN, &["--config", &config, "--out", &other, "--set", &init, "--set", "model.backbone.dims=16"]);
    // The error shows both shapes of the first tensor that does not fit.
    ran.failed(&["last.safetensors", "[8", "[16"]);
    let text = fs::read_to_string(&config).expect("the configuration").replace("dims = 8", "dims = 16");
    fs::write(&config, text).expect("the configuration");
    run(TEST, &["--config", &config, &checkpoint]).failed(&["last.safetensors", "[8", "[16"]);
}

#[test]
fn a_run_of_another_model_is_not_resumed() {
    let place = Place::new(2);
    train(&place, &[]).succeeded();
    train(&place, &["--resume", "--set", "model.backbone.dims=16"]).failed(&["last.safetensors", "[8", "[16"]);
    // The checkpoint still works.
    run(TEST, &[place.path("run/last.safetensors")]).succeeded();
}

#[test]
fn a_loss_that_is_not_finite_names_the_newest_checkpoint_only_if_there_is_one() {
    let place = Place::new(2);
    let diverge = ["--set", "train.optimizer.lr=1000", "--set", "train.iterations=9", "--set", "train.val_interval=99"];
    let fresh = place.train_with(TRAIN, "fresh", &diverge);
    fresh.failed(&["is not finite", "non_finite.json", "no checkpoint has been saved yet"]);
    assert!(!Path::new(&place.path("fresh/last.safetensors")).exists());

    train(&place, &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    let before = fs::read(&checkpoint).expect("a checkpoint");
    train(&place, &[&["--resume"], &diverge[..]].concat())
        .failed(&["is not finite", &format!("the newest good checkpoint is {checkpoint}")]);
    assert!(fs::read(&checkpoint).expect("a checkpoint") == before, "the checkpoint is unchanged");
}

#[test]
fn a_corrupt_checkpoint_is_an_error() {
    let place = Place::new(2);
    train(&place, &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    let bytes = fs::read(&checkpoint).expect("a checkpoint");
    let cut = place.path("cut.safetensors");
    for length in [0, 3, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&cut, &bytes[..length]).expect("a shorter checkpoint");
        run(TEST, &[&cut]).failed(&["cut.safetensors"]);
    }
    let mut wrong = bytes.clone();
    wrong[0..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&cut, wrong).expect("a wrong checkpoint");
    run(TEST, &[&cut]).failed(&["cut.safetensors"]);
    fs::write(&cut, "a text").expect("a text");
    run(TEST, &[&cut]).failed(&["cut.safetensors"]);
    run(TEST, &[place.path("none.safetensors")]).failed(&["none.safetensors"]);
    run(TEST, &[place.path("data")]).failed(&["data"]);
}

#[test]
fn a_typo_in_a_configuration_is_explained() {
    let place = Place::new(2);
    let text = fs::read_to_string(&place.config).expect("the configuration");
    for (right, wrong, parts) in [
        ("batch_size", "batchsize", ["train", "`batchsize`", "`batch_size`"]),
        ("[train.optimizer]\nlr", "[train.optimizer]\nlearning_rate", ["train.optimizer", "`learning_rate`", "lr"]),
        ("forward_type", "forwardtype", ["model.backbone", "`forwardtype`", "`forward_type`"]),
        ("[model.auxiliary]\nchannels", "[model.auxiliary]\nchanels", ["model.auxiliary", "`chanels`", "`channels`"]),
        ("kind = \"folder\"", "kind = \"foldr\"", ["data.source", "`foldr`", "`folder`"]),
        ("\"v05_noz\"", "\"v05noz\"", ["model.backbone", "v05noz", "v05"]),
        ("dims = 8", "dims = \"eight\"", ["model.backbone", "dims", "number of channels"]),
        ("[train.schedule]", "[train.schedul]", ["train", "`schedul`", "`schedule`"]),
    ] {
        assert!(text.contains(right), "{right}");
        fs::write(&place.config, text.replacen(right, wrong, 1)).expect("the configuration");
        train(&place, &[]).failed(&[&["tiny.toml"][..], &parts].concat());
    }
    fs::write(&place.config, text.replace("[train]", "[train")).expect("the configuration");
    train(&place, &[]).failed(&["tiny.toml", "TOML"]);
    fs::write(&place.config, text.replace("init = \"random\"\n", "")).expect("the configuration");
    train(&place, &[]).failed(&["tiny.toml", "init"]);
    fs::write(&place.config, format!("base = \"tiny.toml\"\n{text}")).expect("the configuration");
    train(&place, &[]).failed(&["tiny.toml", "lead back"]);
    fs::write(&place.config, format!("base = \"gone.toml\"\n{text}")).expect("the configuration");
    train(&place, &[]).failed(&["gone.toml", "tiny.toml"]);
    fs::write(&place.config, text).expect("the configuration");
    train(&place, &["--set", "train.batch_sise=2"]).failed(&["`batch_sise`", "`batch_size`"]);
    train(&place, &["--set", "train.batch_size"]).failed(&["--set", "key.path=value"]);
    train(&place, &["--set", "train.batch_size=0"]).failed(&["train.batch_size", "from 1 to 65536"]);
}

#[test]
fn an_output_folder_that_is_not_writable_is_an_error() {
    let place = Place::new(2);
    let file = place.path("file");
    fs::write(&file, "in the way").expect("a file");
    let config = place.config.to_string_lossy().into_owned();
    run(TRAIN, &["--config", &config, "--out", &file]).failed(&["--out", "file: it is a file, not a folder"]);
    run(TRAIN, &["--config", &config, "--out", &format!("{file}/inside")]).failed(&["--out", "inside"]);
    assert_eq!(fs::read_to_string(&file).expect("the file"), "in the way");
}

/// Runs the training program with a limit on the size of files in KiB, so that a write fails as on a full disk.
#[cfg(target_os = "linux")]
fn train_with_little_space(place: &Place, kib: u64, more: &str) -> Ran {
    let (config, out) = (place.config.to_string_lossy().into_owned(), place.path("run"));
    let train = executable(TRAIN);
    let script = format!("ulimit -f {kib}; exec '{}' --config '{config}' --out '{out}' {more}", train.display());
    Command::new("bash").args(["-c", &script]).output().expect("bash").into()
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_while_saving_keeps_the_checkpoint_that_was_there() {
    let place = Place::new(2);
    train(&place, &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    let before = fs::read(&checkpoint).expect("a checkpoint");
    let three_quarters = before.len() as u64 * 3 / 4 / 1024;
    let ran = train_with_little_space(&place, three_quarters, "--resume --set train.iterations=4");
    ran.failed(&["last.safetensors"]);
    assert!(fs::read(&checkpoint).expect("the checkpoint") == before, "it is as it was");
    let left = fs::read_dir(place.path("run")).expect("the run").filter_map(Result::ok).map(|entry| entry.file_name());
    let left: Vec<String> = left.filter_map(|name| name.into_string().ok()).filter(|name| name.contains(".saving")).collect();
    assert!(left.is_empty(), "no half-written file stays: {left:?}");
    // With space again, the run goes on from there.
    assert!(train(&place, &["--resume", "--set", "train.iterations=4"]).succeeded().contains("resumed after iteration 2"));
}

#[test]
fn data_for_another_number_of_classes_are_not_evaluated() {
    let place = Place::new(2);
    train(&place, &[]).succeeded();
    let list = fs::read_to_string(place.path("data/objectInfo.csv")).expect("the class list");
    fs::write(place.path("data/objectInfo.csv"), list + "9,unseen,1,2,3\n").expect("the class list");
    run(TEST, &[place.path("run/last.safetensors")]).failed(&["8 classes", "9"]);
}

#[test]
fn without_classes_the_list_of_the_folder_counts_and_the_program_says_so() {
    let place = Place::new(2);
    let config = fs::read_to_string(&place.config).expect("the configuration");
    fs::write(&place.config, config.replace("classes = \"objectInfo.csv\"\n", "")).expect("the configuration");
    let ran = train(&place, &[]);
    assert!(ran.succeeded().contains("objectInfo.csv), 8 classes"), "{}", ran.stdout);
    // A folder of unknown classes is not taken for ADE20K.
    fs::remove_file(place.path("data/objectInfo.csv")).expect("the class list");
    train(&place, &["--overwrite"]).failed(&["data.source.classes", "has no class list", "ade20k"]);
    let checked = run(program::CHECK_DATA, &["--data", &place.path("data"), "--reduce-zero-label"]);
    assert!(checked.code == Some(1) && checked.stdout.contains("has no class list"), "{}", checked.stdout);
}

#[test]
fn a_training_set_of_one_class_is_refused_by_training_and_check() {
    let place = Place::new(2);
    let config = fs::read_to_string(&place.config).expect("the configuration");
    fs::write(&place.config, config.replace("reduce_zero_label = true", "reduce_zero_label = false")).expect("the configuration");
    let check = || run(program::CHECK_DATA, &["--data", &place.path("data")]);
    // A list of one class, and masks of 0 and 255: every pixel that counts is of that class, so that any model has an mIoU of 100.
    fs::write(place.path("data/objectInfo.csv"), "Idx,Name\n0,cell\n").expect("the class list");
    for (label, part, remedy) in [
        ((|x| if x < 9 { 255 } else { 0 }) as fn(u32) -> u8, "all labels are 0 or 255", "write the foreground as 1"),
        (|_| 0, "all pixels that are not ignored have the label 0", "0 for the background and 1 for the object"),
    ] {
        ["training", "validation"].iter().for_each(|split| relabel(&place, split, label));
        train(&place, &[]).failed(&["the training data", part, remedy]);
        let checked = check();
        assert!(checked.code == Some(1) && checked.stdout.contains(part), "{}", checked.stdout);
    }
    assert!(!Path::new(&place.path("run")).exists(), "nothing was begun");
    // The remedy is one. A model of two classes can be validated on images of one.
    fs::write(place.path("data/objectInfo.csv"), "Idx,Name\n0,background\n1,cell\n").expect("the class list");
    relabel(&place, "training", |x| u8::from(x < 9));
    train(&place, &[]).succeeded();
    assert_eq!(check().code, Some(0));
}

#[test]
fn a_class_list_that_is_not_understood_is_refused_with_its_line_by_training_and_check() {
    let place = Place::new(2);
    let list = place.path("data/objectInfo.csv");
    let text = fs::read_to_string(&list).expect("the class list");
    for (wrong, part) in
        [(text.replacen("2,", "9,", 1), "no class has the number 2"), (text.replacen("Idx,", "Idx,id,", 1), "`Idx` and `id`")]
    {
        fs::write(&list, wrong).expect("the class list");
        train(&place, &[]).failed(&["objectInfo.csv", "line ", part]);
        run(program::CHECK_DATA, &["--data", &place.path("data"), "--reduce-zero-label"]).failed(&["objectInfo.csv", "line ", part]);
    }
    // The order of the lines is free; a BOM and carriage returns are read over.
    let (header, classes) = text.split_once('\n').expect("a header");
    let reversed: Vec<&str> = classes.lines().rev().collect();
    fs::write(&list, format!("\u{feff}{header}\r\n{}\r\n", reversed.join("\r\n"))).expect("the class list");
    train(&place, &[]).succeeded();
    let figures = place.path("figures.json");
    run(TEST, &[&place.path("run/last.safetensors"), "--json", &figures]).succeeded();
    let figures: serde_json::Value = serde_json::from_slice(&fs::read(&figures).expect("figures")).expect("JSON");
    let names: Vec<&str> = figures["classes"].as_array().expect("classes").iter().filter_map(serde_json::Value::as_str).collect();
    let expected: Vec<&str> = classes.lines().filter_map(|line| line.split(',').nth(1)).collect();
    assert_eq!(names, expected);
}

/// Replaces every label map of a split.
fn relabel(place: &Place, split: &str, label: impl Fn(u32) -> u8) {
    for entry in fs::read_dir(place.path(&format!("data/annotations/{split}"))).expect("label maps") {
        GrayImage::from_fn(32, 32, |x, _| Luma([label(x)])).save(entry.expect("an entry").path()).expect("labels");
    }
}

#[test]
fn labels_that_nothing_can_be_learned_from_are_refused_by_training_and_check() {
    let place = Place::new(2);
    let config = fs::read_to_string(&place.config).expect("the configuration");
    let check = |reduce: bool| {
        let data = place.path("data");
        run(program::CHECK_DATA, &[&["--data", data.as_str()][..], if reduce { &["--reduce-zero-label"] } else { &[] }].concat())
    };
    for (reduce, label, part) in [
        (true, (|_| 255) as fn(u32) -> u8, "every pixel of every label map is ignored"),
        (true, |_| 0, "every pixel of every label map is ignored"),
        (false, |_| 255, "every pixel of every label map is ignored"),
        (false, |x| if x < 9 { 255 } else { 0 }, "only class 0 would be learned"),
    ] {
        fs::write(&place.config, config.replace("reduce_zero_label = true", &format!("reduce_zero_label = {reduce}"))).expect("a file");
        for split in ["training", "validation"] {
            relabel(&place, "training", |x| (x / 8) as u8 + 1);
            relabel(&place, "validation", |x| (x / 8) as u8 + 1);
            relabel(&place, split, label);
            train(&place, &["--overwrite"]).failed(&[&format!("the {split} data"), part]);
            let checked = check(reduce);
            assert_eq!(checked.code, Some(1), "{}", checked.stdout);
            assert!(checked.stdout.contains(part) && checked.stdout.contains("not ready for training"), "{}", checked.stdout);
        }
    }
    assert!(!Path::new(&place.path("run")).exists(), "nothing was begun");
    relabel(&place, "training", |x| (x / 8) as u8);
    relabel(&place, "validation", |x| (x / 8) as u8);
    train(&place, &[]).succeeded();
    assert_eq!(check(false).code, Some(0));
}

#[test]
fn a_batch_of_one_image_is_refused_where_a_batch_norm_would_see_one_value() {
    let place = Place::new(1);
    // Accumulation adds gradients; every batch is normalised alone.
    for accumulation in ["train.accumulation=1", "train.accumulation=4"] {
        let one = ["--set", "train.batch_size=1", "--set", accumulation];
        train(&place, &one).failed(&["train.batch_size to 2 or more", "single value per channel", "train.freeze_norms"]);
    }
    assert!(!Path::new(&place.path("run")).exists(), "nothing was begun");
    // The remedies are remedies: two images, frozen norms, or pooled maps and crops of more than one position.
    train(&place, &["--set", "train.batch_size=2"]).succeeded();
    let frozen = ["--overwrite", "--set", "train.batch_size=1", "--set", "train.freeze_norms=true"];
    train(&place, &frozen).succeeded();
    let larger = ["--set", "model.head.pool_scales=[2,3]", "--set", "data.train.crop.size=[64,64]"];
    train(&place, &[&["--overwrite", "--set", "train.batch_size=1"][..], &larger].concat()).succeeded();
    // Prediction is with the running statistics, one image at a time.
    run(TEST, &[place.path("run/last.safetensors")]).succeeded();
}

#[test]
fn windows_that_leave_pixels_uncovered_are_refused_before_training() {
    let place = Place::new(2);
    for (crop, stride, part) in
        [("[16,16]", "[17,8]", "stride must be"), ("[0,16]", "[1,8]", "crop must be"), ("[16,16]", "[8,0]", "stride must be")]
    {
        let mode = format!("test.mode={{slide={{crop={crop},stride={stride}}}}}");
        train(&place, &["--set", &mode]).failed(&["test.mode.slide", part]);
    }
    assert!(!Path::new(&place.path("run")).exists(), "nothing was begun");
}

#[test]
fn two_images_of_one_stem_are_refused_by_training_and_check() {
    let place = Place::new(2);
    let (image, _) = sample(&place);
    image::open(&image).expect("an image").save(image.replace(".png", ".jpg")).expect("a JPEG");
    train(&place, &[]).failed(&["scene_000001.jpg and scene_000001.png", "share a label map"]);
    let checked = run(program::CHECK_DATA, &["--data", &place.path("data"), "--reduce-zero-label"]);
    assert!(checked.code == Some(1) && checked.stdout.contains("scene_000001.jpg and scene_000001.png"), "{}", checked.stdout);
}

#[test]
fn a_run_is_not_resumed_on_data_with_its_classes_in_another_order() {
    let place = Place::new(2);
    train(&place, &[]).succeeded();
    let list = place.path("data/objectInfo.csv");
    let text = fs::read_to_string(&list).expect("the class list");
    // The numbers of the first two classes change places.
    let swapped = text.replace("\n1,", "\n0,").replace("\n2,", "\n1,").replace("\n0,", "\n2,");
    fs::write(&list, swapped).expect("the class list");
    train(&place, &["--resume", "--set", "train.iterations=4"]).failed(&["last.safetensors", "class 0 was"]);
    fs::write(&list, text).expect("the class list");
    train(&place, &["--resume", "--set", "train.iterations=4"]).succeeded();
}
