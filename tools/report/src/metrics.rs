//! `metrics.jsonl`: one JSON object per line for every training step and every validation.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use vmamba_files::AppendLog;
use vmamba_train::{BoxError, Observer, RunInfo, Scalars, StepReport, ValidationReport};

use crate::error::ReportError;
use crate::files::write_whole;

/// Name of the log in a run folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Whether figures belong to a training step or to a validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A training step.
    Train,
    /// A validation.
    Val,
}

impl Kind {
    /// The value of `kind` in a line of the log, and the group of the figure in TensorBoard.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

/// Observer that appends the figures of every step and validation to a JSON Lines file.
///
/// A line is `{"kind": "train" | "val", "iteration": <steps done>, "<figure>": <number or null>, ...}`; NaN and infinity become null.
/// A killed run may have logged steps and a validation after its newest checkpoint. A resumed run removes these lines when it starts, because
/// it takes the steps and validates again. Damaged lines do not stop it, see [`repair`].
pub struct MetricsLog {
    path: PathBuf,
    lines: Option<AppendLog>,
}

impl MetricsLog {
    /// Logs into `path`, which is created when the run starts.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), lines: None }
    }

    /// Opens the log of a run that has done `done` steps and was last validated after `validated` steps. Removes the lines of later steps and
    /// validations.
    fn open(&mut self, done: u64, validated: Option<u64>) -> Result<(), ReportError> {
        let path = &self.path;
        if path.exists() {
            if done == 0 && !read(path)?.is_empty() {
                return Err(ReportError::LogExists { path: path.clone() });
            }
            repair(path)?;
            let bytes = read(path)?;
            let newest = |line: &Line| if line.value["kind"] == Kind::Val.name() { validated.unwrap_or(0) } else { done };
            let is_kept = |line: &Line| line.value["iteration"].as_u64().is_none_or(|own| own <= newest(line));
            rewrite(path, &bytes, parse(&bytes).lines.into_iter().filter(is_kept))?;
        }
        self.lines = Some(AppendLog::open(path).map_err(ReportError::write(path))?);
        Ok(())
    }

    /// Appends the figures after `iteration` steps.
    fn record(&mut self, kind: Kind, iteration: u64, scalars: &Scalars) -> Result<(), ReportError> {
        let Some(lines) = &mut self.lines else { return Ok(()) };
        let mut line = Map::from_iter([("kind".to_owned(), json!(kind.name())), ("iteration".to_owned(), json!(iteration))]);
        for (name, value) in scalars {
            // JSON has no NaN; null stands for it.
            line.insert(name.clone(), serde_json::Number::from_f64(*value).map_or(Value::Null, Value::Number));
        }
        lines.append(format!("{}\n", Value::Object(line)).as_bytes()).map_err(ReportError::write(&self.path))
    }
}

impl Observer for MetricsLog {
    fn started(&mut self, run: &RunInfo) -> Result<(), BoxError> {
        Ok(self.open(run.first, run.validated)?)
    }

    fn step(&mut self, step: &StepReport) -> Result<(), BoxError> {
        Ok(self.record(Kind::Train, step.iteration, &step.scalars)?)
    }

    fn validated(&mut self, validation: &ValidationReport) -> Result<(), BoxError> {
        Ok(self.record(Kind::Val, validation.iteration, &validation.scalars)?)
    }
}

/// A line of the log.
struct Line<'a> {
    bytes: &'a [u8],
    value: Value,
}

/// The lines of a log. A last line that a crash truncated belongs to neither.
struct Lines<'a> {
    lines: Vec<Line<'a>>,
    /// Numbers of the lines that are no JSON objects, from 1.
    damaged: Vec<usize>,
}

fn parse(bytes: &[u8]) -> Lines<'_> {
    let mut parsed = Lines { lines: Vec::new(), damaged: Vec::new() };
    let mut rest = bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((index, line)) = rest.next() {
        match serde_json::from_slice(line) {
            Ok(value @ Value::Object(_)) => parsed.lines.push(Line { bytes: line, value }),
            _ if rest.peek().is_none() => break,
            _ => parsed.damaged.push(index + 1),
        }
    }
    parsed
}

/// Writes the kept lines, unless the file has these only.
fn rewrite<'a>(path: &Path, before: &[u8], kept: impl Iterator<Item = Line<'a>>) -> Result<(), ReportError> {
    let kept: Vec<u8> = kept.flat_map(|line| [line.bytes, b"\n"].concat()).collect();
    if kept == before { Ok(()) } else { write_whole(path, &kept) }
}

/// The objects of all lines of a log. A last line that a crash truncated is left out.
///
/// # Errors
/// When the file cannot be read, or a line before the last one is damaged.
pub fn read_metrics(path: &Path) -> Result<Vec<Value>, ReportError> {
    let bytes = read(path)?;
    let Lines { lines, damaged } = parse(&bytes);
    match damaged.first() {
        Some(line) => Err(ReportError::DamagedLine { path: path.to_owned(), line: *line }),
        None => Ok(lines.into_iter().map(|line| line.value).collect()),
    }
}

/// The objects of the undamaged lines of a log; empty if the log cannot be read.
pub(crate) fn readable_lines(path: &Path) -> Vec<Value> {
    let bytes = read(path).unwrap_or_default();
    parse(&bytes).lines.into_iter().map(|line| line.value).collect()
}

