//! Tables of the figures of a segmentor, in percent.

use vision_datasets::ade20k::IouReport;
use vmamba_types::ClassList;

use crate::tables::{Cell, Table};

/// IoU, accuracy and number of pixels of every class, and their mean. Classes without pixels have no value.
pub fn class_table(report: &IouReport, classes: &ClassList) -> Table {
    let mut table = Table::new(["class", "IoU", "Acc", "pixels"]);
    let percent = |value: f64| if value.is_nan() { Cell::Missing } else { Cell::percent(value) };
    for (((name, iou), accuracy), pixels) in classes.names.iter().zip(&report.iou).zip(&report.accuracy).zip(&report.labelled) {
        table.push([Cell::Text(name.clone()), percent(*iou), percent(*accuracy), Cell::Integer(*pixels as i64)]);
    }
    let total: u64 = report.labelled.iter().sum();
    table.push([Cell::Text("mean".into()), percent(report.mean_iou), percent(report.mean_accuracy), Cell::Integer(total as i64)]);
    table
}

/// aAcc, mIoU and mAcc in one line, in percent.
pub fn summary(report: &IouReport) -> String {
    let [all, iou, accuracy] = [report.all_accuracy, report.mean_iou, report.mean_accuracy].map(|share| share * 100.0);
    format!("aAcc {all:.2}  mIoU {iou:.2}  mAcc {accuracy:.2}")
}
