//! `erf` on small images: the files, equal files of two runs, weights of all kinds, and wrong input.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use burn::prelude::Device;
use image::{Rgb, RgbImage};
use serde_json::Value;
use tests::tool::{Ran, executable, program, run};
use vmamba::checkpoint::{StateDict, export_safetensors, state_dict_of};
use vmamba::zoo::BackboneConfig;

const ERF: &str = program::ERF;

/// A small model.
const SMALL: &str = "preset = \"vmamba_tiny_s1l8\"\ndepths = [1, 1]\ndims = [8, 16]\nout_indices = [0, 1]\n";

fn erf(out: &Path, arguments: &[&str]) -> Ran {
    let out = out.to_string_lossy();
    let mut all = vec!["--out", &out];
    for [option, value] in [["--size", "32"], ["--images", "3"]] {
        if !arguments.contains(&option) {
            all.extend([option, value]);
        }
    }
    all.extend(arguments);
    run(ERF, &all)
}

fn small_config() -> BackboneConfig {
    let table = serde_json::json!({ "preset": "vmamba_tiny_s1l8", "depths": [1, 1], "dims": [8, 16], "out_indices": [0, 1] });
    serde_json::from_value(table).unwrap()
}

/// A folder with `count` pictures in folders of two classes.
fn pictures(root: &Path, count: u32) {
    for number in 0..count {
        let folder = root.join(if number % 2 == 0 { "val/a" } else { "val/b" });
        fs::create_dir_all(&folder).unwrap();
        let picture = RgbImage::from_fn(50 + number, 40, |x, y| Rgb([(x * 5) as u8, (y * 6 + number) as u8, (x * y % 251) as u8]));
        picture.save(folder.join(format!("{number}.png"))).unwrap();
    }
}

/// Shape and values of a file of NumPy's format.
fn npy(path: &Path) -> (String, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let values = bytes[end..].as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    (String::from_utf8(bytes[10..end].to_vec()).unwrap(), values)
}

#[test]
fn two_runs_write_the_same_figure_of_models_with_and_without_weights() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    fs::write(place("small.toml"), SMALL).unwrap();
    pictures(&place("data"), 6);
    fs::write(place("data/val/a/broken.jpg"), "no picture").unwrap();
    let device = Device::flex();
    device.seed(9);
    export_safetensors(
        place("weights.safetensors"),
        &state_dict_of(&small_config().try_init_classifier(5, &device).unwrap(), &vmamba::zoo::key),
    )
    .unwrap();

    let (model, data) = (place("small.toml").display().to_string(), place("data").display().to_string());
    let checkpoint = format!("small={}", place("weights.safetensors").display());
    let models = format!("{model},resnet50");
    let arguments = ["--models", &models, "--checkpoint", &checkpoint, "--data", &data, "--images", "6", "--squares", "--seed", "4"];
    let first = erf(&place("one"), &arguments[..]);
    first.succeeded();
    assert!(first.stderr.matches("skipped").count() == 1 && first.stderr.contains("broken.jpg"), "{}", first.stderr);
    erf(&place("two"), &arguments[..]).succeeded();
    let mut names: Vec<String> = fs::read_dir(place("one")).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = ["erf.csv", "erf.json", "erf.md", "erf.png", "erf.svg", "resnet50_before.npy", "small_after.npy", "small_before.npy"];
    assert_eq!(names, expected);
    for name in expected {
        assert_eq!(fs::read(place("one").join(name)).unwrap(), fs::read(place("two").join(name)).unwrap(), "{name}");
    }

    let (header, before) = npy(&place("one").join("small_before.npy"));
    assert!(header.contains("(32, 32,)") && before.len() == 1024);
    assert!(before.iter().all(|value| *value >= 0.0) && before.iter().any(|value| *value > 0.0));
    assert_ne!(before, npy(&place("one").join("small_after.npy")).1, "other weights, another field");
    let report: Value = serde_json::from_slice(&fs::read(place("one").join("erf.json")).unwrap()).unwrap();
    assert_eq!(report["unreadable"].as_array().unwrap().len(), 1);
    let fields = report["fields"].as_array().unwrap();
    assert_eq!(fields.len(), 3);
    for field in fields {
        let mut used: Vec<&str> = field["images"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        used.sort_unstable();
        assert_eq!(used, ["val/a/0.png", "val/a/2.png", "val/a/4.png", "val/b/1.png", "val/b/3.png", "val/b/5.png"]);
        let sides: Vec<u64> = field["squares"].as_array().unwrap().iter().map(|square| square["side"].as_u64().unwrap()).collect();
        assert!(sides.is_sorted() && sides.len() == 4 && sides.iter().all(|side| side % 2 == 1), "{sides:?}");
    }
    assert_eq!((&report["images_wanted"], &fields[0]["images_used"]), (&6.into(), &6.into()));
    let csv = fs::read_to_string(place("one").join("erf.csv")).unwrap();
    assert_eq!(csv.lines().count(), 4);
    let columns: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    assert!(columns.iter().enumerate().all(|(place, name)| !columns[..place].contains(name)), "{columns:?}");
    let svg = fs::read_to_string(place("one").join("erf.svg")).unwrap();
    assert!(svg.contains(">no checkpoint<"), "resnet50 after training");
    for share in ["20 %", "30 %", "50 %", "99 %"] {
        assert!(svg.contains(&format!(">{share} of the contribution<")), "which square is which");
    }
    assert!(csv.lines().nth(2).unwrap().contains("weights.safetensors"), "{csv}");
    // Another seed shuffles the images differently.
    erf(&place("three"), &["--models", &model, "--data", &data, "--seed", "5"]).succeeded();
    let other: Value = serde_json::from_slice(&fs::read(place("three").join("erf.json")).unwrap()).unwrap();
    assert_eq!(other["fields"][0]["images"].as_array().unwrap().len(), 3);
}

