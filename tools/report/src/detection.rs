//! Tables of the figures of a detector, in percent.

use vision_datasets::coco::EvalReport;
use vmamba_types::ClassList;

use crate::tables::{Cell, Table};

/// Names of the twelve COCO statistics with mmdetection's limits of 100, 300 and 1000 detections.
pub const STATISTICS: [&str; 12] = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "AR300", "AR1000", "ARs", "ARm", "ARl"];

/// A report with its kind, `bbox` or `segm`.
pub type Named<'a> = (&'a str, &'a EvalReport);

/// A share, unless it is the -1 that marks a missing value.
pub fn known(share: f64) -> Option<f64> {
    Some(share).filter(|share| *share >= 0.0)
}

/// A share in percent.
fn percent(share: Option<f64>) -> Cell {
    share.map_or(Cell::Missing, Cell::percent)
}

/// The twelve COCO statistics, a column for each report.
pub fn statistics_table(reports: &[Named]) -> Table {
    let mut table = Table::new([""].into_iter().chain(reports.iter().map(|(kind, _)| *kind)));
    for (index, name) in STATISTICS.iter().enumerate() {
        table.push([Cell::from(*name)].into_iter().chain(reports.iter().map(|(_, report)| percent(known(report.stats[index])))));
    }
    table
}

/// The figures of a class, as shares of 1.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassFigures {
    /// Class index.
    pub class: usize,
    /// Category id in the annotations.
    pub id: i64,
    /// AP, AP50 and AP75; `None` without an object of the class.
    pub ap: [Option<f64>; 3],
}

/// The figures of the evaluated classes; `ids` are the category ids by class index.
pub fn class_figures(report: &EvalReport, ids: &[i64]) -> Vec<ClassFigures> {
    let places = report.category_ids();
    let figures = |(class, id): (usize, &i64)| {
        let place = places.iter().position(|own| own == id)?;
        let [ap, ap50, ap75, ..] = report.of_category(place);
        Some(ClassFigures { class, id: *id, ap: [ap, ap50, ap75].map(known) })
    };
    ids.iter().enumerate().filter_map(figures).collect()
}

/// AP, AP50 and AP75 of every class, one report beside the other; `ids` are the category ids by class index. Classes of one name are told
/// apart by id.
pub fn class_table(reports: &[Named], classes: &ClassList, ids: &[i64]) -> Table {
    let columns = reports.iter().flat_map(|(kind, _)| ["AP", "AP50", "AP75"].map(|name| format!("{kind} {name}")));
    let mut table = Table::new(["class".to_owned()].into_iter().chain(columns));
    let figures: Vec<_> = reports.iter().map(|(_, report)| class_figures(report, ids)).collect();
    // All reports are of the same categories.
    for (row, first) in figures.first().into_iter().flatten().enumerate() {
        let cells = figures.iter().filter_map(|own| own.get(row)).flat_map(|own| own.ap.map(percent));
        table.push([Cell::Text(classes.label(first.class))].into_iter().chain(cells));
    }
    table
}

/// AP, AP50 and AP75 of each report in one line, in percent.
pub fn summary(reports: &[Named]) -> String {
    let of = |(kind, report): &Named| {
        let [ap, ap50, ap75] = [0, 1, 2].map(|index| percent(known(report.stats[index])).to_string());
        format!("{kind} AP {ap}  AP50 {ap50}  AP75 {ap75}")
    };
    reports.iter().map(of).collect::<Vec<_>>().join("   ")
}
