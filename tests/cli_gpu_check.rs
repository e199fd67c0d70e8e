//! `gpu_check` as a user runs it, on the CPU: every part at its smallest size, wrong arguments, failed checks, and the time limit.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::tool::{Ran, program, run};
use vmamba_study::gpu_check::{Operation, checked_operations};

const PROGRAM: &str = program::GPU_CHECK;

/// The smallest measurement.
const SMALL: [[&str; 2]; 10] = [
    ["--device", "cpu"],
    ["--models", "vmamba_tiny_s1l8"],
    ["--batches", "1,2"],
    ["--sides", "32"],
    ["--precisions", "float32"],
    ["--warmup", "1"],
    ["--runs", "1"],
    ["--rounds", "2"],
    ["--bandwidth-batch", "1"],
    ["--python", "none"],
];

/// Runs the smallest measurement with the options `more`, which replace those of [`SMALL`].
fn check(out: &Path, more: &[&str]) -> Ran {
    let out = out.display().to_string();
    let mut arguments: Vec<&str> = SMALL.iter().filter(|[option, _]| !more.contains(option)).flatten().copied().collect();
    arguments.extend(["--memory-size", "1", "32", "--out", &out]);
    arguments.extend(more);
    run(PROGRAM, &arguments)
}

fn report(out: &Path) -> Value {
    let text = std::fs::read_to_string(out.join("gpu_check.json")).expect("the report");
    assert!(out.join("gpu_check.md").metadata().is_ok_and(|file| file.len() > 100), "the report in Markdown");
    serde_json::from_str(&text).expect("valid JSON")
}

/// The rows of a part.
fn rows<'a>(report: &'a Value, part: &str) -> &'a [Value] {
    let parts = report["parts"].as_array().expect("parts");
    let part = parts.iter().find(|own| own["part"] == part).unwrap_or_else(|| panic!("no part {part}: {report:#}"));
    part["rows"].as_array().expect("rows")
}

fn number(row: &Value, column: &str) -> f64 {
    row[column].as_f64().unwrap_or_else(|| panic!("no number `{column}` in {row:#}"))
}

/// The small fixtures in the repository.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

#[test]
fn speed_memory_and_bandwidth_are_rows_of_real_numbers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("deep/er");
    let ran = check(&out, &["--parts", "throughput,training,memory,bandwidth"]);
    let printed = ran.succeeded();
    assert!(printed.contains("vmamba_tiny_s1l8") && printed.contains("targets"), "{printed}");
    let report = report(&out);
    for part in ["throughput", "training"] {
        let rows = rows(&report, part);
        assert_eq!(rows.iter().map(|row| row["batch"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2)], "{report:#}");
        for row in rows {
            assert_eq!((&row["status"], &row["precision"]), (&"ok".into(), &"float32".into()), "{row:#}");
            let expected = number(row, "batch") / (number(row, "batch ms, median") * 1e-3);
            assert!((number(row, "images/s") / expected - 1.0).abs() < 1e-6 && expected > 0.0, "{row:#}");
            assert!(number(row, "batch ms, shortest") <= number(row, "batch ms, median"), "{row:#}");
        }
    }
    if cfg!(target_os = "linux") {
        let rows = rows(&report, "memory");
        assert_eq!(rows.iter().map(|row| row["work"].as_str()).collect::<Vec<_>>(), [Some("training"), Some("inference")]);
        for row in rows {
            // Thirty million weights take 115 MiB.
            assert!(number(row, "reserved, MiB") > 100.0 && row["source"] == "resident memory of the process", "{row:#}");
        }
        // Gradients and the two moments of AdamW take three times as much in addition.
        assert!(number(&rows[0], "reserved, MiB") > number(&rows[1], "reserved, MiB") + 250.0, "{rows:#?}");
    }
    let rows = rows(&report, "bandwidth");
    assert_eq!(rows.len(), 5, "four stages and the map of a detector");
    let first = &rows[0];
    // Input, output, and 4 routes of 6 + 2 values, 4 bytes each.
    assert!((number(first, "MB to move") - (56 * 56 * (2 * 96 + 32) * 4) as f64 * 1e-6).abs() < 1e-9, "{first:#}");
    assert!((number(first, "scan / copy") - number(first, "scan, GB/s") / number(first, "copy, GB/s")).abs() < 1e-6, "{first:#}");
    let targets = report["targets"].as_array().expect("targets");
    let of = |text: &str| targets.iter().find(|row| row["target"].as_str().is_some_and(|target| target.contains(text)));
    let scan = of("scan of the first stage").expect("a target of the scan");
    assert_eq!((scan["measured"].as_f64(), scan["must"].as_f64()), (Some(number(first, "scan / copy")), Some(0.5)), "{scan:#}");
    assert!(of("over Swin-T, inference").is_some_and(|row| row["measured"].as_str().is_some_and(|text| text.starts_with("not measured"))));
    assert_eq!(report["environment"]["device"].as_str().map(|device| device.starts_with("cpu")), Some(true), "{report:#}");
}

