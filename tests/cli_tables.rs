//! `tables` as a user runs it: the published figures, our runs beside them, and folders without runs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::tool::{Place, Ran, program, run};
use vmamba_recipes::config;
use vmamba_study::published::published;
use vmamba_study::tables::run::{Facts, Run, RunConfig};
use vmamba_study::tables::{Benchmark, Entry, assemble};
use vmamba_train::Precision;

const PROGRAM: &str = program::TABLES;
const TRAIN_SEG: &str = program::TRAIN_SEG;
const TEST_SEG: &str = program::TEST_SEG;
const TRAIN_DET: &str = program::TRAIN_DET;
const TEST_DET: &str = program::TEST_DET;

/// Runs `tables` with the output folder `out`.
fn tables(out: &Path, arguments: &[&str]) -> Ran {
    run(PROGRAM, &[&["--out", &out.to_string_lossy()], arguments].concat())
}

/// A row of `tables.json`.
fn row(out: &Path, id: &str) -> Value {
    let text = fs::read_to_string(out.join("tables.json")).expect("tables.json");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let mut rows = document["tables"].as_array().expect("tables").iter().flat_map(|table| table["rows"].as_array().expect("rows"));
    rows.find(|row| row["id"] == id).unwrap_or_else(|| panic!("no row {id} in {text}")).clone()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn without_runs_the_published_tables_appear_exactly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("deep/er");
    let printed = tables(&out, &[]).succeeded().to_owned();
    let squeezed: Vec<String> = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "VMamba-T[s1l8] published 47.3 69.3 52.0 42.7 66.4 45.9 49.8 271.2",
        "Swin-T published 42.7 65.2 46.8 39.3 62.2 42.2 48 267",
        "VMamba-B[s2l15], batch 8 published 49.2 70.9 53.9 43.9 67.7 47.6 107.9 485.5",
        "Swin-B published 46.9 - - 42.3 - - 107 496",
        "ResNet-50 published 38.2 - - 34.7 - - 44.4 260.2",
        "VMamba-S[s2l15] published 49.9 70.9 54.7 44.2 68.2 47.7 69.7 348.9",
        "VMamba-B[s2l15] published 51.0 51.6 122.1 1170.3",
        "Vim-S published 44.9 - 46 -",
    ] {
        assert!(squeezed.iter().any(|own| own == line), "no `{line}` in {printed}");
    }
    assert!(!printed.contains("difference") && !printed.contains("crop 896"), "nothing of ours: {printed}");
    assert!(printed.contains("the official repository says 44.4") && printed.contains("arXiv 2401.10166v4, table 7"), "{printed}");

    let markdown = fs::read_to_string(out.join("tables.md")).expect("Markdown");
    assert!(markdown.contains("## COCO val2017, Mask R-CNN 3x (36 epochs)") && markdown.contains("| VMamba-T[s1l8]"), "{markdown}");
    let csv = fs::read_to_string(out.join("ade20k.csv")).expect("CSV");
    let line = csv.lines().find(|line| line.contains(",upernet_vmamba_small_s2l15_512,")).expect("a line");
    assert!(
        line.starts_with("ade20k_512,upernet_vmamba_small_s2l15_512,VMamba-S[s2l15],published,,,50.6,51.2,81.80126,1028.404888464,"),
        "{line}"
    );
    let published = &row(&out, "mask_rcnn_vmamba_base_s2l15_1x_batch8")["published"];
    assert_eq!((number(&published["APb50"]), number(&published["APm"])), (70.9, 43.9));

    let coco = folder.path().join("coco");
    let printed = tables(&coco, &["--task", "coco"]).succeeded().to_owned();
    assert!(printed.contains("COCO") && !printed.contains("ADE20K"), "{printed}");
    assert!(coco.join("coco.csv").is_file() && !coco.join("ade20k.csv").exists());
}

