//! Files and folders of runs, signals, full disks and special files: nothing is lost or destroyed, and every refusal is one line with exit
//! code 1. The kinds of faults are tried with the segmentor; the programs for detectors share the code.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::tool::{Place, Ran, contents, executable, program, run};
use vmamba::checkpoint::{StateDict, StateTensor, export_safetensors};
use vmamba_files::FolderLock;

const TRAIN: &str = program::TRAIN_SEG;
const TEST: &str = program::TEST_SEG;
const PREDICT: &str = program::PREDICT;
const EXPORT: &str = program::EXPORT_WEIGHTS;

fn train(place: &Place, more: &[&str]) -> Ran {
    place.train_with(TRAIN, "run", more)
}

/// Runs a program in a shell, with `setting` before it and `after` behind it: limits and redirections.
#[cfg(target_os = "linux")]
fn in_shell(setting: &str, program: &str, arguments: &[&str], after: &str) -> Ran {
    let quoted: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
    let script = format!("{setting} '{}' {} {after}", executable(program).display(), quoted.join(" "));
    Command::new("bash").args(["-c", &script]).output().expect("bash").into()
}

// ---- Resuming ----

#[test]
fn a_resume_that_is_refused_changes_no_file_of_the_run() {
    let place = Place::new(2);
    train(&place, &[]).succeeded();
    let before = contents(Path::new(&place.path("run")));
    for (setting, parts) in [
        ("model.backbone.dims=16", ["last.safetensors", "[8"]),
        ("train.batch_size=0", ["train.batch_size", "from 1 to"]),
        ("train.optimizer.lrr=1", ["lrr", "lr"]),
    ] {
        train(&place, &["--resume", "--set", setting]).failed(&parts);
        run(TRAIN, &["--out", &place.path("run"), "--resume", "--set", setting]).failed(&parts);
        assert!(contents(Path::new(&place.path("run"))) == before, "{setting}");
    }
    assert!(train(&place, &["--resume", "--set", "train.iterations=3"]).succeeded().contains("resumed after iteration 2"));
}

#[test]
fn a_run_with_a_damaged_configuration_goes_on_with_that_of_its_checkpoint() {
    let place = Place::new(2);
    train(&place, &[]).succeeded();
    let config = place.path("run/config.toml");
    let whole = fs::read_to_string(&config).expect("a configuration");
    let damages: [&dyn Fn(); 4] = [
        &|| fs::write(&config, "").expect("an empty file"),
        &|| fs::write(&config, &whole[..whole.len() / 2]).expect("half a file"),
        &|| fs::write(&config, [0, 0xff, 0]).expect("no text"),
        &|| fs::remove_file(&config).expect("the file"),
    ];
    for (index, damage) in damages.iter().enumerate() {
        damage();
        let iterations = format!("train.iterations={}", 3 + index);
        let ran = run(TRAIN, &["--out", &place.path("run"), "--resume", "--set", &iterations]);
        let text = ran.succeeded();
        assert!(text.contains("the run keeps the configuration in") && text.contains("config.toml"), "{text}");
        assert!(text.contains(&format!("resumed after iteration {}", 2 + index)), "{text}");
        let now = fs::read_to_string(&config).expect("a configuration");
        assert!(now.contains(&format!("iterations = {}", 3 + index)) && now.len() >= whole.len(), "it is whole again");
    }
    // A wrong change is still refused, and named as such.
    fs::remove_file(&config).expect("the file");
    run(TRAIN, &["--out", &place.path("run"), "--resume", "--set", "train.batch_sise=2"]).failed(&["`batch_sise`", "`batch_size`"]);
}

#[test]
fn a_run_whose_first_checkpoint_failed_is_started_again_with_overwrite() {
    let place = Place::new(2);
    #[cfg(target_os = "linux")]
    {
        let (config, out) = (place.config.to_string_lossy().into_owned(), place.path("run"));
        let limit = "ulimit -f 16; exec";
        let failed = in_shell(limit, TRAIN, &["--config", &config, "--out", &out], "");
        failed.failed(&["last.safetensors", "no checkpoint has been saved yet", "--overwrite"]);
        // Neither message may send the user to the other option.
        let again = train(&place, &[]);
        again.failed(&["ended before its first checkpoint", "--overwrite"]);
        assert!(!again.stderr.contains("--resume"), "{}", again.stderr);
        train(&place, &["--resume"]).failed(&["ended before its first checkpoint", "--overwrite"]);
        // The limit sends a signal, which would end the process before it could clean up.
        for name in fs::read_dir(place.path("run")).expect("the run").map(|entry| entry.expect("an entry").file_name()) {
            assert!(!name.to_string_lossy().starts_with('.'), "{name:?} stays");
        }
    }
    train(&place, &["--overwrite"]).succeeded();
}

