//! Curves of a training run, and precision over recall.

use std::path::Path;

use anyhow::Result;
use vision_datasets::coco::EvalReport;

use crate::metrics::{Kind, METRICS_FILE, read_metrics};
use crate::plots::{Series, line_plot};

/// Draws the losses and the metric of a run from its log, as `loss.png`, `loss.svg`, `<metric>.png` and `<metric>.svg` in its folder.
///
/// # Errors
/// When the log cannot be read or a plot cannot be written.
pub fn training_curves(folder: &Path, title: &str, losses: &[&str], metric: &str) -> Result<()> {
    let lines = read_metrics(&folder.join(METRICS_FILE))?;
    let points = |kind: Kind, name: &str| -> Vec<(f64, f64)> {
        let own = lines.iter().filter(|line| line["kind"] == kind.name());
        own.filter_map(|line| Some((line["iteration"].as_f64()?, line[name].as_f64()?))).collect()
    };
    let draw = |name: &str, label: &str, series: Vec<Series>| -> Result<()> {
        if series.iter().all(|series| series.points.is_empty()) {
            return Ok(());
        }
        let (png, svg) = (folder.join(format!("{name}.png")), folder.join(format!("{name}.svg")));
        line_plot(Some(&png), Some(&svg), title, "iteration", label, &series)
    };
    draw("loss", "loss", losses.iter().map(|name| Series::smoothed(*name, points(Kind::Train, name), 0.95)).collect())?;
    draw(metric, metric, vec![Series::dots(metric, points(Kind::Val, metric))])
}

/// Draws precision over recall at IoU 0.5, 0.75 and 0.9, the mean over all classes, as `pr_<kind>.png` and `.svg` into `folder`. Without a
/// ground truth object there is no curve and no file.
///
/// # Errors
/// When a file cannot be written.
pub fn precision_recall(folder: &Path, report: &EvalReport, kind: &str) -> Result<()> {
    let curve = |threshold: f64| Series::line(format!("IoU {threshold:.2}"), report.curve(threshold, None).points);
    let series: Vec<Series> = report.thresholds_near(&[0.5, 0.75, 0.9]).into_iter().map(curve).filter(|s| !s.points.is_empty()).collect();
    if series.is_empty() {
        return Ok(());
    }
    let (png, svg) = (folder.join(format!("pr_{kind}.png")), folder.join(format!("pr_{kind}.svg")));
    line_plot(Some(&png), Some(&svg), &format!("precision over recall, {kind}"), "recall", "precision", &series)
}
