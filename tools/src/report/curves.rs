//! Precision over recall.

use std::path::Path;

use anyhow::Result;
use vision_datasets::coco::EvalReport;

use super::plots::{Series, line_plot};

/// Draws the curves at IoU 0.5, 0.75 and 0.9, the mean over all classes, as `pr_<kind>.png` and `.svg` into `folder`. Without a true object
/// there is no curve and no file.
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
