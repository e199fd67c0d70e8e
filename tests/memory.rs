//! The estimate of the memory beside the measured peak, and what happens above the memory that is free.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use burn::prelude::Device;
use image::{GrayImage, Luma, Rgb, RgbImage};
use tests::tool::{Place, Ran, executable, program, run};
use vmamba::checkpoint::Weights;
use vmamba_recipes::detection::load_detector;
use vmamba_recipes::segmentation::load_segmentor;

/// The largest factor between estimate and measurement.
const FACTOR: f64 = 1.5;

/// A mebibyte in bytes.
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// Runs a program to its end; returns its outcome and the peak of its resident memory in MiB.
#[cfg(target_os = "linux")]
fn measured(command: &mut Command) -> (Ran, f64) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program can be started");
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
    (child.wait_with_output().expect("it ends").into(), peak)
}

/// Trains three steps with a program and its demo; returns the estimate that it prints and the measured peak of its resident memory, in MiB.
#[cfg(target_os = "linux")]
fn estimated_and_measured(program: &str, settings: &[&str]) -> (f64, f64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run");
    let mut command = Command::new(executable(program));
    command.arg("--out").arg(&out);
    let scenes: &[&str] = if settings.iter().any(|setting| setting.starts_with("data.source={")) {
        &[]
    } else {
        &["data.source.train=64", "data.source.val=2"]
    };
    for setting in ["train.iterations=3", "train.pictures=0"].iter().chain(scenes).chain(settings) {
        command.args(["--set", setting]);
    }
    let (ran, peak) = measured(&mut command);
    let stdout = ran.succeeded();
    let line = stdout.lines().find_map(|line| line.strip_prefix("estimated memory: ")).expect("the estimate is printed");
    let mut words = line.split(' ');
    let (number, unit) = (words.next().expect("a number"), words.next().expect("a unit"));
    let estimate: f64 = number.parse().expect("a number");
    println!("{program} {settings:?}: estimated {estimate} {unit}, measured {peak:.0} MiB; {line}");
    (if unit == "GiB" { estimate * 1024.0 } else { estimate }, peak)
}

fn assert_near(what: &str, estimate: f64, measured: f64) {
    assert!(estimate < measured * FACTOR && measured < estimate * FACTOR, "{what}: {estimate:.0} and {measured:.0} MiB");
}