#[test]
fn the_cpu_equals_itself_in_every_operation_and_the_fixtures_in_every_network() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fixtures = fixtures().display().to_string();
    let ran = check(folder.path(), &["--parts", "parity-ops,parity-models", "--fixtures", &fixtures]);
    ran.succeeded();
    let report = report(folder.path());
    let operations = rows(&report, "parity-ops");
    let mut names: Vec<&str> = operations.iter().filter_map(|row| row["operation"].as_str()).collect();
    names.dedup();
    let expected: Vec<&str> = checked_operations().map(Operation::name).collect();
    assert!(expected.contains(&"matmul") && expected.contains(&"batched_nms_on"), "{expected:?}");
    assert_eq!(names, expected, "every operation of vision_ops that runs on a device, in order");
    for row in operations {
        assert_eq!(number(row, "forward error"), 0.0, "{row:#}");
        let has_gradients = checked_operations().any(|of| row["operation"] == of.name() && of.is_differentiable());
        assert_eq!(row["gradient error"].as_f64(), has_gradients.then_some(0.0), "{row:#}");
    }
    let models = rows(&report, "parity-models");
    let cases: Vec<&str> = models.iter().filter_map(|row| row["case"].as_str()).collect();
    assert!(cases.len() >= 4 && cases.iter().any(|case| case.starts_with("backbone_")), "{cases:?}");
    assert!(["upernet/stages_eval", "upernet/train", "maskrcnn/train"].iter().all(|case| cases.contains(case)), "{cases:?}");
    for row in models {
        assert!(row["status"] == "ok" && number(row, "forward error") > 0.0 && number(row, "tensors") > 4.0, "{row:#}");
    }
    assert!(models.iter().any(|row| number(row, "forward error") > 1e-8 && row["gradient error"].as_f64() > Some(1e-8)));
}

#[test]
fn an_error_above_the_tolerance_fails() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fixtures = fixtures().display().to_string();
    let ran = check(folder.path(), &["--parts", "parity-models", "--fixtures", &fixtures, "--tolerance", "1e-12"]);
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("parity checks failed") && !ran.stderr.contains("panicked"), "{}{}", ran.stdout, ran.stderr);
    let report = report(folder.path());
    assert!(rows(&report, "parity-models").iter().all(|row| row["status"] == "too large" && row["forward error"].is_number()));
    assert_eq!(report["targets"][0]["met"], "yes", "the target does not depend on --tolerance: {:#}", report["targets"][0]);
}

#[test]
fn wrong_arguments_are_one_error_before_the_report_begins() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path();
    let empty = out.join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    let empty = empty.display().to_string();
    check(out, &["--fixtures", "no/such/folder"]).failed(&["--fixtures", "no/such/folder"]);
    check(out, &["--fixtures", &empty]).failed(&["--fixtures", "empty", "backbone_"]);
    check(out, &["--peers", &empty]).failed(&["--peers", "empty", "vmamba.py"]);
    check(out, &["--sides", "224,16"]).failed(&["--sides", "16"]);
    let named = [("--parts", "parity"), ("--precisions", "fp8"), ("--models", "vmamba_huge"), ("--operations", "relu")];
    for (option, wrong) in named.into_iter().chain([("--device", "gpu"), ("--rounds", "0")]) {
        let ran = check(out, &[option, wrong]);
        assert_eq!(ran.code, Some(2), "wrong usage: {}", ran.stderr);
        assert!(ran.stderr.contains(option) && ran.stderr.contains(wrong), "{}", ran.stderr);
        assert_eq!(ran.stderr.contains("possible values"), named.iter().any(|(name, _)| *name == option), "{}", ran.stderr);
    }
    assert!(!out.join("gpu_check.json").exists(), "no report");
}

