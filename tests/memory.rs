//! The estimate of the memory beside the measured peak, and what happens above the memory that is free.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::tool::{executable, program, run};

/// The largest factor between estimate and measurement.
const FACTOR: f64 = 1.5;

/// Trains three steps with a program and its demo; returns the estimate that it prints and the measured peak of its resident memory, in MiB.
#[cfg(target_os = "linux")]
fn estimated_and_measured(program: &str, settings: &[&str]) -> (f64, f64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run");
    let mut command = Command::new(executable(program));
    command.arg("--out").arg(&out).stdout(Stdio::piped()).stderr(Stdio::piped());
    for setting in ["train.iterations=3", "train.pictures=0", "data.source.train=64", "data.source.val=2"].iter().chain(settings) {
        command.args(["--set", setting]);
    }
    let mut child = command.spawn().expect("the program can be started");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0.0_f64;
    while child.try_wait().expect("the child can be waited for").is_none() {
        // The high water mark never falls, so that the last sample before the end counts.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let mark =
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok());
        peak = peak.max(mark.unwrap_or(0.0) / 1024.0);
        std::thread::sleep(Duration::from_millis(5));
    }
    let ran: tests::tool::Ran = child.wait_with_output().expect("it ends").into();
    let stdout = ran.succeeded();
    let line = stdout.lines().find_map(|line| line.strip_prefix("estimated memory: ")).expect("the estimate is printed");
    let mut words = line.split(' ');
    let (number, unit) = (words.next().expect("a number"), words.next().expect("a unit"));
    let estimate: f64 = number.parse().expect("a number");
    println!("{program} {settings:?}: estimated {estimate} {unit}, measured {peak:.0} MiB; {line}");
    (if unit == "GiB" { estimate * 1024.0 } else { estimate }, peak)
}

#[cfg(target_os = "linux")]
#[test]
fn the_estimate_is_within_a_factor_of_one_and_a_half_of_the_measured_peak() {
    let vmamba_t = ["model.backbone={ preset = \"vmamba_tiny_s1l8\" }", "data.source.size=224", "train.batch_size=1"];
    let with = |more: &[&'static str]| [&vmamba_t[..], more].concat();
    for (program, settings) in [
        (program::TRAIN_SEG, vec![]),
        (program::TRAIN_DET, vec![]),
        (program::TRAIN_SEG, vec!["train.batch_size=16", "train.ema=0.99"]),
        (program::TRAIN_DET, with(&["data.train.scales=[[224, 224]]"])),
        (program::TRAIN_SEG, with(&["train.batch_size=2", "data.train.crop.size=[224, 224]", "model.head.channels=128"])),
    ] {
        let (estimate, measured) = estimated_and_measured(program, &settings);
        assert!(estimate < measured * FACTOR && measured < estimate * FACTOR, "{settings:?}: {estimate:.0} and {measured:.0} MiB");
    }
}

#[test]
fn a_run_beyond_the_free_memory_is_refused_before_the_model_is_built() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run").to_string_lossy().into_owned();
    let huge = ["--out", &out, "--set", "train.batch_size=65536", "--set", "data.train.crop.size=[4096, 4096]"];
    run(program::TRAIN_SEG, &huge).failed(&["memory", "GiB", "free", "activations", "--ignore-memory"]);
    assert!(!folder.path().join("run").exists());
}

#[test]
fn a_picture_beyond_the_free_memory_is_refused_before_it_is_made() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().to_string_lossy().into_owned();
    run(program::ACTIVATION, &["--scene", "0", "--model", "vmamba_tiny_s1l8", "--size", "16384", "--out", &out])
        .failed(&["--size", "memory", "free"]);
    run(program::ERF, &["--models", "vmamba_tiny_s1l8", "--size", "16384", "--out", &out]).failed(&["memory", "free"]);
}
