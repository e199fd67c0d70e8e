//! Reads our results from folders of runs and from checkpoints.
//!
//! A run of a training program is `config.toml` and `metrics.jsonl`, with the metadata of its checkpoints. An evaluation is a file that
//! `test_seg --json` or `test_det --json` wrote into the folder.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use upernet::inference::InferenceMode;
use vision_datasets::json;
use vmamba::checkpoint::Checkpoint;
use vmamba_recipes::config;
use vmamba_recipes::detection::config::{CocoSource, DetectionConfig, DetectionSource};
use vmamba_recipes::segmentation::config::{FolderSource, SegmentationConfig, SegmentationSource};
use vmamba_recipes::{detection, segmentation};
use vmamba_report::ReportError;
use vmamba_report::metrics::METRICS_FILE;
use vmamba_report::run_folder::{BEST, CONFIG, LAST, NON_FINITE};
use vmamba_train::Precision;
use vmamba_types::ClassList;

use super::Benchmark;
use crate::error::{Result, StudyError, invalid};

/// The configuration of a run.
#[derive(Clone, Debug)]
pub enum RunConfig {
    /// Of a detector.
    Detection(Box<DetectionConfig>),
    /// Of a segmentor.
    Segmentation(Box<SegmentationConfig>),
}

/// One of our results.
#[derive(Clone, Debug)]
pub struct Run {
    /// The folder or checkpoint, as the user named it.
    pub place: String,
    /// The source of the figures.
    pub origin: String,
    /// Name of the configuration.
    pub name: String,
    /// The benchmark of its table.
    pub benchmark: Benchmark,
    /// The configuration; `None` where it is unknown.
    pub config: Option<RunConfig>,
    /// The figures in percent, in the order of [`Benchmark::figures`].
    pub figures: Vec<Option<f64>>,
    /// Further facts.
    pub facts: Facts,
}

/// Facts of a run that its configuration does not have; `None` where they are unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Facts {
    /// Steps trained so far.
    pub done: Option<u64>,
    /// Steps of the whole run.
    pub iterations: Option<u64>,
    /// Number of devices in training.
    pub devices: Option<u64>,
    /// Number of evaluated images.
    pub images: Option<usize>,
    /// Number of classes.
    pub classes: Option<usize>,
    /// Type of the evaluation.
    pub precision: Precision,
    /// Whether the evaluation used sliding windows.
    pub slide: bool,
}

impl RunConfig {
    /// Reads the configuration of a run. Its field `task` decides the type.
    fn load(path: &Path) -> Result<Self> {
        let table: toml::Table = config::load(path, &[])?;
        match table.get("task").and_then(toml::Value::as_str) {
            Some(detection::TASK) => Ok(Self::Detection(Box::new(config::load(path, &[])?))),
            Some(segmentation::TASK) => Ok(Self::Segmentation(Box::new(config::load(path, &[])?))),
            Some(task) => {
                Err(StudyError::content(path.display())(format!("no table for task = \"{task}\"; only for detection and segmentation")))
            }
            None => Err(StudyError::content(path.display())("no `task`")),
        }
    }