#[test]
fn a_damaged_fixture_is_a_failed_row_and_the_other_cases_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let own = folder.path().join("fixtures/backbone_ds2pe1");
    std::fs::create_dir_all(&own).expect("a folder");
    for name in ["weights.json", "weights.safetensors", "io_odd.json", "io_odd.safetensors"] {
        std::fs::copy(fixtures().join("backbone_ds2pe1").join(name), own.join(name)).expect("a copy");
    }
    std::fs::write(own.join("io_more.json"), "{}").expect("a file");
    std::fs::write(own.join("io_more.safetensors"), "these are no tensors").expect("a file");
    let fixtures = folder.path().join("fixtures").display().to_string();
    let ran = check(folder.path(), &["--parts", "parity-models", "--fixtures", &fixtures]);
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    let report = report(folder.path());
    let rows = rows(&report, "parity-models");
    assert_eq!((&rows[0]["case"], &rows[0]["status"]), (&"backbone_ds2pe1/io_more".into(), &"failed".into()));
    assert!(rows[0]["note"].as_str().is_some_and(|note| note.contains("io_more.safetensors")), "{rows:#?}");
    assert_eq!((&rows[1]["case"], &rows[1]["status"]), (&"backbone_ds2pe1/io_odd".into(), &"ok".into()));
}

#[test]
fn rows_after_the_time_limit_are_left_out_and_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ran = check(folder.path(), &["--parts", "throughput,bandwidth", "--time-limit", "0"]);
    assert!(ran.succeeded().contains("left out, the time was up: throughput: vmamba_tiny_s1l8"), "{}", ran.stdout);
    let report = report(folder.path());
    assert_eq!(report["left_out"].as_array().map(Vec::len), Some(2 + 5), "{report:#}");
    assert!(rows(&report, "throughput").is_empty());
}

#[test]
fn without_fixtures_the_parity_of_networks_is_noted_as_not_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(folder.path(), &["--parts", "parity-models"]).succeeded();
    let report = report(folder.path());
    assert!(
        report["parts"][0]["notes"][0].as_str().is_some_and(|note| note.contains("not run") && note.contains("--fixtures")),
        "{report:#}"
    );
    assert!(report["targets"][0]["measured"].as_str().is_some_and(|text| text.starts_with("not measured")), "{report:#}");
}

/// A shell script in place of the Python worker: 0.5 s for a run, and an error for the second peer.
#[cfg(unix)]
#[test]
fn peers_run_in_the_same_rounds_and_one_that_refuses_is_a_row() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let asked = folder.path().join("asked");
    let script = format!(
        r#"#!/bin/sh
echo '{{"torch": "9.9", "torchvision": "8.8", "gpu": null, "models": {{}}}}'
while read -r line; do
    echo "$line" >> "{}"
    case "$line" in
    *setup*convnext_t*) echo '{{"error": "OutOfMemoryError: no memory left"}}' ;;
    *run*) echo '{{"wall": 0.5, "cpu": 1.0}}' ;;
    *memory*) echo '{{"before": 1048576, "peak": 3145728}}' ;;
    *) echo '{{"ok": true}}' ;;
    esac
done
"#,
        asked.display()
    );
    let python = folder.path().join("fake-python");
    std::fs::write(&python, script).expect("a file");
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).expect("it is our file");
    let official = folder.path().join("models");
    std::fs::create_dir(&official).expect("a folder");
    std::fs::write(official.join("vmamba.py"), "").expect("a file");
    let (python, official) = (python.display().to_string(), official.display().to_string());
    let more = ["--python", &python, "--peers", &official, "--parts", "training,memory", "--batches", "1"];
    check(folder.path(), &more).succeeded();
    let report = report(folder.path());
    let training = rows(&report, "training");
    let models: Vec<&str> = training.iter().filter_map(|row| row["model"].as_str()).collect();
    assert_eq!(models, ["vmamba_tiny_s1l8", "swin_t", "convnext_t", "official_vmamba_tiny_s1l8"]);
    assert_eq!((number(&training[1], "images/s"), &training[2]["status"]), (2.0, &"failed".into()), "{report:#}");
    assert_eq!(training[2]["note"], "OutOfMemoryError: no memory left");
    assert!((number(&training[1], "ours / this, images/s") - number(&training[0], "images/s") / 2.0).abs() < 1e-9);
    let asked = std::fs::read_to_string(asked).expect("the worker's own file");
    assert!(asked.contains(r#""device":"cpu","precision":"float32","update":true"#), "{asked}");
    if cfg!(target_os = "linux") {
        let memory = rows(&report, "memory");
        let official = memory.iter().find(|row| row["model"] == "official_vmamba_tiny_s1l8").expect("a row");
        assert_eq!((number(official, "reserved, MiB"), number(official, "before, MiB")), (3.0, 1.0));
        let ratio = report["targets"].as_array().and_then(|rows| rows.last()).expect("the target of memory");
        assert!((number(ratio, "measured") - number(&memory[0], "reserved, MiB") / 3.0).abs() < 1e-6, "{ratio:#}");
    }
}
