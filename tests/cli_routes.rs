//! `routes` as a user runs it: figures over a plain grid, a scene and a photo, the orders in routes.json, and wrong arguments.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::tool::{Ran, executable, program, run};

const PROGRAM: &str = program::ROUTES;

fn routes(out: &Path, arguments: &[&str]) -> Ran {
    run(PROGRAM, &[&["--out", &out.to_string_lossy()], arguments].concat())
}

fn document(out: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(out.join("routes.json")).expect("routes.json")).expect("JSON")
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list").iter().map(|number| number.as_u64().expect("a number")).collect()
}

/// Number of frames of an animated PNG; `None` for a still picture.
fn frames(path: &Path) -> Option<u32> {
    let file = std::io::BufReader::new(fs::File::open(path).expect("a picture"));
    let reader = png::Decoder::new(file).read_info().expect("PNG");
    reader.info().animation_control().map(|control| control.num_frames)
}

#[test]
fn every_pattern_has_figures_and_orders_on_a_rectangular_grid() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("deep/er");
    let printed = routes(&out, &["--grid", "2x3", "--pattern", "all", "--query", "0,2"]).succeeded().to_owned();
    for (name, read, animated) in [("cross", 6, 7), ("unidirectional", 3, 5), ("bidirectional", 6, 6), ("cascade", 6, 6)] {
        assert!(printed.contains(&format!("{name}: the result of the query depends on {read} of 6 patches")), "{printed}");
        assert_eq!(frames(&out.join(format!("{name}.png"))), None);
        assert_eq!(frames(&out.join(format!("{name}_context.png"))), Some(animated), "{name}");
        let svg = fs::read_to_string(out.join(format!("{name}.svg"))).expect("SVG");
        assert!(svg.contains(&format!("{name} scan, 2 x 3 patches, query at row 0, column 2")), "{svg}");
    }
    let document = document(&out);
    let cross = &document["patterns"]["cross"]["walks"];
    assert_eq!(numbers(&cross[1]["sequences"][0]), [0, 3, 1, 4, 2, 5]);
    assert_eq!(numbers(&cross[3]["sequences"][0]), [5, 2, 4, 1, 3, 0]);
    assert_eq!(numbers(&cross[2]["visited"]), [5, 4, 3, 2]);
    assert_eq!(document["patterns"]["cascade"]["walks"][0]["sequences"].as_array().expect("rows").len(), 2);
    assert_eq!(numbers(&document["query"]), [0, 2]);
}

#[test]
fn a_scene_and_a_photo_lie_under_the_patches() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [plain, scene, photo] = ["plain", "scene", "photo"].map(|name| folder.path().join(name));
    routes(&plain, &["--grid", "4x6"]).succeeded();
    routes(&scene, &["--grid", "4x6", "--scene", "3"]).succeeded();
    let file = folder.path().join("own.png");
    image::RgbImage::from_pixel(31, 70, image::Rgb([0, 0, 255])).save(&file).expect("a photo");
    routes(&photo, &["--grid", "4x6", "--photo", &file.to_string_lossy()]).succeeded();
    let pictures = [&plain, &scene, &photo].map(|out| fs::read(out.join("cross.png")).expect("a picture"));
    assert!(pictures[0] != pictures[1] && pictures[1] != pictures[2] && pictures[0] != pictures[2]);
    assert_eq!(document(&scene)["under"]["scene"], 3);
}

#[test]
fn wrong_numbers_are_wrong_usage_and_the_error_names_the_range() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (arguments, parts) in [
        (vec!["--grid", "8"], ["--grid", "8x12"]),
        (vec!["--grid", "0x4"], ["--grid 0x4: 0 x 4", "1 to 64"]),
        (vec!["--grid", "65x4"], ["--grid 65x4: 65 x 4", "1 to 64"]),
        (vec!["--grid", "3x5", "--query", "3,0"], ["row 3, column 0 is outside the grid; rows are 0 to 2", "Usage: routes"]),
        (vec!["--query", "-1,0"], ["--query -1,0 with --grid 8x12: row -1, column 0 is outside the grid", "columns 0 to 11"]),
        (vec!["--query", "0,-1"], ["--query 0,-1 with", "row 0, column -1 is outside the grid"]),
        (vec!["--query", "-a,0"], ["--query", "ROW,COLUMN"]),
        (vec!["--query", "1;0"], ["--query", "ROW,COLUMN"]),
        (vec!["--pattern", "zigzag"], ["zigzag", "cascade"]),
        (vec!["--scene", "1", "--photo", "a.png"], ["--scene", "--photo"]),
    ] {
        let ran = routes(&folder.path().join("out"), &arguments);
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.stderr);
        assert!(parts.iter().all(|part| ran.stderr.contains(part)), "{arguments:?}: {}", ran.stderr);
    }
    assert!(!folder.path().join("out").exists(), "nothing is written");
}

#[test]
fn errors_name_unusable_photos_and_folders() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs::write(path("text.png"), "no picture").expect("a file");
    let out = folder.path().join("out");
    routes(&out, &["--photo", &path("none.png")]).failed(&["--photo", "none.png"]);
    routes(&out, &["--photo", &path("text.png")]).failed(&["--photo", "text.png"]);
    routes(&out, &["--photo", &path("")]).failed(&["--photo", "is a folder"]);
    routes(Path::new(&path("text.png/out")), &[]).failed(&["text.png"]);
}

#[test]
fn a_closed_output_pipe_loses_no_figure() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    let mut program = Command::new(executable(PROGRAM));
    program.args(["--grid", "2x3", "--pattern", "all", "--out"]).arg(&out).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().expect("the program can be started");
    drop(child.stdout.take());
    Ran::from(child.wait_with_output().expect("the program ends")).succeeded();
    assert!(out.join("cascade.png").exists() && out.join("routes.json").exists());
}
