//! Support for the tests of the programs: their names, running them, small data and a small model.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vision_datasets::scenes::{SceneConfig, SceneDataset, SceneObjects, write_ade20k_layout};

/// A PNG of 68 bytes that claims 200000 x 200000 pixels.
pub const CLAIMING_PNG: &[u8] =
    b"\x89PNG\x0d\x0a\x1a\x0a\x00\x00\x00\x0dIHDR\x00\x03\x0d@\x00\x03\x0d@\x08\x02\x00\x00\x00vY\x1f]\x00\x00\x00\
    \x0bIDATx\x9cc`\x80\x01\x00\x00\x0a\x00\x01\x7f\x80t^\x00\x00\x00\x00IEND\xaeB`\x82";

/// The names of the programs. Tests take them from here, so that a program is renamed in one place.
pub mod program {
    /// Trains a detector.
    pub const TRAIN_DET: &str = "train_det";
    /// Trains a segmentor.
    pub const TRAIN_SEG: &str = "train_seg";
    /// Evaluates a detector.
    pub const TEST_DET: &str = "test_det";
    /// Evaluates a segmentor.
    pub const TEST_SEG: &str = "test_seg";
    /// Evaluates a classifier.
    pub const TEST_CLS: &str = "test_cls";
    /// Predicts photos.
    pub const PREDICT: &str = "predict";
    /// Checks a data set.
    pub const CHECK_DATA: &str = "check_data";
    /// Writes the weights of a checkpoint with official keys.
    pub const EXPORT_WEIGHTS: &str = "export_weights";
    /// Makes the tables of the documentation.
    pub const TABLES: &str = "tables";
    /// Effective receptive fields.
    pub const ERF: &str = "erf";
    /// Activation maps.
    pub const ACTIVATION: &str = "activation";
    /// Pictures of scan routes.
    pub const ROUTES: &str = "routes";
    /// Speed and accuracy over input sizes.
    pub const SCALING_STUDY: &str = "scaling_study";
    /// Variants of VMamba-T.
    pub const ABLATION: &str = "ablation";
    /// Speed beside other implementations.
    pub const BENCH_PEERS: &str = "bench_peers";
    /// Parity and speed on a GPU.
    pub const GPU_CHECK: &str = "gpu_check";
}

/// The executable of a program, which Cargo builds for the tests of its package.
///
/// # Panics
/// When the path of this test is unknown.
pub fn executable(program: &str) -> PathBuf {
    // Cargo puts this test into `<profile>/deps` and programs into `<profile>`.
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("the folder of the profile");
    profile.join(program).with_extension(std::env::consts::EXE_EXTENSION)
}

/// The outcome of a program.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; none when a signal ended the program.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ran {
    /// Asserts that the program succeeded; returns its standard output.
    #[track_caller]
    pub fn succeeded(&self) -> &str {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        &self.stdout
    }

    /// Asserts that the program ended with this exit code, 130 after SIGINT and 143 after SIGTERM; returns its standard output.
    #[track_caller]
    pub fn ended_with(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        &self.stdout
    }

    /// Asserts that the program failed with exit code 1, without a panic and with one error line that contains all of `parts` and says
    /// nothing twice.
    #[track_caller]
    pub fn failed(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        let errors: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "one error, got: {}", self.stderr);
        let links: Vec<&str> = errors[0].split(": ").collect();
        let different: BTreeSet<&str> = links.iter().copied().collect();
        assert_eq!(links.len(), different.len(), "said twice: {}", errors[0]);
        for part in parts {
            assert!(self.stderr.contains(part), "the error does not name `{part}`: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Runs a program to its end.
///
/// # Panics
/// When it cannot be started.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Ran {
    Command::new(executable(program)).args(arguments).stdin(Stdio::null()).output().expect("the program can be started").into()
}

/// The contents of all files below a folder, except for the empty file of its lock. A link is its target's path.
///
/// # Panics
/// When one cannot be read.
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let kind = path.symlink_metadata().expect("a file").file_type();
        if kind.is_symlink() {
            found.insert(path.clone(), std::fs::read_link(&path).expect("a link").to_string_lossy().into_owned().into_bytes());
        } else if kind.is_dir() {
            found.extend(contents(&path));
        } else if kind.is_file() && !path.ends_with(".lock") {
            found.insert(path.clone(), std::fs::read(&path).expect("a file"));
        }
    }
    found
}