    /// `place` names the value in errors.
    fn from_json(benchmark: Benchmark, value: Value, place: &str) -> Result<Self> {
        Ok(match benchmark {
            Benchmark::Coco => Self::Detection(Box::new(decode(value, place)?)),
            Benchmark::Ade20k => Self::Segmentation(Box::new(decode(value, place)?)),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Detection(config) => &config.name,
            Self::Segmentation(config) => &config.name,
        }
    }

    /// The benchmark of its table.
    pub fn benchmark(&self) -> Benchmark {
        match self {
            Self::Detection(_) => Benchmark::Coco,
            Self::Segmentation(_) => Benchmark::Ade20k,
        }
    }

    /// Whether the configuration names the data of the published models: ADE20K, or COCO 2017.
    pub fn has_published_data(&self) -> bool {
        match self {
            Self::Detection(config) => {
                matches!(&config.data.source, DetectionSource::Coco(CocoSource { val_annotations, .. }) if val_annotations.ends_with("instances_val2017.json"))
            }
            Self::Segmentation(config) => matches!(&config.data.source, SegmentationSource::Folder(FolderSource { classes: None, .. })),
        }
    }

    /// Parameters, and multiply-accumulates / 1e9 at `[height, width]`; `None` when the backbone does not take the size.
    pub fn cost(&self, classes: usize, size: [usize; 2]) -> Option<(u64, f64)> {
        let (backbone, complexity): (_, Box<dyn Fn() -> _>) = match self {
            Self::Detection(config) => (config.model.backbone(), Box::new(|| config.model.complexity(classes, size))),
            Self::Segmentation(config) => (&config.model.backbone, Box::new(|| config.model.for_classes(classes).complexity(size))),
        };
        backbone.check_image(size).ok()?;
        let cost = complexity();
        Some((cost.params, cost.flops() as f64 / 1e9))
    }
}

/// Reads the results in a folder: the best validation of a run, and evaluations. An evaluation replaces the validation of the same
/// configuration.
///
/// # Errors
/// When there are no results, or a file is invalid; the error names the file and the field.
pub fn read_folder(folder: &Path) -> Result<Vec<Run>> {
    if !folder.is_dir() {
        let hint = if folder.is_file() { "; name checkpoints with --checkpoints" } else { "" };
        return Err(invalid!("--runs: {} is not a folder{hint}", folder.display()));
    }
    let (snapshot, metrics) = (folder.join(CONFIG), folder.join(METRICS_FILE));
    let config = snapshot.is_file().then(|| RunConfig::load(&snapshot)).transpose()?;
    let stored = [LAST, BEST].into_iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let stored = stored.map(|path| Stored::read(&path)).transpose()?.flatten().unwrap_or_default();
    let mut runs = evaluations(folder, config.as_ref(), &stored)?;
    match (config, metrics.is_file()) {
        (Some(config), true) => {
            let covered = runs.iter().any(|run| run.name == config.name() && run.figures.first().is_some_and(Option::is_some));
            if !covered && let Some(run) = validation(folder, &metrics, config, &stored)? {
                runs.insert(0, run);
            } else if runs.is_empty() {
                return Err(StudyError::content(metrics.display())("no line of the kind `val`: the run has not been validated yet"));
            }
        }
        (Some(_), false) if runs.is_empty() => {
            return Err(invalid!("{} is missing: the run in {} has no results", metrics.display(), folder.display()));
        }
        (None, true) if runs.is_empty() => {
            return Err(invalid!("{} is missing: the configuration of {} is unknown", snapshot.display(), metrics.display()));
        }
        (None, false) if runs.is_empty() => {
            return Err(invalid!(
                "{} is not a run: it has neither {CONFIG} and {METRICS_FILE} (train_det, train_seg) nor figures (test_det --json, test_seg \
                 --json)",
                folder.display()
            ));
        }
        _ => (),
    }
    Ok(runs)
}

/// Reads a checkpoint of our training programs: its cost and, for the best checkpoint of a run, the figure of its validation.
///
/// # Errors
/// When it cannot be read or does not name its model.
pub fn read_checkpoint(path: &Path) -> Result<Run> {
    let Some(stored) = Stored::read(path)? else {
        return Err(invalid!(
            "{} does not name its model; evaluate it with test_det or test_seg --config FILE --json DIR/figures.json, and name DIR with --runs",
            path.display()
        ));
    };
    let config = stored.config.clone().ok_or_else(|| StudyError::content(path.display())("no `config` in its metadata"))?;
    let benchmark = config.benchmark();
    let own = stored.best.filter(|(best, _)| Some(*best) == stored.facts.done);
    let mut figures = vec![None; benchmark.figures().len()];
    if let (Some(first), Some((_, share))) = (figures.first_mut(), own) {
        *first = Some(share * 100.0);
    }
    let origin = match (own, stored.facts.done) {
        (Some((iteration, _)), _) => format!("validation after iteration {iteration}"),
        (None, Some(iteration)) => format!("cost only: the weights of iteration {iteration} have no stored result"),
        (None, None) => "cost only: no stored result".to_owned(),
    };
    let name = config.name().to_owned();
    Ok(Run { place: path.display().to_string(), origin, name, benchmark, config: Some(config), figures, facts: stored.facts })
}

/// The metadata of a checkpoint of ours.
#[derive(Clone, Debug, Default)]
struct Stored {
    config: Option<RunConfig>,
    facts: Facts,
    /// The best validation so far: iteration and figure as a share.
    best: Option<(u64, f64)>,
}

impl Stored {
    /// Reads a checkpoint; `None` for a file of other programs.
    fn read(path: &Path) -> Result<Option<Self>> {
        let checkpoint = Checkpoint::read(path)?;
        if !checkpoint.is_ours() {
            return Ok(None);
        }
        let metadata = checkpoint.metadata();
        let place = |field: &str| format!("{}: `{field}` in its metadata", path.display());
        let number = |field: &str| {
            let text = metadata.get(field);
            text.map(|text| text.parse::<u64>().map_err(StudyError::content(format!("{}, `{text}`", place(field))))).transpose()
        };
        let task = metadata.get("task").map(String::as_str);
        let benchmark = match task {
            Some(detection::TASK) => Some(Benchmark::Coco),
            Some(segmentation::TASK) => Some(Benchmark::Ade20k),
            _ => None,
        };
        let config = match (benchmark, metadata.get("config")) {
            (Some(benchmark), Some(text)) => {
                let value = json::parse(text).map_err(StudyError::content(place("config")))?;
                Some(RunConfig::from_json(benchmark, value, &place("config"))?)
            }
            _ => None,
        };
        let classes: Option<ClassList> =
            metadata.get("classes").map(|text| json::parse(text).map_err(StudyError::content(place("classes")))).transpose()?;
        let share = metadata.get("best_metric");
        let share = share.map(|text| text.parse::<f64>().map_err(StudyError::content(format!("{}, `{text}`", place("best_metric")))));
        let facts = Facts {
            done: number("iteration")?,
            iterations: number("iterations")?,
            devices: Some(number("devices")?.unwrap_or(1)),
            images: number("validation_images")?.map(|count| count as usize),
            classes: classes.map(|classes| classes.len()),
            ..Facts::default()
        };
        Ok(Some(Self { config, facts, best: number("best_iteration")?.zip(share.transpose()?) }))
    }
}

/// The best validation of a training run; `None` without a validation.
fn validation(folder: &Path, metrics: &Path, config: RunConfig, stored: &Stored) -> Result<Option<Run>> {
    let text = vmamba_files::read_text(metrics).map_err(StudyError::read(metrics))?;
    let benchmark = config.benchmark();
    let keys = benchmark.logged();
    let mut done = None;
    let mut best: Option<(u64, Vec<Option<f64>>)> = None;
    let count = text.lines().count();
    for (index, line) in text.lines().enumerate() {
        let place = || format!("{}, line {}", metrics.display(), index + 1);
        let line: Value = match json::parse(line) {
            Ok(line) => line,
            // A killed run may leave an incomplete last line.
            Err(_) if index + 1 == count => continue,
            Err(_) => return Err(ReportError::DamagedLine { path: metrics.to_owned(), line: index + 1 }.into()),
        };
        let iteration =
            line.get("iteration").and_then(Value::as_u64).ok_or_else(|| StudyError::content(place())("no number `iteration`"))?;
        done = done.max(Some(iteration));
        if line.get("kind").and_then(Value::as_str) != Some("val") {
            continue;
        }
        let figure = |key: &&str| match line.get(*key) {
            Some(Value::Null) => Ok(None),
            Some(value) => {
                Ok(Some(value.as_f64().ok_or_else(|| StudyError::content(place())(format!("`{key}` is not a number")))? * 100.0))
            }
            None => Err(StudyError::content(place())(format!("no number `{key}`"))),
        };
        let mut figures: Vec<Option<f64>> = keys.iter().map(figure).collect::<Result<_>>()?;
        figures.resize(benchmark.figures().len(), None);
        let main = |figures: &[Option<f64>]| figures.first().copied().flatten().unwrap_or(f64::NEG_INFINITY);
        if best.as_ref().is_none_or(|(_, best)| main(&figures) > main(best)) {
            best = Some((iteration, figures));
        }
    }
    Ok(best.map(|(iteration, figures)| Run {
        place: folder.display().to_string(),
        origin: format!("validation after iteration {iteration}"),
        name: config.name().to_owned(),
        benchmark,
        figures,
        facts: Facts { done, ..stored.facts },
        config: Some(config),
    }))
}

/// The figures file of an evaluation program.
#[derive(Deserialize)]
struct FiguresFile {
    checkpoint: PathBuf,
    config: String,
    iteration: Option<u64>,
    #[serde(default)]
    precision: Precision,
    images: usize,
    classes: Vec<String>,
    #[serde(default)]
    tta: bool,
    #[serde(default)]
    mode: InferenceMode,
    metrics: Option<IouFigures>,
    bbox: Option<ApFigures>,
    segm: Option<ApFigures>,
    configuration: Option<Value>,
}

#[derive(Deserialize)]
struct IouFigures {
    #[serde(rename = "mIoU", deserialize_with = "nullable")]
    mean_iou: Option<f64>,
}

#[derive(Deserialize)]
struct ApFigures {
    #[serde(rename = "AP", deserialize_with = "nullable")]
    ap: Option<f64>,
    #[serde(rename = "AP50", deserialize_with = "nullable")]
    ap50: Option<f64>,
    #[serde(rename = "AP75", deserialize_with = "nullable")]
    ap75: Option<f64>,
}

/// A number or null that must be present; an `Option` alone may be absent.
fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Option::deserialize(deserializer)
}