#[test]
fn variants_need_only_a_configuration_and_built_in_scenes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let row = |id: &str, init: &str| {
        format!(
            "[[row]]\nid = \"{id}\"\nbackbone = {{ preset = \"vmamba_tiny_s1l8\", depths = [1], dims = [8], out_indices = [0], ssm_init = \"{init}\" }}\n"
        )
    };
    let text = format!("title = \"Inits\"\n{}{}", row("first", "v0"), row("second, other", "v2"));
    let file = folder.path().join("figure.toml");
    fs::write(&file, text).unwrap();
    erf(&out, &["--config", &file.display().to_string(), "--power", "0.5", "--colours", "viridis"]).succeeded();
    let svg = fs::read_to_string(out.join("erf.svg")).unwrap();
    for words in ["Effective receptive fields: Inits", "first", "second, other", "before training", "^0.5"] {
        assert!(svg.contains(words), "{words}");
    }
    assert!(!svg.contains("after training"));
    assert!(out.join("second__other_before.npy").is_file());
    let markdown = fs::read_to_string(out.join("erf.md")).unwrap();
    assert!(markdown.contains("built-in scenes"), "{markdown}");
    assert!(fs::read_to_string(out.join("erf.json")).unwrap().contains("scene_000001"));
}

/// The configurations in configs/erf are valid; a missing data folder is an error before the computation.
#[test]
fn the_configurations_of_the_figures_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/erf");
    let none = folder.path().join("none").display().to_string();
    for (file, rows) in [("initialisation.toml", 3), ("scan_pattern.toml", 8), ("training.toml", 6)] {
        let path = configs.join(file);
        assert_eq!(vmamba_study::ablation::AblationConfig::read(&path).unwrap().row.len(), rows, "{file}");
        erf(&folder.path().join("out"), &["--config", &path.display().to_string(), "--data", &none]).failed(&["--data", "none"]);
    }
}

#[test]
fn the_backbone_of_a_segmentor_is_found_by_its_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    fs::write(place("small.toml"), SMALL).unwrap();
    let device = Device::flex();
    device.seed(9);
    let backbone = state_dict_of(&small_config().try_init(&device).unwrap(), &vmamba::zoo::key);
    let prefixed: StateDict = backbone.iter().map(|(key, tensor)| (format!("backbone.{key}"), tensor.clone())).collect();
    export_safetensors(place("plain.safetensors"), &backbone).unwrap();
    export_safetensors(place("prefixed.safetensors"), &prefixed).unwrap();
    let model = place("small.toml").display().to_string();
    for name in ["plain", "prefixed"] {
        let checkpoint = format!("small={}", place(&format!("{name}.safetensors")).display());
        erf(&place(name), &["--models", &model, "--checkpoint", &checkpoint, "--trained-only"]).succeeded();
    }
    let field = |name: &str| npy(&place(name).join("small_after.npy"));
    assert_eq!(field("plain"), field("prefixed"));
    assert!(!place("plain").join("small_before.npy").exists());
}