/// Data and the configuration of a tiny run in a temporary folder.
pub struct Place {
    /// Removed when the value is dropped.
    pub folder: TempDir,
    /// The configuration; its data are in `data` below the folder.
    pub config: PathBuf,
}

impl Place {
    /// A segmentor for a run of `iterations` steps on six training and four validation images of 32 pixels.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn new(iterations: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        write_data(&data, 6, 4);
        let config = write_config(folder.path(), &data, iterations);
        Self { folder, config }
    }

    /// As [`Place::new`], for a detector on COCO annotations with images of 64 pixels.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn detection(iterations: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        let world = SceneConfig { count: 6, height: 64, width: 64, ..SceneConfig::default() };
        let rest = SceneConfig { count: 4, first: 6, ..world.clone() };
        for (split, config) in [("train", world), ("val", rest)] {
            let scenes = SceneObjects::new(config).expect("the scenes are possible");
            scenes.write_coco_layout(&data, split).expect("the folder can be written");
        }
        let config = write_detection_config(folder.path(), &data, iterations);
        Self { folder, config }
    }

    /// A path below the folder.
    pub fn path(&self, inner: &str) -> String {
        self.folder.path().join(inner).to_string_lossy().into_owned()
    }

    /// Runs a training program with the configuration of this place and the output folder `out`.
    pub fn train_with(&self, program: &str, out: &str, more: &[&str]) -> Ran {
        let (config, out) = (self.config.to_string_lossy().into_owned(), self.path(out));
        run(program, &[&["--config", &config, "--out", &out], more].concat())
    }
}

impl Place {
    /// The figures that a resumed run must reproduce: all of every step and validation except times and rates.
    ///
    /// # Panics
    /// When the run has no log.
    pub fn trace(&self, out: &str) -> Vec<String> {
        let text = std::fs::read_to_string(Path::new(&self.path(out)).join("metrics.jsonl")).expect("the run has a log");
        let line = |line: &str| {
            let mut value: serde_json::Value = serde_json::from_str(line).expect("a JSON object a line");
            let fields = value.as_object_mut().expect("a JSON object");
            fields.retain(|name, _| !name.ends_with("_second") && !name.ends_with("_seconds"));
            value.to_string()
        };
        text.lines().map(line).collect()
    }

    /// Starts a run and sends it signals, such as `INT`, as soon as its first step is logged.
    ///
    /// # Panics
    /// When it does not start, or takes no step within a minute.
    pub fn interrupt(&self, program: &str, out: &str, signals: &[&str]) -> Ran {
        let child = self.started(program, out, &[], "metrics.jsonl");
        // One shell, so that the signals follow each other closely.
        let kills: Vec<String> = signals.iter().map(|signal| format!("kill -{signal} PID")).collect();
        Self::signalled(child, &kills.join(" && "))
    }

