//! `activation` as a user runs it: maps of a scan and of attention over a photo and a scene, and wrong arguments.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::tool::{Ran, program, run};

const PROGRAM: &str = program::ACTIVATION;

/// A small model.
const MODEL: &str = "depths = [1, 2]\ndims = 8\nout_indices = [0, 1]\n";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().expect("a temporary folder"));
        fs::write(folder.path("small.toml"), MODEL).expect("the model");
        let photo = image::RgbImage::from_fn(96, 64, |x, y| image::Rgb([(x * 2) as u8, (y * 3) as u8, (x * y % 251) as u8]));
        photo.save(folder.path("photo.png")).expect("the photo");
        folder
    }

    fn path(&self, inner: &str) -> PathBuf {
        self.0.path().join(inner)
    }

    fn activation(&self, out: &str, arguments: &[&str]) -> Ran {
        let (out, model) = (self.path(out), self.path("small.toml"));
        run(PROGRAM, &[&["--out", &out.to_string_lossy(), "--model", &model.to_string_lossy()], arguments].concat())
    }

    fn photo(&self) -> String {
        self.path("photo.png").to_string_lossy().into_owned()
    }
}

/// The program exits with 2 and names the wrong options.
#[track_caller]
fn misused(ran: &Ran, parts: &[&str]) {
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(parts.iter().all(|part| ran.stderr.contains(part)), "{}", ran.stderr);
}