/// Weights of the small model, intact and with a NaN.
fn weights(folder: &Path) -> [String; 2] {
    let device = Device::flex();
    device.seed(9);
    let good = state_dict_of(&small_config().try_init_classifier(5, &device).unwrap(), &vmamba::zoo::key);
    let mut bytes = Vec::new();
    let files = ["good", "broken"].map(|name| folder.join(format!("{name}.safetensors")));
    export_safetensors(&files[0], &good).unwrap();
    bytes.extend(fs::read(&files[0]).unwrap());
    // The values follow the header; four bytes of ones are a NaN.
    let begin = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    bytes[begin..].fill(0xff);
    fs::write(&files[1], bytes).unwrap();
    files.map(|file| file.display().to_string())
}

#[test]
fn weights_are_checked_first_and_a_later_error_keeps_the_finished_fields() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    fs::write(place("small.toml"), SMALL).unwrap();
    fs::write(place("second.toml"), SMALL.replace("[8, 16]", "[12, 24]")).unwrap();
    let [good, broken] = weights(folder.path());
    let models = format!("{},{}", place("small.toml").display(), place("second.toml").display());
    // The second model has other shapes.
    let out = place("early");
    let ran = erf(&out, &["--models", &models, "--checkpoint", &format!("small={good}"), "--checkpoint", &format!("second={good}")]);
    ran.failed(&["--checkpoint second", "good.safetensors is not a checkpoint of second"]);
    assert_eq!((ran.stdout.as_str(), fs::read_dir(&out).unwrap().count()), ("", 0), "nothing was computed");
    // A NaN in weights that fit shows only when the model runs.
    let out = place("late");
    let ran = erf(&out, &["--models", &models, "--checkpoint", &format!("small={broken}")]);
    ran.failed(&["small after training: no image gives finite values", "the results cover the finished models"]);
    let report: Value = serde_json::from_slice(&fs::read(out.join("erf.json")).unwrap()).unwrap();
    assert_eq!((report["fields"].as_array().unwrap().len(), &report["fields"][0]["state"]), (1, &"before".into()));
    assert!(!fs::read_to_string(out.join("erf.svg")).unwrap().contains("no checkpoint"));
    assert!(out.join("erf.png").exists() && ran.stdout.contains("small before training"), "{}", ran.stdout);
}

#[test]
fn too_few_images_are_reported_in_figure_tables_and_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    fs::write(place("small.toml"), SMALL).unwrap();
    pictures(&place("data"), 2);
    for name in ["a.jpg", "b.jpg"] {
        fs::write(place("data").join(name), "no picture").unwrap();
    }
    let (model, data) = (place("small.toml").display().to_string(), place("data").display().to_string());
    let ran = erf(&place("out"), &["--models", &model, "--data", &data, "--images", "4"]);
    ran.succeeded();
    assert!(ran.stderr.contains("warning: small before training: only 2 of 4 images"), "{}", ran.stderr);
    let report: Value = serde_json::from_slice(&fs::read(place("out/erf.json")).unwrap()).unwrap();
    assert_eq!((&report["images_wanted"], &report["fields"][0]["images_used"]), (&4.into(), &2.into()));
    for file in ["erf.md", "erf.svg"] {
        assert!(fs::read_to_string(place("out").join(file)).unwrap().contains("only 2 of 4 images"), "{file}");
    }
}

