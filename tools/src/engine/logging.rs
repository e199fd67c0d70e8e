//! What a run leaves behind while it runs: JSON lines, TensorBoard events, curves, a progress bar.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anstream::println;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::report::plots::{Series, line_plot};
use crate::report::tensorboard::EventWriter;

/// Figures of one moment, in order.
pub type Scalars = Vec<(String, f64)>;

/// Writes the figures of a run.
pub struct RunLog {
    folder: PathBuf,
    lines: BufWriter<File>,
    events: EventWriter,
    bar: Option<ProgressBar>,
    total: u64,
}

/// Name of the file with one JSON object a line.
pub const METRICS_FILE: &str = "metrics.jsonl";

impl RunLog {
    /// Opens the log of a run of `total` iterations in `folder`; a resumed run goes on in the same files, without what was logged after
    /// iteration `first`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn open(folder: &Path, first: u64, total: u64) -> Result<Self> {
        let path = folder.join(METRICS_FILE);
        let context = || format!("cannot write {}", path.display());
        if first > 0 && path.exists() {
            // A killed run may have logged steps after its last checkpoint; they will come again.
            let kept: Vec<String> =
                read_lines(&path)?.into_iter().filter(|v| v["iteration"].as_u64() <= Some(first)).map(|v| v.to_string()).collect();
            std::fs::write(&path, kept.join("\n") + if kept.is_empty() { "" } else { "\n" }).with_context(context)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).with_context(context)?;
        let events = EventWriter::create(folder.join("tensorboard"))
            .with_context(|| format!("cannot write TensorBoard events in {}", folder.display()))?;
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = progress_bar(total);
            bar.set_position(first);
            bar.reset_eta();
            bar
        });
        Ok(Self { folder: folder.to_owned(), lines: BufWriter::new(file), events, bar, total })
    }

    /// Logs figures of a step (`kind` "train") or an evaluation ("val") after `iteration` steps.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn record(&mut self, kind: &str, iteration: u64, scalars: &Scalars) -> Result<()> {
        let mut line = Map::from_iter([("kind".to_owned(), json!(kind)), ("iteration".to_owned(), json!(iteration))]);
        for (name, value) in scalars {
            // JSON has no NaN; null says that there is no value.
            line.insert(name.clone(), serde_json::Number::from_f64(*value).map_or(Value::Null, Value::Number));
            if value.is_finite() {
                self.events.scalar(&format!("{kind}/{name}"), iteration, *value as f32).context("cannot write TensorBoard events")?;
            }
        }
        writeln!(self.lines, "{}", Value::Object(line))
            .and_then(|()| self.lines.flush())
            .with_context(|| format!("cannot write {}", self.folder.join(METRICS_FILE).display()))?;
        self.events.flush().context("cannot write TensorBoard events")
    }

    /// Shows progress: moves the bar, or prints a line where there is no terminal.
    pub fn progress(&self, iteration: u64, message: &str, left: Option<Duration>, print: bool) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(iteration);
                bar.set_message(message.to_owned());
            }
            None if print => {
                let left = left.map_or(String::new(), |left| format!("  {} left", human(left)));
                println!("iteration {iteration}/{}  {message}{left}", self.total);
            }
            None => (),
        }
    }

    /// Prints a line without disturbing the bar.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }

    /// Draws the curves of loss and of `metric` from everything logged so far, as `loss.png/.svg` and `<metric>.png/.svg`.
    ///
    /// # Errors
    /// When the log cannot be read or a plot cannot be written.
    pub fn plot(&self, title: &str, losses: &[&str], metric: &str) -> Result<()> {
        let lines = read_lines(&self.folder.join(METRICS_FILE))?;
        let points = |kind: &str, name: &str| -> Vec<(f64, f64)> {
            let own = lines.iter().filter(|line| line["kind"] == kind);
            own.filter_map(|line| Some((line["iteration"].as_f64()?, line[name].as_f64()?))).collect()
        };
        let draw = |name: &str, label: &str, series: Vec<Series>| -> Result<()> {
            if series.iter().all(|series| series.points.is_empty()) {
                return Ok(());
            }
            let (png, svg) = (self.folder.join(format!("{name}.png")), self.folder.join(format!("{name}.svg")));
            line_plot(Some(&png), Some(&svg), title, "iteration", label, &series)
        };
        draw("loss", "loss", losses.iter().map(|name| Series::smoothed(*name, points("train", name), 0.95)).collect())?;
        draw(metric, metric, vec![Series::dots(metric, points("val", metric))])
    }
}

impl Drop for RunLog {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The lines of a log; a last line that was cut off by a crash is passed over.
/// A bar on the terminal with the time passed and the time left; hidden where there is no terminal.
pub fn progress_bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {elapsed}<{eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn read_lines(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// A duration in words: `2h05m`, `3m20s`, `12s`.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}