#[test]
fn a_segmentation_run_stands_below_its_published_row_with_what_differs() {
    let place = Place::new(4);
    place.train_with(TRAIN_SEG, "run", &["--set", "name=upernet_vmamba_tiny_s1l8_512"]).succeeded();
    let (out, folder) = (PathBuf::from(place.path("out")), place.path("run"));
    let printed = tables(&out, &["--runs", &folder]).succeeded().to_owned();

    let lines: Vec<Value> = place.trace("run").iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let best = lines.iter().filter(|line| line["kind"] == "val").map(|line| number(&line["mIoU"])).fold(0.0, f64::max) * 100.0;
    let entry = row(&out, "upernet_vmamba_tiny_s1l8_512");
    let own = &entry["runs"][0];
    assert_eq!(number(&own["figures"]["mIoU (SS)"]), best);
    assert_eq!(number(&own["difference"]["mIoU (SS)"]), best - 47.9);
    assert!(own["figures"]["mIoU (MS)"].is_null() && own["difference"]["mIoU (MS)"].is_null(), "{own}");
    assert!(number(&own["difference"]["params_m"]) < -50.0, "another model by the name of the published one: {own}");
    assert!(printed.contains(&format!("{:.2}", best - 47.9)), "{printed}");
    for differs in [
        "4 iterations instead of 160000",
        "batch 4 instead of 16",
        "crop 32x32 instead of 512x512",
        "training scale 40x32 instead of 2048x512",
        "learning rate 1e-3 instead of 6e-5",
        "averaged weights",
        "8 classes instead of 150",
        "4 validation images instead of 2000",
        "random initial weights instead of an ImageNet-1K classifier",
        "data ",
    ] {
        assert!(printed.contains(differs), "no `{differs}` in {printed}");
    }
    assert!(!printed.contains("trained in") && !printed.contains("stopped"), "{printed}");

    // Evaluations replace the validation; those with one scale and with six share a line.
    let checkpoint = place.path("run/best.safetensors");
    run(TEST_SEG, &[&checkpoint, "--json", &place.path("run/one.json")]).succeeded();
    run(TEST_SEG, &[&checkpoint, "--tta", "--json", &place.path("run/six.json")]).succeeded();
    tables(&out, &["--runs", &folder]).succeeded();
    let runs = row(&out, "upernet_vmamba_tiny_s1l8_512")["runs"].clone();
    assert_eq!(runs.as_array().map(Vec::len), Some(1), "{runs}");
    assert_eq!(number(&runs[0]["figures"]["mIoU (SS)"]), best);
    assert!(number(&runs[0]["difference"]["mIoU (MS)"]) < 0.0, "{runs}");
    assert!(runs[0]["measured_by"].as_str().is_some_and(|text| text.contains("one.json") && text.contains("six.json")), "{runs}");

    // A folder with the figures alone suffices, because they contain the configuration.
    fs::create_dir(place.path("figures")).expect("a folder");
    fs::rename(place.path("run/one.json"), place.path("figures/one.json")).expect("movable");
    fs::remove_dir_all(&folder).expect("removable");
    let printed = tables(&out, &["--runs", &place.path("figures")]).succeeded().to_owned();
    assert!(printed.contains("crop 32x32 instead of 512x512") && printed.contains("4 validation images instead"), "{printed}");
}

#[test]
fn a_detection_run_and_its_checkpoint_stand_below_their_published_row() {
    let place = Place::detection(3);
    place.train_with(TRAIN_DET, "run", &["--set", "name=mask_rcnn_vmamba_tiny_s1l8_1x"]).succeeded();
    let (out, folder, best) = (PathBuf::from(place.path("out")), place.path("run"), place.path("run/best.safetensors"));
    run(TEST_DET, &[&best, "--json", &place.path("run/figures.json"), "--out", &folder]).succeeded();
    let printed = tables(&out, &["--runs", &folder, "--checkpoints", &best]).succeeded().to_owned();
    let runs = row(&out, "mask_rcnn_vmamba_tiny_s1l8_1x")["runs"].clone();
    assert_eq!(runs.as_array().map(Vec::len), Some(2), "the folder and the checkpoint: {runs}");
    let logged: Value = serde_json::from_str(place.trace("run").last().expect("a validation")).expect("JSON");
    for own in [&runs[0], &runs[1]] {
        let figure = own["figures"]["APb"].as_f64().unwrap_or(0.0);
        assert!((figure - number(&logged["bbox_AP"]) * 100.0).abs() < 1e-9, "{runs}");
        assert!(number(&own["figures"]["params_m"]) < 10.0, "{runs}");
    }
    assert!(runs[1]["figures"]["APm"].is_null(), "a checkpoint stores the main figure only");
    for differs in
        ["3 iterations instead of 12 epochs", "training scales 96x48 to 96x64 instead of 1333x800", "random crops instead of none"]
    {
        assert!(printed.contains(differs), "no `{differs}` in {printed}");
    }
    assert!(printed.contains("annotations annotations/instances_val.json instead of instances_val2017.json"), "{printed}");
    let left = tables(&out, &["--runs", &folder, "--task", "ade20k"]);
    assert!(left.succeeded().contains("left out by --task"), "{left:?}");
}