#[test]
fn the_error_of_a_damaged_checkpoint_is_said_once() {
    let place = Place::new(2);
    train(&place, &[]).succeeded();
    let (last, config) = (place.path("run/last.safetensors"), place.path("run/config.toml"));
    let whole = fs::read(&last).expect("a checkpoint");
    fs::write(&last, &whole[..whole.len() / 2]).expect("half a checkpoint");
    // `failed` looks for repetitions.
    train(&place, &["--resume"]).failed(&["cannot resume", "last.safetensors"]);
    fs::remove_file(config).expect("the configuration");
    run(TRAIN, &["--out", &place.path("run"), "--resume"]).failed(&["config.toml", "last.safetensors", "the checkpoint does not help"]);
}

#[test]
fn damaged_lines_of_the_log_are_set_aside_by_a_resume() {
    let place = Place::new(4);
    train(&place, &[]).succeeded();
    let log = place.path("run/metrics.jsonl");
    let text = fs::read_to_string(&log).expect("the log");
    let lines: Vec<&str> = text.lines().collect();
    let damaged = [&lines[..1], &["{\"kind\": \"tr", "\0\0\0"], &lines[1..], &[""]].concat().join("\n");
    fs::write(&log, &damaged).expect("the log");
    let ran = train(&place, &["--resume", "--set", "train.iterations=5"]);
    let said = ran.succeeded();
    assert!(said.contains("metrics.jsonl: 2 damaged lines are left out; the file as it was is"), "{said}");
    assert_eq!(fs::read_to_string(place.path("run/metrics.damaged.jsonl")).expect("the copy"), damaged, "nothing is lost");
    let now = fs::read_to_string(&log).expect("the log");
    assert!(now.starts_with(&text) && now.len() > text.len() && !now.contains('\0'), "{now}");
    let again = train(&place, &["--resume", "--set", "train.iterations=6"]);
    assert!(!again.succeeded().contains("damaged"), "{again:?}");
}

// ---- Two runs, and overwriting ----

#[test]
fn a_second_run_in_a_folder_is_refused_while_the_first_one_works() {
    let place = Place::new(2);
    train(&place, &[]).succeeded();
    let before = contents(Path::new(&place.path("run")));
    let lock = FolderLock::acquire(Path::new(&place.path("run"))).expect("the folder is free");
    for more in [&["--resume"][..], &["--overwrite"], &[]] {
        train(&place, more).failed(&["in use by another run"]);
    }
    assert!(contents(Path::new(&place.path("run"))) == before);
    drop(lock);
    train(&place, &["--overwrite"]).succeeded();

    // A run that works and has no checkpoint yet has not ended too early.
    fs::remove_file(place.path("run/last.safetensors")).expect("a checkpoint");
    let lock = FolderLock::acquire(Path::new(&place.path("run"))).expect("the folder is free");
    let resumed = train(&place, &["--resume"]);
    resumed.failed(&["in use by another run"]);
    assert!(!resumed.stderr.contains("--overwrite"), "{resumed:?}");
    drop(lock);
}

#[test]
fn no_program_writes_into_the_folder_of_a_run_that_works() {
    let place = Place::new(1);
    train(&place, &[]).succeeded();
    let (run_folder, checkpoint, photo) =
        (place.path("run"), place.path("run/last.safetensors"), place.path("data/images/validation/scene_000006.png"));
    let lock = FolderLock::acquire(Path::new(&run_folder)).expect("the folder is free");
    let before = contents(Path::new(&run_folder));
    let (figures, weights) = (place.path("run/figures.json"), place.path("run/best.safetensors"));
    for (program, arguments) in [
        (TEST, &[checkpoint.as_str(), "--out", &run_folder][..]),
        (TEST, &[&checkpoint, "--json", &figures]),
        (PREDICT, &[&checkpoint, &photo, "--out", &run_folder]),
        (EXPORT, &[&checkpoint, &weights, "--overwrite"]),
        (program::CHECK_DATA, &["--json", &figures]),
        (program::ROUTES, &["--out", &run_folder]),
        (program::TABLES, &["--out", &run_folder]),
    ] {
        run(program, arguments).failed(&["the folder is in use by another run"]);
    }
    assert!(contents(Path::new(&run_folder)) == before);
    // Below it is room for results.
    run(TEST, &[&checkpoint, "--out", &place.path("run/test")]).succeeded();
    drop(lock);
    run(TEST, &[&checkpoint, "--json", &figures]).succeeded();
}