impl ApFigures {
    /// The figures in percent; COCO writes -1 where there was nothing to find.
    fn percent(&self) -> [Option<f64>; 3] {
        [self.ap, self.ap50, self.ap75].map(|share| share.filter(|share| *share >= 0.0).map(|share| share * 100.0))
    }
}

/// The evaluations in a folder. A single-scale evaluation and one with test-time augmentation of the same weights share a line.
fn evaluations(folder: &Path, config: Option<&RunConfig>, stored: &Stored) -> Result<Vec<Run>> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(StudyError::read(folder))?;
    let mut paths: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    paths.sort();
    let mut runs: Vec<(PathBuf, Run)> = Vec::new();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Detections in COCO's format may be large and have no figures; neither has an incident.
        if !name.ends_with(".json") || name == NON_FINITE || name.starts_with("results.") {
            continue;
        }
        let text = vmamba_files::read_text(&path).map_err(StudyError::read(&path))?;
        let value: Value = json::parse(&text).map_err(StudyError::content(path.display()))?;
        if value.get("checkpoint").is_none() || value.get("config").is_none() {
            // Of another program, such as `tables` itself in the same folder: nothing is taken from it.
            vmamba_files::may_replace(&path);
            continue;
        }
        let file: FiguresFile = decode(value, &path.display().to_string())?;
        let checkpoint = file.checkpoint.clone();
        let run = evaluation(folder, &path, file, config, stored)?;
        let partner = runs.iter_mut().find(|(of, other)| *of == checkpoint && complements(other, &run));
        match partner {
            Some((_, other)) => {
                let figures = other.figures.iter().zip(&run.figures).map(|(a, b)| a.or(*b)).collect();
                other.figures = figures;
                other.origin = format!("{}, {}", other.origin, run.origin);
            }
            None => runs.push((checkpoint, run)),
        }
    }
    Ok(runs.into_iter().map(|(_, run)| run).collect())
}