/// The result of [`repair`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The log.
    pub log: PathBuf,
    /// The number of damaged lines, which are left out.
    pub lines: usize,
    /// The log as it was.
    pub copy: PathBuf,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let lines = if self.lines == 1 { "1 damaged line is".to_owned() } else { format!("{} damaged lines are", self.lines) };
        write!(f, "{}: {lines} left out; the file as it was is {}", self.log.display(), self.copy.display())
    }
}

/// Removes the damaged lines from a log, so that its run can go on; the file as it was is kept as `metrics.damaged.jsonl` beside it, or with a
/// number where this name is taken. Returns `None` for a log without damage.
///
/// # Errors
/// When the log cannot be read, or a file cannot be written.
pub fn repair(path: &Path) -> Result<Option<Repair>, ReportError> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read(path)?;
    let Lines { lines, damaged } = parse(&bytes);
    if damaged.is_empty() {
        return Ok(None);
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let names = (1..).map(|number| if number == 1 { format!("{stem}.damaged.jsonl") } else { format!("{stem}.damaged-{number}.jsonl") });
    let mut copies = names.map(|name| path.with_file_name(name));
    let copy = copies.find(|copy| !copy.exists() && !copy.is_symlink()).unwrap_or_default();
    write_whole(&copy, &bytes)?;
    rewrite(path, &bytes, lines.into_iter())?;
    Ok(Some(Repair { log: path.to_owned(), lines: damaged.len(), copy }))
}

fn read(path: &Path) -> Result<Vec<u8>, ReportError> {
    vmamba_files::read(path).map_err(ReportError::read(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiny;

    fn log(path: &Path, done: u64) -> Result<MetricsLog, ReportError> {
        let mut log = MetricsLog::new(path);
        log.open(done, Some(done))?;
        Ok(log)
    }

    #[test]
    fn a_run_logs_every_step_and_every_validation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        tiny::run(MetricsLog::new(&path));
        let lines = read_metrics(&path).unwrap();
        let kinds: Vec<(&str, u64)> =
            lines.iter().map(|line| (line["kind"].as_str().unwrap(), line["iteration"].as_u64().unwrap())).collect();
        assert_eq!(kinds, [("train", 1), ("train", 2), ("val", 2), ("train", 3), ("train", 4), ("val", 4)]);
        assert!(lines[0]["loss"].as_f64().unwrap() > lines[4]["loss"].as_f64().unwrap(), "{lines:?}");
        assert!(lines[5]["closeness"].is_number());
    }

    #[test]
    fn a_resumed_log_keeps_the_steps_of_the_checkpoint_and_drops_later_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        let mut first = log(&path, 0).unwrap();
        let scalars = |loss: f64| vec![("loss".to_owned(), loss)];
        for iteration in 1..=4 {
            first.record(Kind::Train, iteration, &scalars(iteration as f64)).unwrap();
        }
        first.record(Kind::Val, 2, &scalars(f64::NAN)).unwrap();
        drop(first);
        let before = std::fs::read_to_string(&path).unwrap();

        drop(log(&path, 4).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before, "nothing to drop, nothing rewritten");
        drop(log(&path, 2).unwrap());
        let kept: Vec<u64> = read_metrics(&path).unwrap().iter().map(|line| line["iteration"].as_u64().unwrap()).collect();
        assert_eq!(kept, [1, 2, 2]);
        assert!(read_metrics(&path).unwrap()[2]["loss"].is_null());
    }

    #[test]
    fn a_validation_that_is_repeated_is_logged_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        let mut first = log(&path, 0).unwrap();
        for iteration in 1..=4 {
            first.record(Kind::Train, iteration, &Vec::new()).unwrap();
        }
        for iteration in [2, 4] {
            first.record(Kind::Val, iteration, &Vec::new()).unwrap();
        }
        drop(first);
        let kinds = || read_metrics(&path).unwrap().iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        // Killed after the second validation was logged and before a checkpoint had it.
        MetricsLog::new(&path).open(4, Some(2)).unwrap();
        assert_eq!(kinds(), ["train", "train", "train", "train", "val"]);
        MetricsLog::new(&path).open(4, None).unwrap();
        assert_eq!(kinds(), ["train", "train", "train", "train"]);
    }

    #[test]
    fn a_truncated_last_line_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        std::fs::write(&path, "{\"iteration\":1}\n{\"iterat").unwrap();
        assert_eq!(read_metrics(&path).unwrap().len(), 1);
        drop(log(&path, 1).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"iteration\":1}\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "this is no damage");
    }

    #[test]
    fn damaged_lines_are_set_aside_and_a_resumed_log_keeps_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        for (number, damage) in [&b"{\"iterat"[..], b"\0\0\0", b"\xff\xfe", b"7", b""].into_iter().enumerate() {
            let before = [b"{\"iteration\":1}\n", damage, b"\n{\"iteration\":3}\n"].concat();
            std::fs::write(&path, &before).unwrap();
            let error = read_metrics(&path).unwrap_err();
            assert!(matches!(&error, ReportError::DamagedLine { line: 2, .. }), "{error}");
            assert!(error.to_string().contains("metrics.jsonl: line 2 is not a JSON object"), "{error}");
            drop(log(&path, 3).unwrap());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"iteration\":1}\n{\"iteration\":3}\n");
            let copy = if number == 0 { "metrics.damaged.jsonl".to_owned() } else { format!("metrics.damaged-{}.jsonl", number + 1) };
            assert_eq!(std::fs::read(folder.path().join(copy)).unwrap(), before, "nothing is lost");
            assert_eq!(repair(&path).unwrap(), None);
        }
    }
}