#[test]
fn overwriting_leaves_nothing_of_the_old_run_and_everything_of_its_neighbours_and_of_the_user() {
    let place = Place::new(3);
    // As a glob pattern, `run[1]` would match `run1`.
    for name in ["run1", "run[1]"] {
        place.train_with(TRAIN, name, &[]).succeeded();
    }
    let neighbour = contents(Path::new(&place.path("run1")));
    for (name, text) in [("run[1]/pictures/own.png", "a picture"), ("run[1]/notes.txt", "of the user"), ("run[1]/.saving-x", "half a file")]
    {
        fs::write(place.path(name), text).expect("a file");
    }
    assert_eq!(
        fs::read_dir(place.path("run[1]/pictures")).expect("the folder").count(),
        4,
        "two of the run, their list and one of the user"
    );
    place.train_with(TRAIN, "run[1]", &["--overwrite", "--set", "train.iterations=1", "--set", "train.pictures=0"]).succeeded();
    assert!(contents(Path::new(&place.path("run1"))) == neighbour, "the neighbour is as it was");
    let left = contents(Path::new(&place.path("run[1]/pictures"))).into_keys().map(|path| path.file_name().map(std::ffi::OsStr::to_owned));
    assert_eq!(left.flatten().collect::<Vec<_>>(), [".drawn", "own.png"], "no picture of the old run, and that of the user");
    assert_eq!(fs::read_dir(place.path("run[1]/tensorboard")).expect("the folder").count(), 1);
    assert_eq!(fs::read_to_string(place.path("run[1]/notes.txt")).expect("the notes"), "of the user");
    assert!(!Path::new(&place.path("run[1]/.saving-x")).exists(), "the half-written file of a killed run is gone");
}

#[test]
fn an_input_of_a_run_is_not_deleted_with_the_run_that_it_overwrites() {
    let place = Place::new(1);
    train(&place, &[]).succeeded();
    let run_folder = place.path("run");
    let before = contents(Path::new(&run_folder));
    let last = place.path("run/last.safetensors");
    train(&place, &["--overwrite", "--set", &format!("init={last}")]).failed(&["last.safetensors is an input of the new run"]);
    let config = place.path("run/config.toml");
    run(TRAIN, &["--config", &config, "--out", &run_folder, "--overwrite"]).failed(&["config.toml is an input of the new run"]);
    assert!(contents(Path::new(&run_folder)) == before);
    // A resumed run keeps its configuration, so it may be named.
    run(TRAIN, &["--config", &config, "--out", &run_folder, "--resume", "--set", "train.iterations=2"]).succeeded();
}

#[test]
fn the_name_of_a_configuration_does_not_lead_out_of_the_folder_of_runs() {
    let place = Place::new(1);
    let config = place.config.to_string_lossy().into_owned();
    for name in ["../../escaped", "/tmp/escaped", "..", ""] {
        let mut command = Command::new(executable(TRAIN));
        command.args(["--config", &config, "--set", &format!("name=\"{name}\"")]).current_dir(place.folder.path());
        Ran::from(command.output().expect("the program")).failed(&["name must be a plain name"]);
    }
    assert!(!Path::new(&place.path("runs")).exists());
}

// ---- Signals ----

#[test]
fn an_interrupted_run_ends_with_the_exit_code_of_its_signal_and_goes_on_later() {
    for (signals, codes) in [
        (&["INT"][..], &[130][..]),
        (&["TERM"], &[143]),
        (&["TERM", "TERM"], &[143]),
        (&["INT", "INT"], &[130]),
        // Of two signals that wait at the same time, the system may deliver either first.
        (&["TERM", "INT"], &[143, 130]),
    ] {
        let place = Place::new(40);
        // `timeout` sends its signal to the child and to the group: the second one must not end the run before it has saved.
        let ran = place.interrupt(TRAIN, "run", signals);
        assert!(codes.iter().any(|code| ran.code == Some(*code)), "{signals:?}: {ran:?}");
        assert!(ran.stdout.contains("continue it with --resume"), "{signals:?}: {ran:?}");
        let resumed = train(&place, &["--resume", "--set", "train.iterations=41"]);
        assert!(resumed.succeeded().contains("resumed after iteration"), "{resumed:?}");
    }
}

#[test]
fn a_second_ctrl_c_a_second_later_ends_a_run_at_once() {
    let place = Place::new(9);
    // A step of minutes.
    let child = place.started(TRAIN, "run", &["--set", "train.accumulation=60000"], "config.toml");
    let begin = Instant::now();
    let ran = Place::signalled(child, "kill -INT PID; sleep 1.2; kill -INT PID");
    assert!(ran.code == Some(130) && begin.elapsed() < Duration::from_secs(20), "{ran:?} after {:?}", begin.elapsed());
    assert!(ran.stderr.contains("Ctrl-C once more") && !ran.stdout.contains("continue it with --resume"), "{ran:?}");
}

