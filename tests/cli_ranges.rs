//! Every number that a program takes has a range, and a value outside it ends the program before any work.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::tool::{Place, Ran, executable, program, run};

#[test]
fn a_size_beyond_every_image_is_wrong_usage_in_every_program_with_a_size() {
    let photo = "photo.png";
    let many = "100000";
    for (program, arguments) in [
        (program::ACTIVATION, vec![photo, "--model", "resnet50", "--size", many]),
        (program::ERF, vec!["--models", "resnet50", "--size", many]),
        (program::SCALING_STUDY, vec!["--models", "resnet50", "--sides", many]),
        (program::BENCH_PEERS, vec!["--sides", many]),
        (program::BENCH_PEERS, vec!["--segment-side", many]),
        (program::BENCH_PEERS, vec!["--detect-size", "800", many]),
        (program::GPU_CHECK, vec!["--sides", many]),
        (program::GPU_CHECK, vec!["--memory-size", "32", many]),
        (program::TEST_CLS, vec!["--model", "resnet50", "--checkpoint", "a.pth", "--data", ".", "--size", many]),
        (program::CHECK_DATA, vec!["--coco", "a.json", "--images", ".", "--scale", "1333", many]),
    ] {
        wrong_usage(&run(program, &arguments), many);
    }
}

#[test]
fn a_score_or_opacity_outside_0_to_1_is_wrong_usage() {
    for value in ["7", "-0.5", "NaN"] {
        wrong_usage(&run(program::TEST_DET, &["a.safetensors", &format!("--score={value}")]), value);
        wrong_usage(&run(program::PREDICT, &["a.safetensors", "a.png", &format!("--score={value}")]), value);
        wrong_usage(&run(program::PREDICT, &["a.safetensors", "a.png", &format!("--alpha={value}")]), value);
    }
}

#[test]
fn thousands_of_threads_are_refused() {
    let workers = ["--model", "resnet50", "--checkpoint", "a.pth", "--data", ".", "--workers", "100000"];
    wrong_usage(&run(program::TEST_CLS, &workers), "100000");
    let place = Place::new(1);
    place.train_with(program::TRAIN_SEG, "run", &["--set", "data.workers=1000000"]).failed(&["data.workers", "1024", "1000000"]);
    for threads in ["100000", "many", "-1"] {
        let ran: Ran = Command::new(executable(program::CHECK_DATA))
            .args(["--scenes", "1"])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .expect("the program can be started")
            .into();
        ran.failed(&["RAYON_NUM_THREADS", "from 0 to 1024", threads]);
    }
}

#[test]
fn a_setting_outside_its_range_is_refused_before_any_file_is_written() {
    let place = Place::new(1);
    place.train_with(program::TRAIN_SEG, "run", &["--set", "test.mode.slide={ crop = [32, 32], stride = [33, 1] }"]).failed(&[
        "tiny.toml",
        "test.mode.slide",
        "stride must be at least 1",
        "[33, 1]",
    ]);
    place.train_with(program::TRAIN_SEG, "run", &["--set", "model.backbone.in_chans=1"]).failed(&["model.backbone.in_chans", "RGB"]);
    assert!(!Path::new(&place.path("run")).exists());
}

#[test]
fn freezing_every_parameter_is_refused() {
    let place = Place::new(1);
    let ran = place.train_with(program::TRAIN_SEG, "run", &["--set", "train.freeze=[\"\"]"]);
    ran.failed(&["train.freeze", "nothing is left to train"]);
}

#[test]
fn every_number_option_of_the_programs_has_a_range() {
    // Seeds may have any value.
    let free = ["seed", "scene"];
    let mut without = Vec::new();
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = fs::read_to_string(&file).expect("a source file");
        // An attribute may span lines; it ends where the field begins.
        let mut attribute = String::new();
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[arg(") {
                attribute.clear();
            }
            if line.starts_with("#[arg(") || !attribute.is_empty() {
                attribute.push_str(line);
            }
            let Some((name, kind)) = line.trim_start_matches("pub ").split_once(": ").filter(|_| !attribute.is_empty()) else { continue };
            if attribute.trim_end().ends_with(']') || line.ends_with(',') {
                let numeric = ["usize", "u32", "u64", "i64", "f32", "f64"].iter().any(|number| kind.contains(number));
                if numeric && !attribute.contains("value_parser") && !free.contains(&name) {
                    without.push(format!("{}: {name}", file.display()));
                }
                attribute.clear();
            }
        }
    }
    assert!(without.is_empty(), "number options without a range: {without:#?}");
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder of the programs") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[track_caller]
fn wrong_usage(ran: &Ran, value: &str) {
    assert_eq!(ran.code, Some(2), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains(value), "{}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}