#[test]
fn a_run_of_an_unpublished_model_is_in_a_separate_table() {
    let place = Place::new(2);
    place.train_with(TRAIN_SEG, "run", &[]).succeeded();
    let out = PathBuf::from(place.path("out"));
    let printed = tables(&out, &["--runs", &place.path("run")]).succeeded().to_owned();
    assert!(printed.contains("Runs of models without a published row"), "{printed}");
    let entry = row(&out, "tiny");
    assert!(entry["published"].is_null() && entry["runs"][0]["figures"]["mIoU (SS)"].is_number(), "{entry}");
}

/// A run of a published configuration by its recipe.
fn recipe(benchmark: Benchmark, file: &str, figures: &[f64], facts: Facts) -> Run {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(file);
    let config = match benchmark {
        Benchmark::Coco => RunConfig::Detection(Box::new(config::load(&path, &[]).expect("a configuration"))),
        Benchmark::Ade20k => RunConfig::Segmentation(Box::new(config::load(&path, &[]).expect("a configuration"))),
    };
    let figures = figures.iter().copied().map(Some).collect();
    let name = config.name().to_owned();
    Run { place: "here".to_owned(), origin: "a test".to_owned(), name, benchmark, config: Some(config), figures, facts }
}

fn entry(runs: &[Run], id: &str) -> Entry {
    let sections = assemble(&[Benchmark::Coco, Benchmark::Ade20k], runs).expect("the built-in data");
    sections.into_iter().flat_map(|section| section.entries).find(|entry| entry.id == id).expect("a row")
}

#[test]
fn a_run_by_the_recipe_has_no_differences_and_the_published_cost() {
    let facts = Facts { images: Some(2000), classes: Some(150), ..Facts::default() };
    let own = recipe(Benchmark::Ade20k, "upernet/upernet_vmamba_small_s2l15_640.toml", &[50.9, 51.1], facts);
    let found = entry(&[own], "upernet_vmamba_small_s2l15_640");
    assert_eq!(found.runs[0].differs.as_deref(), Some(&[][..]));
    let difference = &found.runs[0].difference;
    assert_eq!(difference.params_m, Some(0.0));
    assert!(difference.gflops.is_some_and(|gflops| gflops.abs() < 0.1), "{difference:?}");
    assert!(difference.figures[0].is_some_and(|points| (points - 0.2).abs() < 1e-9), "{difference:?}");

    for schedule in ["1x", "3x"] {
        let id = format!("mask_rcnn_vmamba_tiny_s1l8_{schedule}");
        let facts = Facts { images: Some(5000), classes: Some(80), ..Facts::default() };
        let own = recipe(Benchmark::Coco, &format!("mask_rcnn/{id}.toml"), &[47.3, 69.3, 52.0, 42.7, 66.4, 45.9], facts);
        assert_eq!(entry(&[own], &id).runs[0].differs.as_deref(), Some(&[][..]), "{id}");
    }
}

#[test]
fn every_row_is_in_one_table_and_every_run_below_one_row() {
    let data = published().expect("the table of published results");
    let facts = Facts { images: Some(2000), classes: Some(150), slide: true, ..Facts::default() };
    let own = recipe(Benchmark::Ade20k, "upernet/upernet_vim_small_512.toml", &[44.0], facts);
    let sections = assemble(&[Benchmark::Coco, Benchmark::Ade20k], &[own]).expect("the built-in data");
    let mut keys: Vec<&str> = sections.iter().map(|section| section.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["ade20k_512", "ade20k_640", "coco_1x", "coco_3x"]);
    let all: Vec<&Entry> = sections.iter().flat_map(|section| &section.entries).collect();
    let times = |id: &str| all.iter().filter(|entry| entry.id == id).count();
    let segmentors = data.ade20k_upernet.iter().filter(|row| row.miou_ss.or(row.miou_ms).is_some()).map(|row| &row.id);
    let ids: Vec<&String> = data.coco_mask_rcnn.iter().map(|row| &row.id).chain(segmentors).collect();
    assert!(ids.iter().all(|id| times(id) == 1) && all.len() == ids.len());
    assert_eq!(all.iter().map(|entry| entry.runs.len()).sum::<usize>(), 1);
    let vim = all.iter().find(|entry| entry.id == "upernet_vim_small_512").expect("a row");
    assert!(vim.note.as_ref().is_some_and(|note| note.contains("60000 iterations") && note.contains("batch 32")), "{vim:?}");
    assert_eq!(vim.runs[0].differs.as_deref(), Some(&["trained in float32 instead of float16".to_owned()][..]));
}

