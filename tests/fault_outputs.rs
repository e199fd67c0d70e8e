//! No output of a program replaces an input, and an output that cannot be written is refused before any work.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::tool::{Place, Ran, contents, executable, program, run};

/// The name of a path.
fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Runs a program once for every way to name the file `input`: as it is, with a detour, and by links. `command` gets the output's name.
#[track_caller]
fn refused(place: &Place, program: &str, input: &str, option: &str, command: impl Fn(&str) -> Vec<String>) {
    let before = contents(place.folder.path());
    let (folder, file) = input.rsplit_once('/').expect("a path");
    let mut names = vec![input.to_owned(), format!("{folder}/../{}/{file}", name(folder))];
    let ending = Path::new(file).extension().map_or(String::new(), |ending| format!(".{}", ending.to_string_lossy()));
    let links = ["hard", "soft"].map(|link| place.path(&format!("{link}{ending}")));
    #[cfg(unix)]
    {
        fs::hard_link(input, &links[0]).expect("a link");
        std::os::unix::fs::symlink(input, &links[1]).expect("a link");
        names.extend(links.clone());
    }
    for output in &names {
        run(program, &command(output)).failed(&[file, &format!("{option} would overwrite this input")]);
    }
    for link in links {
        drop(fs::remove_file(link));
    }
    assert!(contents(place.folder.path()) == before, "{program} {option} {input}: something has changed");
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

#[test]
fn no_output_of_a_segmentor_replaces_an_input() {
    let place = Place::new(1);
    fs::write(place.path("base.toml"), fs::read(&place.config).expect("a configuration")).expect("a file");
    fs::write(place.path("own.toml"), "base = \"base.toml\"\n").expect("a file");
    let (config, data) = (place.path("own.toml"), place.path("data"));
    place.train_with(program::TRAIN_SEG, "run", &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    let files = ["images/validation/scene_000007.png", "annotations/validation/scene_000008.png", "objectInfo.csv"];
    let files = files.map(|file| place.path(&format!("data/{file}")));
    for input in [&checkpoint, &config, &place.path("base.toml")].into_iter().chain(&files) {
        let command = |output: &str| strings(&[&checkpoint, "--config", &config, "--json", output]);
        refused(&place, program::TEST_SEG, input, "--json", command);
    }
    for input in &files {
        // The ending of a sheet names its format.
        for option in ["--json", "--sheet"].into_iter().take(if input.ends_with("png") { 2 } else { 1 }) {
            refused(&place, program::CHECK_DATA, input, option, |output| strings(&["--data", &data, option, output]));
        }
    }
    for more in [&[][..], &["--overwrite"]] {
        let command = |output: &str| strings(&[&[checkpoint.as_str(), output], more].concat());
        refused(&place, program::EXPORT_WEIGHTS, &checkpoint, "OUTPUT", command);
    }
    run(program::CHECK_DATA, &["--json", &place.path("a.json"), "--sheet", &place.path("./a.json")]).failed(&["the file of --json"]);
}

#[test]
fn no_output_of_a_detector_replaces_an_input() {
    let place = Place::detection(1);
    place.train_with(program::TRAIN_DET, "run", &[]).succeeded();
    let (checkpoint, images) = (place.path("run/last.safetensors"), place.path("data/val"));
    let annotations = place.path("data/annotations/instances_val.json");
    let photo = fs::read_dir(&images).expect("the images").map(|entry| entry.expect("an entry").path()).max().expect("an image");
    for input in [&checkpoint, &annotations, &photo.to_string_lossy().into_owned()] {
        refused(&place, program::TEST_DET, input, "--json", |output| strings(&[&checkpoint, "--json", output]));
        if *input != checkpoint {
            for option in ["--json", "--sheet"].into_iter().take(if input.ends_with("png") { 2 } else { 1 }) {
                let command = |output: &str| strings(&["--coco", &annotations, "--images", &images, option, output]);
                refused(&place, program::CHECK_DATA, input, option, command);
            }
        }
    }
}

#[test]
fn no_output_of_a_classifier_replaces_an_input() {
    let place = Place::new(1);
    let (data, list, checkpoint) = (place.path("images"), place.path("list.txt"), place.path("weights.safetensors"));
    for class in ["a", "b"] {
        fs::create_dir_all(place.path(&format!("images/val/{class}"))).expect("a folder");
        image::RgbImage::new(40, 40).save(place.path(&format!("images/val/{class}/0.png"))).expect("an image");
    }
    fs::write(&list, "a\nb\n").expect("a list");
    fs::write(&checkpoint, "weights").expect("a file");
    for input in [&list, &place.path("images/val/b/0.png"), &checkpoint] {
        let command = |output: &str| {
            let model = ["--model", "vmamba_tiny_s1l8", "--checkpoint", &checkpoint];
            strings(&[&model[..], &["--data", &data, "--classes", &list, "--size", "32", "--json", output]].concat())
        };
        refused(&place, program::TEST_CLS, input, "--json", command);
    }
}

#[test]
fn no_result_in_a_folder_replaces_an_input() {
    let place = Place::new(1);
    place.train_with(program::TRAIN_SEG, "run", &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    let out = place.path("out");
    fs::create_dir(&out).expect("a folder");
    let scene = place.path("data/images/validation/scene_000006.png");
    let results = ["scene.png", "scene_overlay.png", "scene_labels.png", "query_1.png", "cross_context.png", "erf.png"];
    let [photo, overlay, labels, query, routes, erf] = results.map(|name| {
        let path = format!("{out}/{name}");
        fs::copy(&scene, &path).expect("a copy");
        path
    });
    let before = contents(Path::new(&out));
    let refused = |program: &str, arguments: &[&str], file: &str| {
        run(program, &[arguments, &["--out", &out]].concat()).failed(&[name(file), "--out would overwrite this input"]);
        assert!(contents(Path::new(&out)) == before, "{program} has changed something");
    };
    refused(program::PREDICT, &[&checkpoint, &photo, &overlay], &overlay);
    refused(program::PREDICT, &[&checkpoint, &labels, &photo], &labels);
    let model = ["--model", "vmamba_tiny_s1l8", "--size", "64", "--query", "0.1,0.1", "--query", "0.9,0.9"];
    refused(program::ACTIVATION, &[&[query.as_str()], &model[..]].concat(), &query);
    refused(program::ROUTES, &["--photo", &routes], &routes);
    refused(program::ERF, &["--data", &out, "--images", "1", "--size", "64"], &erf);

    // Images in the folders of the pictures or of the label maps, whatever their names are.
    for (split, inner) in [("images/validation", "pictures"), ("annotations/validation", "labels")] {
        let place = Place::new(1);
        place.train_with(program::TRAIN_SEG, "run", &[]).succeeded();
        let out = place.path("run/test");
        fs::create_dir(&out).expect("a folder");
        let (inside, split) = (format!("{out}/{inner}"), place.path(&format!("data/{split}")));
        fs::rename(&split, &inside).expect("a move");
        #[cfg(unix)]
        std::os::unix::fs::symlink(&inside, &split).expect("a link");
        let before = contents(place.folder.path());
        run(program::TEST_SEG, &[&place.path("run/last.safetensors"), "--out", &out]).failed(&["--out", "folder of this input"]);
        assert!(contents(place.folder.path()) == before);
    }
}

#[test]
fn results_beside_the_photos_are_written_again() {
    let place = Place::new(1);
    place.train_with(program::TRAIN_SEG, "run", &[]).succeeded();
    let checkpoint = place.path("run/last.safetensors");
    let (photos, figures) = (place.path("data/images/validation"), place.path("figures"));
    fs::create_dir(&figures).expect("a folder");
    run(program::TEST_SEG, &[&checkpoint, "--json", &format!("{figures}/a.json")]).succeeded();
    for _ in 0..2 {
        let ran = run(program::PREDICT, &[&checkpoint, &photos, "--out", &photos]);
        assert!(ran.succeeded().contains("4 of 4 photos predicted"), "{ran:?}");
    }
    let (data, sheet) = (place.path("data"), format!("{photos}/sheet.png"));
    for _ in 0..2 {
        run(program::CHECK_DATA, &["--data", &data, "--reduce-zero-label", "--sheet", &sheet]).succeeded();
    }
    // `tables` reads all JSON files in a folder of figures, also its own.
    for _ in 0..2 {
        run(program::TABLES, &["--runs", &figures, "--out", &figures]).succeeded();
    }
    fs::rename(format!("{figures}/a.json"), format!("{figures}/tables.json")).expect("a move");
    run(program::TABLES, &["--runs", &figures, "--out", &figures]).failed(&["tables.json", "an input of this command"]);
}

/// Every option for a single file of every program, with the arguments before it. None of the inputs exists: an error about one would mean
/// that the output is checked later.
fn files() -> Vec<(&'static str, Vec<&'static str>)> {
    let none = "none.safetensors";
    vec![
        (program::TEST_SEG, vec![none, "--json"]),
        (program::TEST_DET, vec![none, "--json"]),
        (program::TEST_CLS, vec!["--model", "none.toml", "--checkpoint", none, "--data", "none", "--json"]),
        (program::CHECK_DATA, vec!["--data", "none", "--json"]),
        (program::CHECK_DATA, vec!["--coco", "none", "--images", "none", "--sheet"]),
        (program::EXPORT_WEIGHTS, vec![none]),
    ]
}

/// As [`files`], the options for a folder.
fn folders() -> Vec<(&'static str, Vec<&'static str>)> {
    let none = "none.safetensors";
    vec![
        (program::TEST_SEG, vec![none, "--out"]),
        (program::TEST_DET, vec![none, "--out"]),
        (program::PREDICT, vec![none, "none.png", "--out"]),
        (program::TABLES, vec!["--runs", "none", "--out"]),
        (program::ERF, vec!["--data", "none", "--out"]),
        (program::ACTIVATION, vec!["none.png", "--model", "none.toml", "--out"]),
        (program::ROUTES, vec!["--photo", "none.png", "--out"]),
        (program::SCALING_STUDY, vec!["--data", "none", "--checkpoint", "vmamba_tiny_s1l8=none", "--out"]),
        (program::ABLATION, vec!["--config", "none.toml", "--out"]),
        (program::BENCH_PEERS, vec!["--python", "none", "--out"]),
        (program::GPU_CHECK, vec!["--fixtures", "none", "--out"]),
        (program::TRAIN_SEG, vec!["--out"]),
        (program::TRAIN_DET, vec!["--out"]),
    ]
}

#[test]
#[cfg(target_os = "linux")]
fn outputs_that_cannot_be_written_are_refused_before_any_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs::write(path("file"), "in the way").expect("a file");
    let before = contents(folder.path());
    for (program, arguments) in files() {
        let option = arguments.last().filter(|option| option.starts_with("--")).map_or("OUTPUT", |option| *option);
        let refused = |output: &str, part: &str| run(program, &[&arguments[..], &[output]].concat()).failed(&[option, part]);
        refused("/proc/a.safetensors", "/proc");
        refused(&path("none/a.safetensors"), "none is not there");
        refused(&path("file/a.safetensors"), "file is not there");
        if program != program::EXPORT_WEIGHTS {
            refused(&path(""), "a folder, not a file");
        }
    }
    for (program, arguments) in folders() {
        let refused = |output: &str, part: &str| run(program, &[&arguments[..], &[output]].concat()).failed(&["--out", part]);
        refused("/proc/a", "/proc");
        refused(&path("file"), "it is a file, not a folder");
        refused(&path("file/inside"), "file");
    }
    run(program::CHECK_DATA, &["--sheet", &path("sheet.txt")]).failed(&["--sheet", "sheet.txt"]);
    assert!(contents(folder.path()) == before, "nothing was begun");
}

#[test]
#[cfg(target_os = "linux")]
fn pipes_devices_and_the_printed_output_are_refused_without_waiting() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (pipe, socket) = (path("a.safetensors"), path("b.safetensors"));
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    std::os::unix::fs::symlink("/dev/null", path("c.safetensors")).expect("a link");
    for (program, arguments) in files() {
        for (output, kind) in [(&pipe, "a named pipe"), (&socket, "a socket"), (&path("c.safetensors"), "a device")] {
            run(program, &[&arguments[..], &[output]].concat()).failed(&[name(output), &format!("it is {kind}, not a file")]);
        }
    }
    for (program, arguments) in folders() {
        run(program, &[&arguments[..], &[&pipe]].concat()).failed(&["--out", "not a folder"]);
    }
    // The tables of the program and its figures would be mixed, or the tables lost.
    let in_shell = |redirection: &str, output: &str| -> Ran {
        let script = format!("'{}' --json {output} {redirection}", executable(program::CHECK_DATA).display());
        Command::new("bash").args(["-c", &script]).current_dir(folder.path()).output().expect("bash").into()
    };
    for (redirection, output, part) in [
        ("", "-", "standard output"),
        ("| cat", "/dev/stdout", "not a file"),
        (">log", "/dev/stdout", "standard output"),
        (">log", "log", "standard output"),
        ("2>&1 >/dev/null", "/dev/null", "a device, not a file"),
    ] {
        let ran = in_shell(redirection, output);
        let text = [ran.stdout, ran.stderr].concat();
        assert!(text.contains("error: --json") && text.contains(part), "{redirection} {output}: {text}");
    }
}
