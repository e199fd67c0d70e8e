//! Kills a training run at its writes, as a power cut or `kill -9` would: the run is resumed, and ends with the same bits as one that nobody
//! killed.
//!
//! strace counts the system calls that change files, and sends SIGKILL when the chosen one begins. Ten points spread over the run are
//! killed, and each resumed run is killed once more; `VMAMBA_KILL_POINTS=all` takes every call, which takes minutes.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tests::tool::{Place, Ran, executable, program};

/// The calls that change files.
const CALLS: &str = "write,pwrite64,writev,rename,renameat,renameat2,fsync,fdatasync,unlink,unlinkat,ftruncate";
/// Points to kill at, unless all are asked for.
const POINTS: usize = 10;

/// Whether strace is there. On CI, where the reference set is, it must be.
fn strace_is_there() -> bool {
    let there = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    assert!(there || std::env::var_os("VMAMBA_SHARED").is_none(), "strace is missing; .ci/run installs it");
    if !there {
        println!("not run: strace is not installed");
    }
    there
}

/// Trains into the folder `out` under strace with these options.
fn train(place: &Place, out: &str, strace: &[&str], more: &[&str]) -> Ran {
    let (config, folder) = (place.config.to_string_lossy().into_owned(), place.path(out));
    let trace = place.path("trace");
    let mut command = Command::new("strace");
    // Without a filter in the kernel, strace would stop every call of every thread.
    command.args(["-f", "--seccomp-bpf", "-o", &trace, "-e", &format!("trace={CALLS}")]).args(strace).arg(executable(program::TRAIN_SEG));
    command.args(["--config", &config, "--out", &folder, "--set", "train.checkpoint_interval=1"]).args(more);
    command.output().expect("strace").into()
}

/// A call that changes files: its name, and its number among the calls of this name, from 1.
type Point = (String, usize);

/// Kills a run when a call begins.
fn killed(place: &Place, (call, number): &Point, more: &[&str]) {
    let ran = train(place, "run", &["-e", &format!("inject={call}:signal=KILL:when={number}")], more);
    assert!(ran.code.is_none() || ran.code == Some(0), "killed, or ended before the call: {ran:?}");
}

/// The option to go on with: a run that was killed before its first checkpoint starts again.
fn go_on(place: &Place) -> &'static str {
    if Path::new(&place.path("run/last.safetensors")).exists() { "--resume" } else { "--overwrite" }
}

/// The calls of the main thread that change files, in order.
fn points(place: &Place) -> Vec<Point> {
    let trace = fs::read_to_string(place.path("trace")).expect("the trace");
    let main = trace.split_whitespace().next().expect("a call").to_owned();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let of_line = |line: &str| {
        let (call, _) = line.split_once(' ').filter(|(thread, _)| *thread == main)?.1.trim_start().split_once('(')?;
        let number = counts.entry(call.to_owned()).and_modify(|number| *number += 1).or_insert(1);
        Some((call.to_owned(), *number))
    };
    trace.lines().filter_map(of_line).collect()
}

/// Ten of the points: half of them writes, half of them the calls between the writes, both spread over the run.
fn chosen(points: Vec<Point>) -> Vec<Point> {
    if std::env::var("VMAMBA_KILL_POINTS").is_ok_and(|wish| wish == "all") {
        return points;
    }
    let (writes, others): (Vec<Point>, Vec<Point>) = points.into_iter().partition(|(call, _)| call.contains("write"));
    let spread = |points: Vec<Point>| -> Vec<Point> {
        let half = POINTS / 2;
        (0..half).map(|index| points[(2 * index + 1) * points.len() / (2 * half)].clone()).collect()
    };
    [spread(writes), spread(others)].concat()
}

#[test]
fn a_run_killed_at_any_write_resumes_and_ends_with_the_same_bits() {
    if !strace_is_there() {
        return;
    }
    let place = Place::new(4);
    train(&place, "whole", &[], &[]).succeeded();
    let all = points(&place);
    assert!(all.len() > 50 && all.iter().any(|(call, _)| call.starts_with("rename")), "the calls of the run are counted: {all:?}");
    let weights = |out: &str| fs::read(place.path(&format!("{out}/last.safetensors"))).expect("a checkpoint");
    let chosen = chosen(all);
    println!("{} calls to kill the run at", chosen.len());
    for point in chosen {
        drop(fs::remove_dir_all(place.path("run")));
        killed(&place, &point, &[]);
        killed(&place, &(point.0.clone(), point.1.div_ceil(2)), &[go_on(&place)]);
        let ended = place.train_with(program::TRAIN_SEG, "run", &[go_on(&place), "--set", "train.checkpoint_interval=1"]);
        ended.succeeded();
        assert!(weights("run") == weights("whole"), "{point:?}: the checkpoints differ");
        assert_eq!(place.trace("run"), place.trace("whole"), "{point:?}: every step and every validation is logged once");
        let left = fs::read_dir(place.path("run")).expect("the run").map(|entry| entry.expect("an entry").file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with(".saving")).collect();
        assert!(left.is_empty(), "{point:?}: {left:?} stays");
    }
}

#[test]
fn a_full_disk_under_the_log_saves_the_run_and_ends_it_with_one_line() {
    if !strace_is_there() {
        return;
    }
    let place = Place::new(4);
    let log = place.path("run/metrics.jsonl");
    // The second record does not fit.
    let ran = train(&place, "run", &["-P", &log, "-e", "inject=write:error=ENOSPC:when=2+"], &["--set", "train.checkpoint_interval=99"]);
    ran.failed(&["metrics.jsonl", "No space left", "the newest good checkpoint is"]);
    let resumed = place.train_with(program::TRAIN_SEG, "run", &["--resume"]);
    assert!(resumed.succeeded().contains("resumed after iteration 2"), "the second step is not lost: {resumed:?}");
}