#[test]
fn the_name_of_a_checkpoint_is_a_model_or_new_but_not_another_published_model() {
    let run = tests::tool::Place::new(1);
    run.train_with(program::TRAIN_SEG, "run", &[]).succeeded();
    let (trained, out) = (run.path("run"), run.folder.path().join("out"));
    fs::write(run.path("small.toml"), SMALL).unwrap();
    let small = run.path("small.toml");
    let named = |name: &str, more: &[&str]| erf(&out, &[&["--checkpoint", &format!("{name}={trained}"), "--images", "1"], more].concat());
    named("vmamba_tiny_s1l8", &[]).failed(&["--checkpoint vmamba_tiny_s1l8", "published", "depths is [1,1,1,1], not [2,2,8,2]"]);
    named("vmamba_tiny_s1l8", &["--models", "vmamba_tiny_s1l8"]).failed(&["--checkpoint vmamba_tiny_s1l8", "published", "depths"]);
    named("smal1", &["--models", &small]).failed(&["unknown model `smal1`", "did you mean `small`?"]);
    let alone = named("mine", &[]);
    alone.succeeded();
    assert!(!alone.stderr.contains("note:"), "{}", alone.stderr);
    // The checkpoint adds a model to the given one, which has no checkpoint.
    let beside = named("mine", &["--models", &small, "--trained-only"]);
    beside.succeeded();
    assert!(beside.stderr.contains("note: --checkpoint mine: not among --models and --config"));
    assert!(beside.stderr.contains("warning: left out for lack of a checkpoint: small"), "{}", beside.stderr);
}

#[cfg(unix)]
#[test]
fn an_interrupt_in_the_first_field_leaves_no_report() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    fs::write(folder.path().join("small.toml"), SMALL).unwrap();
    let model = folder.path().join("small.toml").display().to_string();
    let arguments = ["--models", &model, "--size", "32", "--images", "1000000", "--out", &out.display().to_string()];
    let mut command = Command::new(executable(ERF));
    let child = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while !out.is_dir() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(ran.stderr.contains("interrupted"), "{ran:?}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn wrong_input_is_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let out = place("out");
    let text = |path: &Path| path.display().to_string();
    fs::write(place("small.toml"), SMALL).unwrap();
    let small = text(&place("small.toml"));
    erf(&out, &["--models", "swin_giant"]).failed(&["--models", "swin_giant", "swin_tiny"]);
    erf(&out, &["--models", &text(&place("none.toml"))]).failed(&["none.toml"]);
    erf(&out, &["--models", "deit_tiny", "--size", "40"]).failed(&["deit_tiny", "--size", "16 divides"]);
    erf(&out, &["--models", "vim_tiny,vim_tiny"]).failed(&["two models are called `vim_tiny`"]);
    erf(&out, &["--models", &small, "--size", "8"]).failed(&["--size", "height"]);

    fs::create_dir_all(place("empty")).unwrap();
    erf(&out, &["--models", &small, "--data", &text(&place("empty"))]).failed(&["--data", "empty", "no image"]);
    erf(&out, &["--models", &small, "--data", &text(&place("nowhere"))]).failed(&["--data", "nowhere", "no such folder"]);
    pictures(&place("few"), 2);
    erf(&out, &["--models", &small, "--data", &text(&place("few"))]).failed(&["few", "2 images", "--images"]);
    for number in 0..3 {
        fs::create_dir_all(place("broken")).unwrap();
        fs::write(place("broken").join(format!("{number}.jpg")), "no picture").unwrap();
    }
    erf(&out, &["--models", &small, "--data", &text(&place("broken"))]).failed(&["no image can be read", ".jpg"]);

    let device = Device::flex();
    let deit = BackboneConfig::named("deit_tiny").unwrap().try_init_classifier(3, &device).unwrap();
    export_safetensors(place("deit.safetensors"), &state_dict_of(&deit, &vmamba::zoo::key)).unwrap();
    let other = format!("small={}", text(&place("deit.safetensors")));
    erf(&out, &["--models", &small, "--checkpoint", &other, "--trained-only"]).failed(&["deit.safetensors", "small"]);
    let unknown = format!("mine={}", text(&place("deit.safetensors")));
    erf(&out, &["--models", &small, "--checkpoint", &unknown]).failed(&["unknown model `mine`", "small"]);
    let nowhere = format!("small={}", text(&place("nowhere.pth")));
    erf(&out, &["--models", &small, "--checkpoint", &nowhere]).failed(&["nowhere.pth"]);
    let folder_without = format!("small={}", text(&place("empty")));
    erf(&out, &["--models", &small, "--checkpoint", &folder_without]).failed(&["best.safetensors", "empty"]);
    let text_file = format!("small={small}");
    erf(&out, &["--models", &small, "--checkpoint", &text_file]).failed(&["small.toml", "text file"]);

    for usage in [&["--power", "0"][..], &["--size", "0"], &["--checkpoint", "small"], &["--trained-only"], &["--images", "x"]] {
        assert_eq!(erf(&out, usage).code, Some(2), "{usage:?}");
    }
}
