//! The result of a check, and the text of findings and of the verdict.

use image::RgbImage;
use serde_json::Value;
use vision_datasets::check::{Finding, Severity};
use vmamba_types::words::counted;

/// A checked data set.
pub(super) struct Checked {
    /// The report as text.
    pub(super) text: String,
    /// The report as JSON.
    pub(super) report: Value,
    /// The contact sheet; none when it was not asked for or no image can be read.
    pub(super) sheet: Option<RgbImage>,
    /// Whether the data set passes.
    pub(super) passes: bool,
}

/// Classes and categories beyond this number are listed only with `--all-classes`.
pub(super) const MOST_CLASSES: usize = 40;

/// A finding with its examples and its remedy.
pub(super) fn finding_text(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Error => "ERROR",
        Severity::Warning => "warning",
        Severity::Info => "info",
    };
    let split = finding.split.as_ref().map(|s| format!(" [{s}]")).unwrap_or_default();
    let mut text = format!("{severity}{split}: {}\n", finding.message);
    if !finding.examples.is_empty() {
        let more = finding.count.saturating_sub(finding.examples.len());
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        text += &format!("    {}{more}\n", finding.examples.join(", "));
    }
    text + &format!("    -> {}\n\n", finding.remedy)
}

/// The last line of a report: whether the data set passes, and the number of errors and warnings.
pub(super) fn verdict(passes: bool, [errors, warnings]: [usize; 2]) -> String {
    let verdict = if passes { "ready for training" } else { "not ready for training" };
    format!("{verdict}: {}, {}\n", counted(errors, "error", "errors"), counted(warnings, "warning", "warnings"))
}