// ---- Full disks ----

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_under_the_output_saves_the_run_and_ends_it_with_one_line() {
    let place = Place::new(4);
    let (config, out) = (place.config.to_string_lossy().into_owned(), place.path("run"));
    in_shell("", TRAIN, &["--config", &config, "--out", &out], ">/dev/full").failed(&["cannot print the progress", "last.safetensors"]);
    let steps = place.trace("run").len();
    let resumed = train(&place, &["--resume"]);
    assert!(resumed.succeeded().contains(&format!("resumed after iteration {steps}")), "no step is lost: {resumed:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn full_and_closed_outputs_do_not_panic() {
    let place = Place::new(1);
    train(&place, &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    let photo = place.path("data/images/validation");
    let results = place.path("out");
    for (program, arguments) in
        [(TEST, vec![checkpoint.as_str()]), (PREDICT, vec![&checkpoint, &photo, "--out", &results]), (program::CHECK_DATA, vec![])]
    {
        in_shell("", program, &arguments, ">/dev/full").failed(&["cannot write to standard output"]);
        for (after, code) in [("| true", 0), (">&-", 0)] {
            let ran = in_shell("set -o pipefail;", program, &arguments, after);
            assert!(ran.code == Some(code) && !ran.stderr.contains("panicked"), "{program} {after}: {ran:?}");
        }
        let ran = in_shell("", program, &[&arguments[..], &["--no-such-option"]].concat(), "2>/dev/full");
        assert_eq!(ran.code, Some(2), "{program}: {ran:?}");
    }
    let missing = place.path("none.safetensors");
    let ran = in_shell("", TEST, &[&missing], "2>/dev/full");
    assert_eq!(ran.code, Some(1), "{ran:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_prediction_that_does_not_fit_on_the_disk_is_an_error_and_leaves_no_file() {
    let place = Place::new(1);
    train(&place, &[]).succeeded();
    let (checkpoint, photo, out) =
        (place.path("run/last.safetensors"), place.path("data/images/validation/scene_000006.png"), place.path("out"));
    let ran = in_shell("ulimit -f 0; exec", PREDICT, &[&checkpoint, &photo, "--out", &out], "");
    ran.failed(&["scene_000006_overlay.png"]);
    assert_eq!(fs::read_dir(&out).expect("the folder").count(), 0, "neither an empty file nor a temporary one");
    run(PREDICT, &[&checkpoint, &photo, "--out", &out]).succeeded();
}

// ---- Weights ----

#[test]
fn weights_are_not_exported_over_their_checkpoint_nor_unasked_over_another_file() {
    let place = Place::new(1);
    train(&place, &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    let before = fs::read(&checkpoint).expect("a checkpoint");
    let mut same = vec![checkpoint.clone(), place.path("run/../run/last.safetensors")];
    #[cfg(unix)]
    {
        let (hard, soft) = (place.path("hard.safetensors"), place.path("soft.safetensors"));
        fs::hard_link(&checkpoint, &hard).expect("a link");
        std::os::unix::fs::symlink(&checkpoint, &soft).expect("a link");
        same.extend([hard, soft]);
    }
    for output in &same {
        for more in [&[][..], &["--overwrite"]] {
            run(EXPORT, &[&[checkpoint.as_str(), output.as_str()], more].concat()).failed(&["OUTPUT would overwrite this input"]);
        }
    }
    assert!(fs::read(&checkpoint).expect("a checkpoint") == before);

    let other = place.path("other.safetensors");
    fs::write(&other, "of the user").expect("a file");
    run(EXPORT, &[&checkpoint, &other]).failed(&["other.safetensors", "--overwrite"]);
    assert_eq!(fs::read_to_string(&other).expect("the file"), "of the user");
    run(EXPORT, &[&checkpoint, &other, "--overwrite"]).succeeded();
    run(EXPORT, &[&other, &place.path("again.safetensors")]).succeeded();
}

#[test]
fn weights_are_not_written_under_the_name_of_another_format() {
    let place = Place::new(1);
    train(&place, &[]).succeeded();
    for name in ["weights.pth", "weights.onnx", "weights", "weights.safetensors.bak"] {
        run(EXPORT, &[place.path("run/last.safetensors"), place.path(name)]).failed(&[name, ".safetensors"]);
        assert!(!Path::new(&place.path(name)).exists());
    }
}

// ---- Special files and names ----

#[test]
#[cfg(unix)]
fn pipes_devices_and_folders_as_inputs_are_refused_by_name_without_waiting() {
    let place = Place::new(1);
    train(&place, &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    let pipe = |path: &str| {
        drop(fs::remove_file(path));
        assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
    };
    let photo = place.path("photo.png");
    pipe(&photo);
    let ran = run(PREDICT, &[&checkpoint, &photo, "--out", &place.path("out")]);
    ran.failed(&["photo.png", "a named pipe"]);
    run(TEST, &["/dev/zero"]).failed(&["/dev/zero", "a device"]);
    run(TEST, &[&photo]).failed(&["photo.png", "a named pipe"]);
    run(TRAIN, &["--config", &photo, "--out", &place.path("other")]).failed(&["photo.png", "a named pipe"]);
    run(TRAIN, &["--config", &place.path("data"), "--out", &place.path("other")]).failed(&["data", "a folder"]);

    let labels = place.path("data/annotations/training/scene_000001.png");
    let kept = fs::read(&labels).expect("labels");
    pipe(&labels);
    place.train_with(TRAIN, "other", &[]).failed(&["scene_000001.png", "a named pipe"]);
    fs::remove_file(&labels).expect("the pipe");
    fs::write(&labels, kept).expect("labels");
    pipe(&place.path("data/objectInfo.csv"));
    place.train_with(TRAIN, "third", &[]).failed(&["objectInfo.csv", "a named pipe"]);

    let place = Place::detection(1);
    pipe(&place.path("data/annotations/instances_val.json"));
    place.train_with(program::TRAIN_DET, "run", &[]).failed(&["instances_val.json", "a named pipe"]);
}

#[test]
fn images_of_one_name_in_two_folders_have_results_of_their_own() {
    let place = Place::detection(1);
    place.train_with(program::TRAIN_DET, "run", &[]).succeeded();
    // Two folders with images of the same names.
    let annotations = place.path("data/annotations/instances_val.json");
    let mut document: serde_json::Value = serde_json::from_slice(&fs::read(&annotations).expect("annotations")).expect("JSON");
    for (index, image) in document["images"].as_array_mut().expect("images").iter_mut().enumerate() {
        let old = image["file_name"].as_str().expect("a name").to_owned();
        let new = format!("camera{}/{}.png", index % 2, index / 2);
        let path = place.path(&format!("data/val/{new}"));
        fs::create_dir_all(Path::new(&path).parent().expect("a folder")).expect("the folder");
        fs::rename(place.path(&format!("data/val/{old}")), path).expect("an image");
        image["file_name"] = new.into();
    }
    fs::write(&annotations, document.to_string()).expect("annotations");
    let out = place.path("out");
    run(program::TEST_DET, &[&place.path("run/last.safetensors"), "--out", &out]).succeeded();
    assert_eq!(fs::read_dir(format!("{out}/pictures")).expect("pictures").count(), 4);
}

#[test]
fn terminal_escapes_in_names_are_printed_as_text() {
    let place = Place::detection(1);
    for split in ["train", "val"] {
        let path = place.path(&format!("data/annotations/instances_{split}.json"));
        let mut document: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("annotations")).expect("JSON");
        document["categories"][0]["name"] = "\u{1b}[31mred\u{7}".into();
        fs::write(&path, document.to_string()).expect("annotations");
    }
    let trained = place.train_with(program::TRAIN_DET, "run", &[]);
    assert!(trained.succeeded().contains("\\u{1b}[31mred\\u{7}"), "in the table of the classes: {trained:?}");
    let tested = run(program::TEST_DET, &[place.path("run/last.safetensors")]);
    assert!(tested.succeeded().contains("\\u{1b}[31mred\\u{7}"), "{tested:?}");

    let weights = place.path("weights.safetensors");
    let mut state = StateDict::new();
    state.insert("\u{1b}[2Jweight", StateTensor { shape: vec![1], data: vec![0.0] });
    export_safetensors(&weights, &state).expect("weights");
    let tensor = run(EXPORT, &[&weights, &place.path("out.safetensors"), "--prefix", "none."]);
    tensor.failed(&["the first key is `\\u{1b}[2Jweight`"]);
    let file = run(TEST, &[place.path("no\u{1b}[2Jne.safetensors")]);
    file.failed(&["no\\u{1b}[2Jne.safetensors"]);
    for text in [&trained.stdout, &trained.stderr, &tested.stdout, &tested.stderr, &tensor.stderr, &file.stderr] {
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text}");
    }
}