/// Shape and values of a `.npy` file of float32.
fn array(path: &Path) -> (String, Vec<f32>) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let length = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..length]).into_owned();
    (header, bytes[length..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

#[test]
fn a_photo_has_a_map_for_each_route_and_two_runs_write_the_same_bytes() {
    let folder = Folder::new();
    let photo = folder.photo();
    let arguments = [photo.as_str(), "--whole", "--size", "64", "--layer", "1.1", "--query", "0.5,0.5", "--query", "0px,63px"];
    let printed = folder.activation("a", &arguments).succeeded().to_owned();
    assert!(printed.contains("patch row 4, column 6 of 8 x 12"), "{printed}");
    assert!(printed.contains("patch row 7, column 0 of 8 x 12"), "{printed}");
    folder.activation("b", &arguments).succeeded();
    for name in ["query_0.png", "query_0.svg", "query_0_routes.npy", "query_1_all.npy"] {
        let [first, second] = ["a", "b"].map(|out| fs::read(folder.path(out).join(name)).expect("a result"));
        assert_eq!(first, second, "{name}");
    }
    let (header, routes) = array(&folder.path("a/query_0_routes.npy"));
    assert!(header.contains("(4, 8, 12"), "{header}");
    // The route down the columns visits columns right of the query later.
    let read = |route: usize, row: usize, column: usize| routes[(route * 8 + row) * 12 + column] != 0.0;
    assert!(read(0, 0, 11) && !read(0, 4, 7), "along the rows");
    assert!(read(1, 7, 5) && !read(1, 0, 7), "down the columns");
    assert!(read(2, 4, 7) && !read(2, 0, 11), "along the rows, backwards");
    assert!(read(3, 0, 7) && !read(3, 7, 5), "down the columns, backwards");
    let (_, all) = array(&folder.path("a/query_0_all.npy"));
    assert_eq!((all.iter().copied().fold(f32::INFINITY, f32::min), all.iter().copied().fold(0.0, f32::max)), (0.0, 1.0));
    let (header, visited) = array(&folder.path("a/query_0_visited.npy"));
    assert!(header.contains("(4, 8, 12"), "{header}");
    assert!(routes.iter().zip(&visited).all(|(value, visited)| (*visited == 1.0) == (*value != 0.0)));
    // The range below a panel is that of the visited patches in its array.
    let svg = fs::read_to_string(folder.path("a/query_0.svg")).expect("a figure");
    let seen: Vec<f32> = routes[..96].iter().zip(&visited).filter(|(_, visited)| **visited == 1.0).map(|(value, _)| *value).collect();
    let least = seen.iter().copied().fold(f32::INFINITY, f32::min);
    let range = svg.split(">rows</text>").nth(1).and_then(|rest| rest.split("</text>").next()?.rsplit('>').next()).expect("a range");
    let written: f32 = range.split(" to ").next().and_then(|number| number.parse().ok()).expect("a number");
    assert!((written - least).abs() <= least.abs() * 0.005, "{range} for {least}");
    for words in ["hatched: not visited before the query", "between the numbers beneath each panel", "lower", "higher"] {
        assert!(svg.contains(words), "{words}");
    }
    let settings: Value = serde_json::from_str(&fs::read_to_string(folder.path("a/activation.json")).expect("settings")).expect("JSON");
    assert_eq!((&settings["layer"], &settings["mode"], &settings["width"]), (&"1.1".into(), &"CwBw".into(), &96.into()));
}

#[test]
fn options_change_the_maps() {
    let folder = Folder::new();
    let photo = folder.photo();
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for more in [&[][..], &["--mode", "CB"], &["--mode", "ww"], &[], &["--paper-normalisation"], &["--seed", "1"]] {
        let arguments = [&[photo.as_str(), "--size", "64", "--layer", "0.0"], more].concat();
        folder.activation("out", &arguments).succeeded();
        seen.push(array(&folder.path("out/query_0_sum.npy")).1);
    }
    assert_eq!(seen[0], seen[3], "no option, the same map");
    for (one, other) in [(0, 1), (0, 2), (1, 2), (0, 4), (0, 5)] {
        assert_ne!(seen[one], seen[other], "{one} and {other}");
    }
    // On sequences of 16 patches the published computation does not underflow.
    let [exact, clamped] = [&[][..], &["--official-clamp"]].map(|more| {
        folder.activation("short", &[&[photo.as_str(), "--size", "16", "--layer", "0.0"], more].concat()).succeeded();
        array(&folder.path("short/query_0_sum.npy")).1
    });
    let largest = exact.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for (exact, clamped) in exact.iter().zip(&clamped) {
        assert!((exact - clamped).abs() < 1e-4 * largest, "{exact} and {clamped}");
    }
}

#[test]
fn attention_of_a_deit_has_a_map_for_each_head() {
    let folder = Folder::new();
    let model = folder.path("deit.toml");
    fs::write(&model, "family = \"deit\"\nembed_dim = 24\ndepth = 4\nnum_heads = 3\nimage_size = 32\nout_indices = [0, 1, 2, 3]\n")
        .expect("a model");
    let out = folder.path("out");
    let arguments = ["--model", &model.to_string_lossy(), "--out", &out.to_string_lossy(), "--scene", "3", "--size", "64", "--layer", "1"];
    let printed = run(PROGRAM, &arguments).succeeded().to_owned();
    assert!(printed.contains("of 4 x 4"), "{printed}");
    let (header, heads) = array(&out.join("query_0_heads.npy"));
    assert!(header.contains("(3, 4, 4"), "{header}");
    assert!(heads.iter().all(|share| (0.0..=1.0).contains(share)));
    let svg = fs::read_to_string(out.join("query_0.svg")).expect("a figure");
    assert!(svg.contains("normalised: scaled heads") && !svg.contains("not visited"), "{svg}");
    // Options of scans are null in the settings and refused on the command line.
    let settings: Value = serde_json::from_str(&fs::read_to_string(out.join("activation.json")).expect("settings")).expect("JSON");
    for option in ["mode", "official_clamp", "range_of_all_queries"] {
        assert!(settings[option].is_null(), "{option}");
    }
    let (photo, size) = (folder.photo(), ["--size", "40", "--whole"]);
    let whole = run(PROGRAM, &[&arguments[..4], &[photo.as_str()], &size].concat());
    whole.failed(&["60 x 40 pixels", "16 divides", "without --whole it is the central square"]);
    run(PROGRAM, &[&arguments[..4], &[photo.as_str()], &size[..2]].concat()).failed(&["40 x 40 pixels", "16 divides", "change --size"]);
    let with = |more: &[&str]| run(PROGRAM, &[&arguments[..], more].concat());
    misused(&with(&["--mode", "CwBw"]), &["--mode", "deit has attention"]);
    misused(&with(&["--official-clamp"]), &["--official-clamp", "deit has attention"]);
    misused(&with(&["--range-of-all-queries", "--mode", "CB"]), &["--mode, --range-of-all-queries", "deit has attention"]);
}

/// The query is the first patch: reversed routes have visited every patch, forward routes the query alone.
#[test]
fn unvisited_patches_have_no_colour() {
    let folder = Folder::new();
    let (photo, arguments) = (folder.photo(), ["--size", "64", "--layer", "0.0", "--query", "0,0", "--mode", "CB", "--panel", "180"]);
    folder.activation("out", &[&[photo.as_str()], &arguments[..]].concat()).succeeded();
    let figure = image::open(folder.path("out/query_0.png")).expect("a figure").to_rgb8();
    // The second row of panels, below the title, panels of 180 pixels and two lines of text.
    let coloured = |column: u32| {
        let pixels = (20..150).flat_map(|y| (20..150).map(move |x| (12 + column * 192 + x, 44 + 180 + 12 + 44 + y)));
        pixels.filter(|(x, y)| figure.get_pixel(*x, *y).0.iter().any(|part| part.abs_diff(figure.get_pixel(*x, *y).0[0]) > 12)).count()
    };
    assert_eq!([coloured(0), coloured(1)], [0, 0], "rows and columns have visited the query alone");
    assert!(coloured(2) > 8000 && coloured(3) > 8000, "backwards all is visited: {} and {}", coloured(2), coloured(3));
}

#[test]
fn wrong_arguments_are_one_line_of_error() {
    let folder = Folder::new();
    let photo = folder.photo();
    let scene = ["--scene", "1", "--size", "64"];
    let with = |more: &[&str]| folder.activation("out", &[&scene[..], more].concat());
    with(&["--query", "64px,3px"]).failed(&["--query 64px,3px", "64 x 64", "0px to 63px"]);
    misused(&with(&["--query", "1.5,0"]), &["--query", "1.5,0", "from 0 to 1"]);
    misused(&with(&["--query", "-0.1,0.5"]), &["--query", "-0.1,0.5", "outside the image", "from 0 to 1"]);
    misused(&with(&["--query", "-3px,4px"]), &["--query", "-3px,4px", "counted from 0"]);
    misused(&with(&["--panel", "100"]), &["--panel", "180"]);
    misused(&with(&["--mode", "CB", "--official-clamp"]), &["--official-clamp", "--mode CB"]);
    with(&["--layer", "1.2"]).failed(&["layer 1.2", "does not exist"]);
    with(&["--layer", "5"]).failed(&["--layer 5", "stage.block"]);
    misused(&with(&["--mode", "softmax"]), &["softmax", "CwBw"]);
    folder.activation("out", &[&folder.path("none.jpg").to_string_lossy()]).failed(&["none.jpg"]);
    fs::write(folder.path("cut.png"), &fs::read(&photo).expect("the photo")[..200]).expect("a file");
    folder.activation("out", &[&folder.path("cut.png").to_string_lossy()]).failed(&["cut.png"]);
    let out = folder.path("out").to_string_lossy().into_owned();
    let of = |model: &str, more: &[&str]| run(PROGRAM, &[&["--model", model, "--out", &out], &scene[..], more].concat());
    of("swin_tiny", &[]).failed(&["swin_tiny", "no two-dimensional scan"]);
    let wrong = of("vmamba_tinny", &[]);
    wrong.failed(&["--model: ", "vmamba_tinny"]);
    assert!(!wrong.stderr.contains("--models"), "{}", wrong.stderr);
    let weights = folder.path("weights.pth");
    fs::write(&weights, b"no weights").expect("a file");
    of("vmamba_tiny_s1l8", &["--checkpoint", &weights.to_string_lossy()]).failed(&["weights.pth"]);
    misused(&run(PROGRAM, &["--out", &out, "--scene", "1"]), &["--model"]);
}
