//! `metrics.jsonl`: one JSON object a training step or validation.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use vmamba_train::Scalars;

use crate::files::write_whole;

/// Name of the file in a run folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Whether a line of the log is a training step or a validation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A training step.
    Train,
    /// A validation.
    Val,
}

impl Kind {
    /// The value of `kind` in a line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

/// Appends lines to a `metrics.jsonl`.
pub struct MetricsLog {
    path: PathBuf,
    lines: BufWriter<File>,
}

impl MetricsLog {
    /// Opens the log of a run that has done `done` steps. A killed run may have logged steps after its newest checkpoint; they are removed,
    /// because the resumed run takes them again.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds a damaged line.
    pub fn open(path: &Path, done: u64) -> Result<Self> {
        if path.exists() {
            let text = read(path)?;
            let lines = parse(&text, path)?;
            let kept: Vec<&Line> = lines.iter().filter(|line| line.value["iteration"].as_u64().is_none_or(|own| own <= done)).collect();
            let kept_bytes: usize = kept.iter().map(|line| line.text.len() + 1).sum();
            if kept_bytes != text.len() {
                let mut whole = String::with_capacity(kept_bytes);
                for line in kept {
                    whole.push_str(line.text);
                    whole.push('\n');
                }
                write_whole(path, whole.as_bytes())?;
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.to_owned(), lines: BufWriter::new(file) })
    }

    /// Appends the figures after `iteration` steps.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record(&mut self, kind: Kind, iteration: u64, scalars: &Scalars) -> Result<()> {
        let mut line = Map::from_iter([("kind".to_owned(), json!(kind.name())), ("iteration".to_owned(), json!(iteration))]);
        for (name, value) in scalars {
            // JSON has no NaN; null stands for it.
            line.insert(name.clone(), serde_json::Number::from_f64(*value).map_or(Value::Null, Value::Number));
        }
        writeln!(self.lines, "{}", Value::Object(line))
            .and_then(|()| self.lines.flush())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// A line of the log.
struct Line<'a> {
    text: &'a str,
    value: Value,
}

/// All lines of a log. A crash may have cut the last line short; it is left out.
///
/// # Errors
/// When the file cannot be read, or a line before the last one is damaged.
pub fn read_metrics(path: &Path) -> Result<Vec<Value>> {
    Ok(parse(&read(path)?, path)?.into_iter().map(|line| line.value).collect())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn parse<'a>(text: &'a str, path: &Path) -> Result<Vec<Line<'a>>> {
    let mut lines = Vec::new();
    let mut rest = text.lines().enumerate().peekable();
    while let Some((index, line)) = rest.next() {
        match serde_json::from_str(line) {
            Ok(value) => lines.push(Line { text: line, value }),
            Err(_) if rest.peek().is_none() => break,
            Err(error) => bail!("{}: line {} is damaged: {error}", path.display(), index + 1),
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalars(loss: f64) -> Scalars {
        vec![("loss".to_owned(), loss)]
    }

    #[test]
    fn a_resumed_log_keeps_the_steps_of_the_checkpoint_and_drops_later_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        let mut log = MetricsLog::open(&path, 0).unwrap();
        for iteration in 1..=4 {
            log.record(Kind::Train, iteration, &scalars(iteration as f64)).unwrap();
        }
        log.record(Kind::Val, 2, &scalars(f64::NAN)).unwrap();
        drop(log);
        let before = std::fs::read_to_string(&path).unwrap();

        drop(MetricsLog::open(&path, 4).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before, "nothing to drop, nothing rewritten");
        drop(MetricsLog::open(&path, 2).unwrap());
        let kept: Vec<u64> = read_metrics(&path).unwrap().iter().map(|line| line["iteration"].as_u64().unwrap()).collect();
        assert_eq!(kept, [1, 2, 2]);
        assert!(read_metrics(&path).unwrap()[2]["loss"].is_null());
    }

    #[test]
    fn a_cut_last_line_is_left_out_and_a_damaged_line_before_it_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        std::fs::write(&path, "{\"iteration\":1}\n{\"iterat").unwrap();
        assert_eq!(read_metrics(&path).unwrap().len(), 1);
        drop(MetricsLog::open(&path, 1).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"iteration\":1}\n");

        std::fs::write(&path, "{\"iteration\":1}\n{\"iterat\n{\"iteration\":3}\n").unwrap();
        let error = read_metrics(&path).unwrap_err().to_string();
        assert!(error.contains(METRICS_FILE) && error.contains("line 2"), "{error}");
        assert!(MetricsLog::open(&path, 3).is_err());
    }
}
