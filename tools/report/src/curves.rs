//! Curves of a training run, and precision-recall curves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use vision_datasets::coco::{EvalReport, IouType};
use vmamba_train::{BoxError, Observer, Outcome, RunInfo, StepReport, ValidationReport};

use crate::error::ReportError;
use crate::files::create_folder;
use crate::metrics::{Kind, read_metrics};
use crate::plots::{Series, line_plot};

/// Weight of the past in the smoothed loss.
const SMOOTHING: f64 = 0.95;
/// Name of the plot of the losses.
const LOSS: &str = "loss";

/// Observer that draws the losses and the metric of a run over its iterations, as `loss.png`, `loss.svg`, `<metric>.png` and `<metric>.svg`.
/// It draws after every validation and at the end.
pub struct Curves {
    folder: PathBuf,
    history: Option<PathBuf>,
    title: String,
    losses: Vec<Curve>,
    metric: Option<Curve>,
    /// Lines of the log with the validations before a resumed run started.
    validations: Vec<Value>,
    /// Whether the files lack the newest step.
    outdated: bool,
}

/// A figure and its points `(iteration, value)`.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Curves {
    /// Draws into `folder`, which is created when the run starts.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            history: None,
            title: String::new(),
            losses: Vec::new(),
            metric: None,
            validations: Vec::new(),
            outdated: false,
        }
    }

    /// Takes the steps before a resumed run starts from the log that [`MetricsLog`](crate::metrics::MetricsLog) wrote. Without it, the curves
    /// of a resumed run begin where it was resumed.
    #[must_use]
    pub fn with_history(mut self, log: impl Into<PathBuf>) -> Self {
        self.history = Some(log.into());
        self
    }

    /// Reads the steps and validations up to iteration `done` from the log.
    fn read_history(&mut self, done: u64) -> Result<(), ReportError> {
        let Some(log) = self.history.as_ref().filter(|log| done > 0 && log.exists()) else { return Ok(()) };
        let mut lines = read_metrics(log)?;
        lines.retain(|line| line["iteration"].as_u64().is_some_and(|own| own <= done));
        let (validations, steps): (Vec<Value>, Vec<Value>) = lines.into_iter().partition(|line| line["kind"] == Kind::Val.name());
        for loss in &mut self.losses {
            loss.points = points(&steps, &loss.name);
        }
        self.validations = validations;
        Ok(())
    }

    /// Adds a validation. The curve starts with the earlier validations of a resumed run.
    fn add_validation(&mut self, iteration: u64, name: &str, value: f64) {
        let validations = &self.validations;
        let curve = self.metric.get_or_insert_with(|| Curve { name: name.to_owned(), points: points(validations, name) });
        curve.points.push((iteration as f64, value));
    }

    fn draw(&mut self) -> Result<(), ReportError> {
        let losses = self.losses.iter().map(|loss| Series::smoothed(&loss.name, loss.points.clone(), SMOOTHING)).collect();
        self.plot(LOSS, losses)?;
        if let Some(metric) = &self.metric {
            self.plot(&metric.name, vec![Series::dots(&metric.name, metric.points.clone())])?;
        }
        self.outdated = false;
        Ok(())
    }

    /// Draws `<name>.png` and `<name>.svg`; nothing where there is no point.
    fn plot(&self, name: &str, series: Vec<Series>) -> Result<(), ReportError> {
        let finite = |series: &Series| series.points.iter().any(|(_, value)| value.is_finite());
        if !series.iter().any(finite) {
            return Ok(());
        }
        let [png, svg] = plot_files(&self.folder, name);
        line_plot(Some(&png), Some(&svg), &self.title, "iteration", name, &series)
    }
}

impl Observer for Curves {
    fn started(&mut self, run: &RunInfo) -> Result<(), BoxError> {
        create_folder(&self.folder)?;
        self.title.clone_from(&run.name);
        self.losses = run.plotted_losses.iter().map(|name| Curve { name: (*name).to_owned(), points: Vec::new() }).collect();
        (self.metric, self.validations) = (None, Vec::new());
        Ok(self.read_history(run.first)?)
    }