/// Whether two evaluations agree in everything but their figures and have no figure in common.
fn complements(a: &Run, b: &Run) -> bool {
    a.benchmark == b.benchmark
        && a.name == b.name
        && a.facts == b.facts
        && a.figures.iter().zip(&b.figures).all(|(a, b)| a.is_none() || b.is_none())
}

fn evaluation(folder: &Path, path: &Path, file: FiguresFile, config: Option<&RunConfig>, stored: &Stored) -> Result<Run> {
    let (benchmark, figures) = match (&file.metrics, &file.bbox, &file.segm) {
        (Some(metrics), None, None) => {
            let own = metrics.mean_iou.map(|share| share * 100.0);
            (Benchmark::Ade20k, if file.tta { vec![None, own] } else { vec![own, None] })
        }
        // Without masks in the annotations, there are no figures of masks.
        (None, Some(boxes), masks) => (Benchmark::Coco, [boxes.percent(), masks.as_ref().map_or([None; 3], ApFigures::percent)].concat()),
        _ => return Err(StudyError::content(path.display())("expected `metrics` (test_seg), or `bbox` (test_det)")),
    };
    let own = match file.configuration {
        Some(value) => Some(RunConfig::from_json(benchmark, value, &format!("{}: `configuration`", path.display()))?),
        None => config.filter(|config| config.name() == file.config && config.benchmark() == benchmark).cloned(),
    };
    // The metadata of the checkpoint are optional.
    let of_checkpoint = if file.checkpoint.is_file() { Stored::read(&file.checkpoint).ok().flatten() } else { None };
    let of_checkpoint = of_checkpoint.unwrap_or_else(|| if config.is_some() { stored.clone() } else { Stored::default() });
    let facts = Facts {
        // The best weights of a finished run come from an earlier step; so their step says nothing about the length of the run.
        done: None,
        images: Some(file.images),
        classes: Some(file.classes.len()),
        precision: file.precision,
        slide: file.mode != InferenceMode::Whole,
        ..of_checkpoint.facts
    };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let iteration = file.iteration.map_or(String::new(), |iteration| format!(", iteration {iteration}"));
    let origin = format!("{name}{}{iteration}", if file.tta { " (six scales and flips)" } else { "" });
    let config = own.or(of_checkpoint.config.filter(|config| config.name() == file.config));
    Ok(Run { place: folder.display().to_string(), origin, name: file.config, benchmark, config, figures, facts })
}

/// Deserialises a value; the error names `place` and the field.
fn decode<T: DeserializeOwned>(value: Value, place: &str) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        let place = if path == "." { place.to_owned() } else { format!("{place}: {path}") };
        StudyError::content(place)(reason)
    })
}