#[cfg(target_os = "linux")]
#[test]
fn the_estimate_is_within_a_factor_of_one_and_a_half_of_the_measured_peak() {
    let vmamba_t = ["model.backbone={ preset = \"vmamba_tiny_s1l8\" }", "data.source.size=224", "train.batch_size=1"];
    let with = |more: &[&'static str]| [&vmamba_t[..], more].concat();
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_folder(folder.path(), [2000, 1600]);
    let photos = format!("data.source={{ kind = \"folder\", root = {:?} }}", folder.path());
    for (program, settings) in [
        (program::TRAIN_SEG, vec![]),
        (program::TRAIN_DET, vec![]),
        (program::TRAIN_SEG, vec!["train.batch_size=16", "train.ema=0.99"]),
        (program::TRAIN_DET, with(&["data.train.scales=[[224, 224]]"])),
        (program::TRAIN_SEG, with(&["train.batch_size=2", "data.train.crop.size=[224, 224]", "model.head.channels=128"])),
        // Photos much larger than the crop.
        (program::TRAIN_SEG, vec![&photos, "train.batch_size=2", "data.test.resize=[96, 96]"]),
        (
            program::TRAIN_SEG,
            vec![&photos, "train.batch_size=2", "data.train.resize={ scale = [3000, 2500] }", "data.test.resize=[96, 96]"],
        ),
        // A validation that needs more than a step: images that are predicted larger than they are, and in windows.
        (program::TRAIN_SEG, vec!["data.test.resize=[1500, 1500]", "train.batch_size=2"]),
        (program::TRAIN_SEG, vec!["data.source.size=640", "test.mode={ slide = { crop = [96, 96], stride = [64, 64] } }"]),
        // Several scales, and one before a crop that is larger than all of them.
        (program::TRAIN_DET, vec!["data.train.scales=[[128, 128], [320, 320]]"]),
        (program::TRAIN_DET, vec!["data.train.crop={ probability = 1.0, scales = [[4000, 4000]], size = [64, 128] }"]),
    ] {
        let (estimate, measured) = estimated_and_measured(program, &settings);
        assert_near(&format!("{settings:?}"), estimate, measured);
    }
}

/// Writes a photo of squares that a PNG compresses well.
fn write_photo(path: &Path, [width, height]: [u32; 2]) {
    let photo = RgbImage::from_fn(width, height, |x, y| Rgb([(x / 50 * 40) as u8, (y / 50 * 30) as u8, 90]));
    photo.save(path).expect("a photo");
}

/// Writes a folder of the ADE20K layout with photos of this width and height and four classes.
fn write_folder(root: &Path, [width, height]: [u32; 2]) {
    for (split, count) in [("training", 4), ("validation", 2)] {
        let [images, annotations] = ["images", "annotations"].map(|kind| root.join(kind).join(split));
        fs::create_dir_all(&images).expect("a folder");
        fs::create_dir_all(&annotations).expect("a folder");
        for index in 0..count {
            write_photo(&images.join(format!("{index}.png")), [width, height]);
            let labels = GrayImage::from_fn(width, height, |x, y| Luma([((x / 50 + y / 50 + index) % 4) as u8]));
            labels.save(annotations.join(format!("{index}.png"))).expect("a label map");
        }
    }
    fs::write(root.join("classes.txt"), "a\nb\nc\nd\n").expect("a class list");
}

#[cfg(target_os = "linux")]
#[test]
fn the_estimate_for_a_photo_is_within_a_factor_of_one_and_a_half_of_the_measured_peak() {
    let place = Place::new(1);
    let (seg, det, photo) = (place.path("seg"), place.path("det"), place.folder.path().join("photo.png"));
    let short = ["--set", "train.iterations=1", "--set", "train.pictures=0", "--set", "data.source.val=2"];
    run(program::TRAIN_SEG, &[&["--out", seg.as_str()][..], &short].concat()).succeeded();
    run(program::TRAIN_DET, &[&["--out", det.as_str()][..], &short].concat()).succeeded();
    write_photo(&photo, [1500, 1200]);
    let size = [1200, 1500];
    for (folder, options) in [(&seg, &[][..]), (&seg, &["--slide"]), (&seg, &["--tta"]), (&det, &[])] {
        let checkpoint = Path::new(folder).join("last.safetensors");
        let estimate = if folder == &det {
            load_detector(&checkpoint, None, Weights::Validated, &Device::flex()).expect("a detector").memory_of_images(true)(size)
        } else {
            let mut model = load_segmentor(&checkpoint, None, Weights::Validated, &Device::flex()).expect("a segmentor");
            if options.contains(&"--slide") {
                model.config.test.mode = upernet::inference::InferenceMode::Slide(upernet::inference::SlidingWindows::overlapping(
                    model.config.data.train.crop.size,
                ));
            }
            model.memory_of_images(options.contains(&"--tta"), true)(size)
        };
        let mut command = Command::new(executable(program::PREDICT));
        let (ran, peak) = measured(command.arg(&checkpoint).arg(&photo).args(options).arg("--out").arg(place.path("out")));
        ran.succeeded();
        println!("{folder} {options:?}: estimated {:.0}, measured {peak:.0} MiB", estimate.total() as f64 / MEBIBYTE);
        assert_near(&format!("{folder} {options:?}"), estimate.total() as f64 / MEBIBYTE, peak);
    }
}

/// Runs a program whose address space is limited to this many KiB.
#[cfg(target_os = "linux")]
fn run_limited(kibibytes: u64, program: &str, arguments: &[&str]) -> Ran {
    let line = format!("ulimit -v {kibibytes} && exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &line]).arg(executable(program)).args(arguments).stdin(Stdio::null());
    command.output().expect("a shell").into()
}

#[cfg(target_os = "linux")]
#[test]
fn a_photo_that_the_network_has_no_memory_for_is_named_and_the_others_are_predicted() {
    let place = Place::new(1);
    let (seg, det) = (place.path("seg"), place.path("det"));
    let short = ["--set", "train.iterations=1", "--set", "train.pictures=0", "--set", "data.source.val=2"];
    run(program::TRAIN_SEG, &[&["--out", seg.as_str()][..], &short].concat()).succeeded();
    run(program::TRAIN_DET, &[&["--out", det.as_str()][..], &short].concat()).succeeded();
    let photos = place.folder.path().join("photos");
    fs::create_dir(&photos).expect("a folder");
    write_photo(&photos.join("a_large.png"), [6000, 5000]);
    write_photo(&photos.join("b_small.png"), [64, 48]);
    for (folder, remedy) in [(&seg, "--slide"), (&det, "data.test.scale")] {
        let (checkpoint, out) = (format!("{folder}/last.safetensors"), place.path("out"));
        let (photos, limit) = (photos.to_string_lossy(), 2 << 20);
        let ran = run_limited(limit, program::PREDICT, &[&checkpoint, &photos, "--out", &out]);
        ran.failed(&["a_large.png: the image of 6000x5000 pixels", "free", remedy, "--ignore-memory"]);
        assert!(ran.stdout.contains("1 of 2 photos"), "{ran:?}");
        assert!(Path::new(&out).join("b_small_overlay.png").is_file());
    }
}

#[test]
fn a_whole_narrow_photo_is_refused_before_it_is_enlarged() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let photo = folder.path().join("narrow.png");
    write_photo(&photo, [3, 5000]);
    let (photo, out) = (photo.to_string_lossy(), folder.path().join("out").to_string_lossy().into_owned());
    let begin = std::time::Instant::now();
    run(program::ACTIVATION, &[&photo, "--whole", "--model", "vmamba_tiny_s1l8", "--out", &out]).failed(&[
        "narrow.png",
        "512x853333 pixels",
        "memory",
        "free",
    ]);
    // It took minutes.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn a_run_beyond_the_free_memory_is_refused_before_the_model_is_built() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run").to_string_lossy().into_owned();
    for (program, settings) in [
        (program::TRAIN_SEG, &["train.batch_size=65536", "data.train.crop.size=[4096, 4096]"][..]),
        (program::TRAIN_SEG, &["data.test.resize=[65536, 65536]"]),
        (program::TRAIN_SEG, &["data.train.resize={ scale = [65536, 65536], ratio = [1.0, 1.0] }"]),
        (program::TRAIN_DET, &["data.test.scale=[65536, 65536]"]),
        (program::TRAIN_DET, &["data.train.crop={ probability = 0.5, scales = [[65536, 65536]], size = [64, 64] }"]),
    ] {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        let arguments: Vec<&str> = ["--out", &out].into_iter().chain(settings).collect();
        run(program, &arguments).failed(&["memory", "GiB", "free", "--ignore-memory"]);
        assert!(!folder.path().join("run").exists());
    }
}

#[test]
fn a_picture_beyond_the_free_memory_is_refused_before_it_is_made() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().to_string_lossy().into_owned();
    run(program::ACTIVATION, &["--scene", "0", "--model", "vmamba_tiny_s1l8", "--size", "16384", "--out", &out])
        .failed(&["--size", "memory", "free"]);
    run(program::ERF, &["--models", "vmamba_tiny_s1l8", "--size", "16384", "--out", &out]).failed(&["memory", "free"]);
}