    /// Starts a run and waits until it has written a line into the file `sign` of its folder.
    ///
    /// # Panics
    /// When it does not start, or does not write it within a minute.
    pub fn started(&self, program: &str, out: &str, more: &[&str], sign: &str) -> Child {
        let folder = self.path(out);
        let child = Command::new(executable(program))
            .args(["--config", &self.config.to_string_lossy(), "--out", &folder])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let begin = Instant::now();
        while std::fs::read_to_string(Path::new(&folder).join(sign)).map_or(true, |text| text.lines().count() < 1) {
            assert!(begin.elapsed() < Duration::from_secs(60), "no {sign} within a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }

    /// Runs a script that sends signals to a program, which is `PID` in it, and waits for the end of the program.
    ///
    /// # Panics
    /// When the script fails.
    pub fn signalled(child: Child, script: &str) -> Ran {
        let status = Command::new("sh").args(["-c", &script.replace("PID", &child.id().to_string())]).status().expect("a shell");
        assert!(status.success());
        child.wait_with_output().expect("it ends").into()
    }
}

/// Writes a folder in the ADE20K layout with `training` and `validation` scenes of 32 pixels and the class list `objectInfo.csv`.
fn write_data(root: &Path, training: usize, validation: usize) {
    let world = SceneConfig { count: training, height: 32, width: 32, ..SceneConfig::default() };
    let rest = SceneConfig { count: validation, first: training as u64, ..world.clone() };
    for (split, config) in [("training", world), ("validation", rest)] {
        let scenes = SceneDataset::new(config).expect("the scenes are possible");
        write_ade20k_layout(&scenes, root, split).expect("the folder can be written");
    }
}

/// Writes a configuration that trains a tiny model on the folder `data` for `iterations` steps; returns its path.
fn write_config(folder: &Path, data: &Path, iterations: u64) -> PathBuf {
    let root = toml::Value::String(data.to_string_lossy().into_owned());
    let text = format!(
        r#"task = "segmentation"
name = "tiny"
init = "random"

[model.backbone]
depths = [1, 1, 1, 1]
dims = 8
ssm_d_state = 1
ssm_ratio = 1.0
forward_type = "v05_noz"
mlp_ratio = 1.0
patchembed_version = "v2"
downsample_version = "v3"
norm_layer = "ln2d"
drop_path_rate = 0.1

[model.head]
channels = 8

[model.auxiliary]
channels = 8

[data.source]
kind = "folder"
root = {root}
classes = "objectInfo.csv"
reduce_zero_label = true

[data.train]
resize = {{ scale = [40, 32], ratio = [0.75, 1.5] }}
crop = {{ size = [32, 32], cat_max_ratio = 0.75 }}
photometric = {{}}

[data.test]

[train]
iterations = {iterations}
batch_size = 2
accumulation = 2
ema = 0.9
val_interval = 3
log_interval = 1
pictures = 2

[train.optimizer]
lr = 1e-3
weight_decay = 0.01
clip_norm = 1.0

[train.schedule]
warmup_iterations = 2
"#
    );
    let path = folder.join("tiny.toml");
    std::fs::write(&path, text).expect("the configuration can be written");
    path
}

/// As [`write_config`], for a detector.
fn write_detection_config(folder: &Path, data: &Path, iterations: u64) -> PathBuf {
    let root = toml::Value::String(data.to_string_lossy().into_owned());
    let text = format!(
        r#"task = "detection"
name = "tiny_det"
init = "random"

[model.backbone]
depths = [1, 1, 1, 1]
dims = 8
ssm_d_state = 1
ssm_ratio = 1.0
forward_type = "v05_noz"
mlp_ratio = 1.0
patchembed_version = "v2"
downsample_version = "v3"
norm_layer = "ln2d"
drop_path_rate = 0.1

[model.heads]
fpn = {{ channels = 8, levels = 5 }}
anchors = {{ scales = [3.0] }}
box_head = {{ channels = 16, roi_size = 3 }}
mask_head = {{ num_convs = 1, channels = 8, roi_size = 4 }}
test = {{ score_threshold = 0.01, max_per_image = 10 }}

[model.heads.rpn]
channels = 8
sampler = {{ num = 16, positive_fraction = 0.5 }}
train = {{ nms_pre = 50, max_per_image = 30, nms_threshold = 0.7 }}
test = {{ nms_pre = 50, max_per_image = 20, nms_threshold = 0.7 }}

[model.heads.roi]
sampler = {{ num = 16, positive_fraction = 0.25 }}

[data.source]
kind = "coco"
root = {root}
train_annotations = "annotations/instances_train.json"
train_images = "train"
val_annotations = "annotations/instances_val.json"
val_images = "val"

[data.train]
scales = [[96, 64], [96, 48]]
crop = {{ scales = [[90, 60]], size = [40, 60] }}
photometric = {{}}

[data.test]
scale = [96, 64]

[train]
iterations = {iterations}
batch_size = 2
accumulation = 2
ema = 0.9
val_interval = 3
log_interval = 1
pictures = 2

[train.optimizer]
lr = 1e-3
weight_decay = 0.01
clip_norm = 1.0

[train.schedule]
warmup_iterations = 2
decay = {{ kind = "steps", at = [2], unit = "epochs" }}
"#
    );
    let path = folder.join("tiny_det.toml");
    std::fs::write(&path, text).expect("the configuration can be written");
    path
}
