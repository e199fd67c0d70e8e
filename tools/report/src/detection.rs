//! Tables of the figures of a detector, in percent.

use vision_datasets::coco::EvalReport;
use vmamba_types::ClassList;

use crate::tables::{Cell, Table};

/// Names of the twelve COCO statistics with mmdetection's limits of 100, 300 and 1000 detections.
pub const STATISTICS: [&str; 12] = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "AR300", "AR1000", "ARs", "ARm", "ARl"];

/// A share in percent; -1 marks a missing value.
fn percent(share: f64) -> Cell {
    if share < 0.0 { Cell::Missing } else { Cell::percent(share) }
}

/// The twelve COCO statistics of boxes and masks.
pub fn statistics_table(boxes: &EvalReport, masks: &EvalReport) -> Table {
    let mut table = Table::new(["", "bbox", "segm"]);
    for (name, (boxes, masks)) in STATISTICS.iter().zip(boxes.stats.into_iter().zip(masks.stats)) {
        table.push([Cell::from(*name), percent(boxes), percent(masks)]);
    }
    table
}

/// AP, AP50 and AP75 of every class, boxes beside masks; `ids` are the category ids of `classes`.
pub fn category_table(boxes: &EvalReport, masks: &EvalReport, classes: &ClassList, ids: &[i64]) -> Table {
    let mut table = Table::new(["class", "bbox AP", "AP50", "AP75", "segm AP", "AP50", "AP75"]);
    let masks = category_rows(masks, classes, ids);
    for (row, masks) in category_rows(boxes, classes, ids).rows().iter().zip(masks.rows()) {
        table.push(row.iter().chain(&masks[1..]).cloned());
    }
    table
}

/// AP, AP50 and AP75 of every class; `ids` are the category ids of `classes`.
pub fn category_rows(report: &EvalReport, classes: &ClassList, ids: &[i64]) -> Table {
    let mut table = Table::new(["class", "AP", "AP50", "AP75"]);
    let places = report.category_ids();
    for (name, id) in classes.names.iter().zip(ids) {
        let Some(place) = places.iter().position(|own| own == id) else { continue };
        let figures = report.of_category(place);
        table.push([Cell::Text(name.clone()), percent(figures[0]), percent(figures[1]), percent(figures[2])]);
    }
    table
}

/// AP, AP50 and AP75 of boxes and masks in one line, in percent.
pub fn summary(boxes: &EvalReport, masks: &EvalReport) -> String {
    let of = |report: &EvalReport| {
        let [ap, ap50, ap75] = [0, 1, 2].map(|index| report.stats[index].max(0.0) * 100.0);
        format!("AP {ap:.2}  AP50 {ap50:.2}  AP75 {ap75:.2}")
    };
    format!("bbox {}   segm {}", of(boxes), of(masks))
}
