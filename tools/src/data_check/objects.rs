//! The check of COCO annotations.

use std::path::Path;

use anyhow::Result;
use image::RgbImage;
use vision_datasets::check::{Finding, FindingKind, ObjectCheckOptions, ObjectReport, Severity, check_coco};
use vision_datasets::coco::{CocoDataset, CocoOptions};
use vision_datasets::image_io::ExifOrientation;
use vision_datasets::sample::DetectionDataset;
use vision_datasets::transforms::fit_size;
use vmamba_detection::AnchorConfig;
use vmamba_report::eprintln;
use vmamba_report::tables::{Cell, Table};
use vmamba_report::{objects, pictures};
use vmamba_types::words::counted;

use super::options::DataCheckOptions;
use super::report::{Checked, MOST_CLASSES, finding_text, verdict};
use crate::present::spread;

/// Checks COCO annotations and their images.
///
/// # Errors
/// When the annotations cannot be read.
pub(super) fn check(file: &Path, images: &Path, options: &DataCheckOptions) -> Result<Checked> {
    let exif = ExifOrientation::ignored_if(options.ignore_exif);
    let against = ObjectCheckOptions { num_classes: options.num_classes, drop_root_category: options.drop_root_category, exif };
    let mut report = check_coco(file, images, &against)?;
    let coverage = anchor_coverage(&report, options);
    if let Some([matched, _]) = coverage.filter(|[matched, _]| *matched < ENOUGH_COVERED) {
        let missed = ((1.0 - matched) * report.boxes.len() as f64).round() as usize;
        report.add(Finding {
            severity: Severity::Warning,
            kind: FindingKind::AnchorsMissObjects,
            split: None,
            count: missed,
            message: format!("{missed} of {} no anchor with an IoU of 0.5", counted(report.boxes.len(), "object has", "objects have")),
            remedy: "train at a larger scale, or with other anchor scales (model.heads.anchors.scales)".to_owned(),
            examples: Vec::new(),
        });
    }
    let sheet = options.sheet.as_ref().and_then(|_| object_sheet(file, images, exif, options.sheet_images));
    let text = report_text(file, &report, coverage, options);
    Ok(Checked { text, report: serde_json::to_value(&report)?, sheet, passes: report.passes(options.strict) })
}

/// Below this share of objects that overlap an anchor by an IoU of 0.5, the report warns.
const ENOUGH_COVERED: f64 = 0.95;

/// Shares of the objects whose best anchor has an IoU of at least 0.5 and 0.7 after the resize of training; none without objects.
fn anchor_coverage(report: &ObjectReport, options: &DataCheckOptions) -> Option<[f64; 2]> {
    let [long, short] = options.scale[..] else { return None };
    let anchors = AnchorConfig { scales: options.anchor_scales.clone(), ..AnchorConfig::default() }.init(&[4, 8, 16, 32, 64]);
    let best: Vec<f32> = report
        .boxes
        .iter()
        .map(|(bbox, size)| {
            let [height, width] = fit_size(size.map(|side| side as usize), [long, short]);
            let (sx, sy) = (width as f32 / size[1].max(1) as f32, height as f32 / size[0].max(1) as f32);
            anchors.best_iou([bbox[0] * sx, bbox[1] * sy, bbox[2] * sx, bbox[3] * sy])
        })
        .collect();
    let share = |limit: f32| best.iter().filter(|iou| **iou >= limit).count() as f64 / best.len() as f64;
    (!best.is_empty()).then(|| [share(0.5), share(0.7)])
}

/// Numbers, separated by commas.
fn list<T: std::fmt::Display>(numbers: &[T]) -> String {
    numbers.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// The report as text.
fn report_text(file: &Path, report: &ObjectReport, coverage: Option<[f64; 2]>, options: &DataCheckOptions) -> String {
    let mut text = format!(
        "{}\n{}, {}, {}\n\n",
        file.display(),
        counted(report.images, "image", "images"),
        counted(report.annotations, "annotation", "annotations"),
        counted(report.categories.len(), "category", "categories")
    );
    let [small, medium, large] = report.sizes;
    let all = (small + medium + large).max(1) as f64;
    let mut table = Table::new(["objects", "number", "%"]);
    for (name, count) in [("small (< 32x32)", small), ("medium", medium), ("large (>= 96x96)", large)] {
        table.push([name.into(), count.into(), Cell::percent(count as f64 / all)]);
    }
    let [fewest, median, most] = report.per_image;
    text += &format!("{table}objects of an image: {fewest} to {most}, median {median}\n");
    if let Some([half, most]) = coverage {
        text += &format!(
            "anchors (scales {} at {} pixels): {:.1} % of the objects have one with an IoU of 0.5, {:.1} % with 0.7\n",
            list(&options.anchor_scales),
            list(&options.scale),
            half * 100.0,
            most * 100.0
        );
    }
    text += "\n";
    let mut table = Table::new(["id", "category", "annotations", "images"]);
    let mut categories: Vec<_> = report.categories.iter().collect();
    let cut = categories.len() > MOST_CLASSES && !options.all_classes;
    if cut {
        categories.sort_by_key(|category| std::cmp::Reverse(category.annotations));
        categories.truncate(MOST_CLASSES);
    }
    for category in categories {
        table.push([Cell::Integer(category.id), category.name.as_str().into(), category.annotations.into(), category.images.into()]);
    }
    text += &format!("{table}\n");
    if cut {
        text += &format!("the {MOST_CLASSES} most frequent of {} categories; --all-classes shows all of them\n\n", report.categories.len());
    }
    text.extend(report.findings.iter().map(finding_text));
    text + &verdict(report.passes(options.strict), [Severity::Error, Severity::Warning].map(|s| report.count(s)))
}

/// Images with their boxes and masks; none when the annotations cannot be opened for training.
fn object_sheet(file: &Path, images: &Path, exif: ExifOrientation, count: usize) -> Option<RgbImage> {
    const COLUMNS: usize = 3;
    const CELL: u32 = 420;
    let options = CocoOptions { exif, ..CocoOptions::default() };
    let data = CocoDataset::open(file, images, &options).map_err(|error| eprintln!("no contact sheet: {error}")).ok()?;
    let cells: Vec<(String, RgbImage)> = spread(count, data.len())
        .filter_map(|index| {
            let sample = data.get(index).ok()?;
            Some((sample.name, pictures::fit(&objects::overlay_truth(&sample.image, &sample.instances, data.classes()), CELL)))
        })
        .collect();
    (!cells.is_empty()).then(|| pictures::contact_sheet(&cells, COLUMNS, CELL))
}