#[test]
fn options_without_a_description_are_named_by_their_keys() {
    let facts = Facts { images: Some(5000), classes: Some(80), ..Facts::default() };
    let id = "mask_rcnn_swin_tiny_1x";
    let mut own = recipe(Benchmark::Coco, &format!("mask_rcnn/{id}.toml"), &[42.0], facts);
    let Some(RunConfig::Detection(config)) = &mut own.config else { panic!("a detector") };
    config.train.optimizer.weight_decay = 0.125;
    config.data.train.flip = 0.25;
    let differs = entry(&[own], id).runs[0].differs.clone().expect("a configuration");
    assert_eq!(differs, ["data.train.flip 0.25 instead of 0.5", "train.optimizer.weight_decay 0.125 instead of 0.05"]);

    // The rows of batch 8 and batch 16 share a recipe.
    let mut small = recipe(Benchmark::Coco, "mask_rcnn/mask_rcnn_vmamba_base_s2l15_1x.toml", &[49.0], facts);
    small.name = "mask_rcnn_vmamba_base_s2l15_1x_batch8".to_owned();
    let Some(RunConfig::Detection(config)) = &mut small.config else { panic!("a detector") };
    config.train.optimizer.weight_decay = 0.125;
    let differs = entry(&[small], "mask_rcnn_vmamba_base_s2l15_1x_batch8").runs[0].differs.clone().expect("a configuration");
    assert_eq!(differs, ["batch 16 instead of 8", "train.optimizer.weight_decay 0.125 instead of 0.05"]);

    let facts_of_masks = Facts { images: Some(2000), classes: Some(150), ..Facts::default() };
    let mut scales = recipe(Benchmark::Ade20k, "upernet/upernet_vmamba_tiny_s1l8_512.toml", &[48.0], facts_of_masks);
    let Some(RunConfig::Segmentation(config)) = &mut scales.config else { panic!("a segmentor") };
    config.test.tta_ratios.0 = vec![1.0];
    let differs = entry(&[scales], "upernet_vmamba_tiny_s1l8_512").runs[0].differs.clone().expect("a configuration");
    assert!(matches!(differs.as_slice(), [only] if only.starts_with("test.tta_ratios [1.0] instead of [0.5")), "{differs:?}");

    let mut other = recipe(Benchmark::Coco, "mask_rcnn/mask_rcnn_resnet50_1x.toml", &[42.0], facts);
    other.name = id.to_owned();
    let differs = entry(&[other], id).runs[0].differs.clone().expect("a configuration");
    assert!(differs.starts_with(&["backbone resnet50 instead of swin_tiny".to_owned(), "SGD instead of AdamW".to_owned()]), "{differs:?}");
    assert!(!differs.iter().any(|words| words.starts_with("model.backbone") || words.contains("betas")), "{differs:?}");
}

#[test]
fn a_run_with_another_name_is_matched_by_its_backbone() {
    let facts = Facts { images: Some(5000), devices: Some(2), precision: Precision::Bf16, ..Facts::default() };
    let mut own = recipe(Benchmark::Coco, "mask_rcnn/mask_rcnn_vmamba_small_s2l15_3x.toml", &[50.0], facts);
    own.name = "mine".to_owned();
    let found = entry(&[own], "mask_rcnn_vmamba_small_s2l15_3x");
    let differs = found.runs[0].differs.clone().expect("a configuration");
    assert_eq!(differs, ["batch 32 instead of 16", "evaluated in bf16 instead of float32"]);
}

#[test]
fn a_cascade_is_not_below_the_mask_r_cnn_of_its_backbone() {
    let name = "cascade_mask_rcnn_vmamba_tiny_s1l8_3x";
    let own = recipe(Benchmark::Coco, &format!("cascade_mask_rcnn/{name}.toml"), &[50.0], Facts::default());
    assert!(entry(&[own], name).published.is_none());
}

