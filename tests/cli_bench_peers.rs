//! `bench_peers` as a user runs it: without peers, and with a shell script in place of the Python worker.

use tests::tool::{program, run};

const PROGRAM: &str = program::BENCH_PEERS;

/// The smallest measurement.
const SMALL: [&str; 8] = ["--sides", "32", "--threads", "1", "--rounds", "2", "--tasks", "forward"];

#[test]
fn without_python_it_measures_ours_and_reports_the_skipped_peers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("deep/er");
    let mut arguments = SMALL.to_vec();
    let out_text = out.display().to_string();
    arguments.extend(["--python", "no-such-python", "--out", &out_text]);
    let ran = run(PROGRAM, &arguments);
    let printed = ran.succeeded();
    assert!(printed.contains("peers skipped") && printed.contains("no-such-python"), "{printed}");
    assert!(printed.contains("forward, 32x32, batch 1, 1 thread") && printed.contains("vmamba_tiny_s1l8"), "{printed}");
    for name in ["peers.md", "peers.json", "peers.png", "peers.svg"] {
        assert!(out.join(name).metadata().is_ok_and(|file| file.len() > 100), "{name}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("peers.json")).expect("a file")).expect("valid JSON");
    let model = &json["tasks"][0]["models"][0];
    let times = |key: &str| model[key].as_array().expect("an array").iter().filter(|t| t.as_f64().is_some_and(|t| t > 0.0)).count();
    assert_eq!((times("wall"), times("cpu")), (2, 2), "{json}");
    assert_eq!(json["torch"], serde_json::Value::Null);
}

#[test]
fn unknown_names_are_wrong_usage_and_small_images_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().display().to_string();
    let with = |extra: &[&str]| {
        let mut arguments = SMALL.to_vec();
        arguments.extend(["--python", "none", "--out", &out]);
        arguments.extend(extra);
        run(PROGRAM, &arguments)
    };
    for (option, wrong, possible) in [("--peers", "swin_x", "swin_t"), ("--models", "vmamba_huge", "vmamba_tiny_s1l8")] {
        let ran = with(&[option, wrong]);
        assert_eq!(ran.code, Some(2), "wrong usage: {}", ran.stderr);
        assert!([option, wrong, possible].iter().all(|part| ran.stderr.contains(part)), "{}", ran.stderr);
    }
    assert!(with(&[]).succeeded().contains("peers skipped: --python none"));
    let mut tiny = SMALL.to_vec();
    tiny[1] = "8";
    tiny.extend(["--python", "none", "--out", &out]);
    run(PROGRAM, &tiny).failed(&["32", "8x8"]);
}

/// A shell script in place of Python: it answers requests as the worker does, and dies at a request that contains `fatal`.
#[cfg(unix)]
fn fake_python(folder: &std::path::Path, fatal: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let script = format!(
        r#"#!/bin/sh
echo '{{"torch": "9.9", "torchvision": "8.8", "models": {{"forward": ["swin_t", "deit_s"], "segment": ["swin_t"]}}}}'
while read -r line; do
    # More standard error than a pipe holds: the program must read it, or the worker would wait forever.
    head -c 100000 /dev/zero | tr '\0' 'x' >&2
    echo >&2
    case "$line" in
    *{fatal}*) echo "out of memory" >&2; exit 3 ;;
    *setup*deit_s*) echo '{{"error": "ValueError: too small for deit_s"}}' ;;
    *run*) echo "$line" >> "{folder}/asked"; echo '{{"wall": 0.5, "cpu": 1.0}}' ;;
    *memory*) echo '{{"before": 1048576, "peak": 3145728}}' ;;
    *) echo '{{"ok": true}}' ;;
    esac
done
"#,
        folder = folder.display(),
    );
    let path = folder.join("fake-python");
    std::fs::write(&path, script).expect("a temporary folder takes a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is our file");
    path.display().to_string()
}

#[cfg(unix)]
#[test]
fn peers_run_in_turns_and_one_that_refuses_is_a_row_that_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().display().to_string();
    let python = fake_python(folder.path(), "nothing-is-fatal");
    let arguments = ["--python", &python, "--out", &out, "--sides", "32", "--threads", "1", "--rounds", "3", "--long-rounds", "1"];
    let mut arguments: Vec<&str> = arguments.to_vec();
    arguments.extend(["--tasks", "forward,segment,memory", "--segment-side", "64"]);
    let ran = run(PROGRAM, &arguments);
    let printed = ran.succeeded();
    assert!(printed.contains("PyTorch 9.9, torchvision 8.8"), "{printed}");
    // The requested peers without UperNet are named.
    assert!(ran.stderr.contains("no peer for this task: convnext_t, resnet50, deit_s"), "{}", ran.stderr);
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("peers.json")).expect("a file")).expect("valid JSON");
    let models = &json["tasks"][0]["models"];
    assert_eq!(models[0]["wall"].as_array().map(Vec::len), Some(3), "{json}");
    assert_eq!((&models[1]["name"], &models[1]["wall"]), (&"swin_t".into(), &vec![0.5; 3].into()));
    assert_eq!(models[2]["error"], "ValueError: too small for deit_s");
    assert_eq!((&json["tasks"][1]["work"], &json["tasks"][1]["models"][1]["wall"]), (&"segment".into(), &vec![0.5].into()));
    // A warm-up and the runs, for each of the two tasks that have this peer.
    let asked = std::fs::read_to_string(folder.path().join("asked")).expect("the worker's own file");
    assert_eq!(asked.lines().count(), 4 + 2, "{asked}");
    // Ours is measured in a child process, with 30 million weights; the figures of the peer come from the worker.
    let memory = json["memory"].as_array().expect("an array");
    if cfg!(target_os = "linux") {
        assert!(memory[0]["before"].as_u64() > Some(100 << 20) && memory[0]["peak"].as_u64() >= memory[0]["before"].as_u64(), "{json}");
    }
    assert_eq!(memory[1]["peak"], 3 << 20, "{json}");
    let markdown = std::fs::read_to_string(folder.path().join("memory.md")).expect("a file");
    let row: Vec<&str> = markdown.lines().find(|line| line.contains("swin_t")).unwrap_or_default().split('|').map(str::trim).collect();
    assert_eq!(row.get(2..6), Some(["swin_t", "3", "1", "2"].as_slice()), "{markdown}");
}

#[cfg(unix)]
#[test]
fn a_worker_that_dies_leaves_our_figures_and_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().display().to_string();
    let python = fake_python(folder.path(), r#"'"run"'"#);
    let mut arguments = SMALL.to_vec();
    arguments.extend(["--python", &python, "--out", &out]);
    let ran = run(PROGRAM, &arguments);
    ran.failed(&["the worker of the peers ended", "out of memory"]);
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("peers.json")).expect("a file")).expect("valid JSON");
    let models = &json["tasks"][0]["models"];
    assert_eq!(models[0]["wall"].as_array().map(Vec::len), Some(2), "{json}");
    for peer in [1, 2] {
        assert!(models[peer]["error"].as_str().is_some_and(|error| error.contains("out of memory")), "{json}");
    }
}