    fn step(&mut self, step: &StepReport) -> Result<(), BoxError> {
        for loss in &mut self.losses {
            let value = step.scalar(&loss.name);
            if value.is_finite() {
                loss.points.push((step.iteration as f64, value));
            }
        }
        self.outdated = true;
        Ok(())
    }

    fn validated(&mut self, validation: &ValidationReport) -> Result<(), BoxError> {
        if let Some((name, value)) = validation.scalars.first() {
            self.add_validation(validation.iteration, name, *value);
        }
        Ok(self.draw()?)
    }

    fn finished(&mut self, _outcome: Outcome, _iteration: u64) -> Result<(), BoxError> {
        if self.outdated {
            self.draw()?;
        }
        Ok(())
    }
}

/// The PNG and the SVG of a plot.
fn plot_files(folder: &Path, name: &str) -> [PathBuf; 2] {
    // Names such as `bbox/AP` are usual in TensorBoard, and are not file names.
    let file: String = name.chars().map(|c| if c.is_alphanumeric() || "_.-".contains(c) { c } else { '_' }).collect();
    ["png", "svg"].map(|ending| folder.join(format!("{file}.{ending}")))
}

/// Name of the plot of precision over recall of boxes or masks.
fn precision_plot(kind: &str) -> String {
    format!("pr_{kind}")
}

/// The files that [`Curves`] and [`precision_recall`] draw for a run that maximises one of `metrics`.
pub(crate) fn curve_files(folder: &Path, metrics: BTreeSet<String>) -> Vec<PathBuf> {
    let precision = [IouType::Bbox, IouType::Segm].map(|kind| precision_plot(kind.name()));
    let names = metrics.into_iter().chain([LOSS.to_owned()]).chain(precision);
    names.flat_map(|name| plot_files(folder, &name)).collect()
}

/// The points `(iteration, figure)` of lines of the log. A null, which stands for NaN, is skipped.
fn points(lines: &[Value], figure: &str) -> Vec<(f64, f64)> {
    lines.iter().filter_map(|line| Some((line["iteration"].as_f64()?, line[figure].as_f64()?))).collect()
}

/// Draws precision over recall at IoU 0.5, 0.75 and 0.9, averaged over the classes, as `pr_<kind>.png` and `.svg` into `folder`. Draws nothing
/// where the annotations have no object.
///
/// # Errors
/// When a file cannot be written.
pub fn precision_recall(folder: &Path, report: &EvalReport, kind: &str) -> Result<(), ReportError> {
    let curve = |threshold: f64| Series::line(format!("IoU {threshold:.2}"), report.curve(threshold, None).points);
    let series: Vec<Series> = report.thresholds_near(&[0.5, 0.75, 0.9]).into_iter().map(curve).filter(|s| !s.points.is_empty()).collect();
    if series.is_empty() {
        return Ok(());
    }
    let [png, svg] = plot_files(folder, &precision_plot(kind));
    line_plot(Some(&png), Some(&svg), &format!("precision over recall, {kind}"), "recall", "precision", &series)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::MetricsLog;
    use crate::tiny;

    #[test]
    fn a_run_is_drawn_as_loss_and_metric() {
        let folder = tempfile::tempdir().unwrap();
        tiny::run(Curves::new(folder.path().join("curves")));
        for name in ["loss.png", "loss.svg", "closeness.png", "closeness.svg"] {
            assert!(folder.path().join("curves").join(name).is_file(), "{name}");
        }
        let text = std::fs::read_to_string(folder.path().join("curves/loss.svg")).unwrap();
        assert!(text.contains("fit") && text.contains("iteration"), "title and axis");
    }

    #[test]
    fn a_resumed_run_takes_earlier_points_from_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("metrics.jsonl");
        tiny::run(MetricsLog::new(&log));
        let mut curves = Curves::new(folder.path()).with_history(&log);
        curves.losses = vec![Curve { name: "loss".to_owned(), points: Vec::new() }];
        curves.read_history(2).unwrap();
        curves.add_validation(6, "closeness", 0.5);
        let iterations = |curve: &Curve| curve.points.iter().map(|point| point.0).collect::<Vec<_>>();
        assert_eq!(iterations(&curves.losses[0]), [1.0, 2.0], "the run takes the steps after the second again");
        assert_eq!(curves.metric.as_ref().map(iterations), Some(vec![2.0, 6.0]));
    }
}