#[test]
fn invalid_runs_are_errors_that_name_file_and_field() {
    let place = Place::new(1);
    let out = PathBuf::from(place.path("out"));
    let refused = |folder: &str, parts: &[&str]| tables(&out, &["--runs", &place.path(folder)]).failed(parts);
    refused("nowhere", &["--runs", "nowhere", "not a folder"]);
    refused("tiny.toml", &["tiny.toml is not a folder", "--checkpoints"]);
    refused("data", &["data is not a run", "config.toml", "metrics.jsonl", "--json"]);

    let write = |file: &str, text: &str| {
        let path = PathBuf::from(place.path(file));
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("writable");
    };
    let config = fs::read_to_string(&place.config).expect("the configuration");
    write("begun/config.toml", &config);
    refused("begun", &["metrics.jsonl is missing"]);
    write("begun/metrics.jsonl", "{\"kind\":\"train\",\"iteration\":1,\"loss\":1.0}\n");
    refused("begun", &["metrics.jsonl", "has not been validated"]);
    write("begun/metrics.jsonl", "{\"kind\":\"val\",\"iteration\":1,\"mAcc\":1.0}\n");
    refused("begun", &["metrics.jsonl, line 1", "`mIoU`"]);
    write("begun/metrics.jsonl", "{\"kind\":\"val\"\n{\"kind\":\"val\",\"iteration\":1,\"mIoU\":1.0}\n");
    refused("begun", &["metrics.jsonl: line 1 is not a JSON object", "delete the line"]);
    write("begun/metrics.jsonl", "{\"kind\":\"val\",\"iteration\":1,\"mIoU\":0.5}\n{\"kind\":\"tr");
    assert!(tables(&out, &["--runs", &place.path("begun")]).succeeded().contains("50.00"), "an incomplete last line is ignored");
    write("begun/last.safetensors", "not weights");
    refused("begun", &["last.safetensors", "not a checkpoint"]);
    write("strange/config.toml", &config.replace("batch_size", "bach_size"));
    write("strange/metrics.jsonl", "");
    refused("strange", &["strange/config.toml", "train", "bach_size"]);
    write("orphan/metrics.jsonl", "{\"kind\":\"val\",\"iteration\":1,\"mIoU\":0.5}\n");
    refused("orphan", &["config.toml is missing"]);

    let figures = json!({
        "checkpoint": "x.safetensors", "config": "upernet_vmamba_tiny_s1l8_512", "iteration": 1, "tta": false, "mode": "whole",
        "precision": "float32", "images": 4, "classes": ["a"], "metrics": { "mIoU": 0.5 },
    });
    let with = |field: &str, value: Option<Value>| {
        let mut figures = figures.clone();
        match (value, figures.as_object_mut().expect("an object")) {
            (Some(value), object) => drop(object.insert(field.to_owned(), value)),
            (None, object) => drop(object.remove(field)),
        }
        write("figures/figures.json", &figures.to_string());
    };
    with("images", Some(json!(4)));
    let ran = tables(&out, &["--runs", &place.path("figures")]);
    assert!(ran.succeeded().contains("50.00") && ran.stdout.contains("2.10"), "figures of a foreign checkpoint need no metadata: {ran:?}");
    with("images", Some(json!("many")));
    refused("figures", &["figures.json", "images"]);
    with("classes", None);
    refused("figures", &["figures.json", "classes"]);
    with("metrics", Some(json!({ "IoU": [] })));
    refused("figures", &["figures.json", "metrics", "mIoU"]);
    with("metrics", None);
    refused("figures", &["figures.json", "`metrics`", "`bbox`"]);
    with("configuration", Some(json!({ "name": "x" })));
    refused("figures", &["figures.json", "configuration", "init"]);
    write("figures/figures.json", "{");
    refused("figures", &["figures.json", "cut off"]);
    assert_eq!(tables(&out, &["--task", "cifar"]).code, Some(2));
}

#[test]
fn a_checkpoint_has_at_least_its_cost_or_the_error_says_why_not() {
    let place = Place::new(3);
    place.train_with(TRAIN_SEG, "run", &["--set", "name=upernet_vmamba_tiny_s2l5_512", "--set", "train.val_interval=2"]).succeeded();
    let out = PathBuf::from(place.path("out"));
    tables(&out, &["--checkpoints", &place.path("run/best.safetensors"), &place.path("run/last.safetensors")]).succeeded();
    let runs = row(&out, "upernet_vmamba_tiny_s2l5_512")["runs"].clone();
    assert!(runs[0]["figures"]["mIoU (SS)"].is_number(), "{runs}");
    assert!(runs[0]["figures"]["params_m"].is_number() && runs[1]["figures"]["gflops"].is_number(), "{runs}");
    // The last weights have a figure only if the validation after step 3 is the best.
    let last = runs[1]["measured_by"].as_str().expect("text");
    assert_eq!(runs[1]["figures"]["mIoU (SS)"].is_number(), last == "validation after iteration 3", "{runs}");

    let plain = place.path("plain.safetensors");
    let checkpoint = vmamba::checkpoint::Checkpoint::read(place.path("run/best.safetensors")).expect("a checkpoint");
    let state = checkpoint.state_dict(vmamba::checkpoint::Weights::Validated).expect("weights");
    vmamba::checkpoint::export_safetensors(&plain, &state).expect("writable");
    tables(&out, &["--checkpoints", &plain]).failed(&["plain.safetensors", "does not name its model", "--json"]);
    tables(&out, &["--checkpoints", &place.path("tiny.toml")]).failed(&["tiny.toml", "not a checkpoint"]);
}
