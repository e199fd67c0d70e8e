//! `bench_peers` as a user runs it, with a Python that is none and without one.

use tests::tool::run;

const PROGRAM: &str = env!("CARGO_BIN_EXE_bench_peers");

/// The smallest measurement there is.
const SMALL: [&str; 8] = ["--sides", "32", "--threads", "1", "--runs", "2", "--train-batch", "0"];

#[test]
fn without_python_it_measures_ours_and_says_what_it_skipped() {
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
fn wrong_names_and_sizes_are_errors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().display().to_string();
    let with = |extra: &[&str]| {
        let mut arguments = SMALL.to_vec();
        arguments.extend(["--python", "none", "--out", &out]);
        arguments.extend(extra);
        run(PROGRAM, &arguments)
    };
    with(&["--models", "vmamba_huge"]).failed(&["--models", "vmamba_huge", "vmamba_tiny_s1l8"]);
    let mut tiny = SMALL.to_vec();
    tiny[1] = "8";
    tiny.extend(["--python", "none", "--out", &out]);
    run(PROGRAM, &tiny).failed(&["32", "8x8"]);
}
