//! The check of label maps in the ADE20K layout, or of the built-in scenes.

use std::path::Path;

use anyhow::Result;
use image::RgbImage;
use vision_datasets::check::{CheckOptions, CheckReport, Severity, check_datasets, check_folder};
use vision_datasets::class_list::{Found, find_class_list, is_ade20k};
use vision_datasets::image_io::ExifOrientation;
use vision_datasets::sample::SegmentationDataset;
use vision_datasets::scenes::{SceneConfig, SceneDataset, scene_classes};
use vmamba_report::eprintln;
use vmamba_report::tables::{Cell, Table};
use vmamba_types::ClassList;
use vmamba_types::words::counted;

use super::options::DataCheckOptions;
use super::report::{Checked, MOST_CLASSES, finding_text, verdict};
use super::sheet::{contact_sheet, folder_sheet};
use crate::present::spread;

/// A report, the class list if there is one, and the contact sheet.
type Parts = (CheckReport, Option<ClassList>, Option<RgbImage>);

/// Checks the folder of `--data`, or the built-in scenes.
///
/// # Errors
/// When the folder or the class list cannot be read.
pub(super) fn check(options: &DataCheckOptions) -> Result<Checked> {
    let (report, classes, sheet) = match &options.data {
        Some(root) => check_files(root, options)?,
        None => check_scenes(options)?,
    };
    let text = report_text(&report, options, classes.as_ref());
    Ok(Checked { text, report: serde_json::to_value(&report)?, sheet, passes: report.passes(options.strict) })
}

fn check_scenes(options: &DataCheckOptions) -> Result<Parts> {
    let world = SceneConfig { count: options.scenes, ..SceneConfig::default() };
    // The last fifth of the scenes is the validation set.
    let held_out = options.scenes / 5;
    let training = SceneDataset::new(SceneConfig { count: options.scenes - held_out, ..world.clone() })?;
    let validation = SceneDataset::new(SceneConfig { count: held_out, first: (options.scenes - held_out) as u64, ..world })?;
    let splits: [(&str, &dyn SegmentationDataset); 2] = [("training", &training), ("validation", &validation)];
    let classes = scene_classes();
    let checked = CheckOptions { class_names: classes.names.clone(), num_classes: options.num_classes, ..CheckOptions::default() };
    let report = check_datasets(&splits, &checked)?;
    let sheet = options.sheet.is_some().then(|| {
        let load = |dataset: &dyn SegmentationDataset, index: usize| {
            let sample = dataset.get(index).ok()?;
            Some((sample.name, sample.image, Some(sample.labels.as_slice().to_vec())))
        };
        let parts = splits.map(|(name, dataset)| {
            (name.to_owned(), spread(options.sheet_images, dataset.len()).filter_map(|i| load(dataset, i)).collect())
        });
        contact_sheet(&parts, &classes)
    });
    Ok((report, Some(classes), sheet))
}

fn check_files(root: &Path, options: &DataCheckOptions) -> Result<Parts> {
    let found = find_classes(root, options)?;
    if let Some(found) = &found {
        eprintln!("{found}");
    }
    let classes = found.map(|found| found.classes);
    let checked = CheckOptions {
        class_names: classes.as_ref().map(|c| c.names.clone()).unwrap_or_default(),
        num_classes: options.num_classes,
        reduce_zero_label: options.reduce_zero_label,
        exif: ExifOrientation::ignored_if(options.ignore_exif),
        splits: options.split.clone(),
    };
    let report = check_folder(root, &checked)?;
    let sheet = match &options.sheet {
        Some(_) => folder_sheet(root, &report, classes.as_ref(), options),
        None => None,
    };
    Ok((report, classes, sheet))
}

/// The class list of `--classes`, a path or `ade20k`; or else the one that training would find.
fn find_classes(root: &Path, options: &DataCheckOptions) -> Result<Option<Found>> {
    let named = match &options.classes {
        // A path of the command line begins in the working folder, one of a configuration in the folder of the data.
        Some(path) if !is_ade20k(path) => Some(std::path::absolute(path)?),
        other => other.clone(),
    };
    Ok(find_class_list(root, named.as_deref(), options.reduce_zero_label)?)
}

/// The report as text.
fn report_text(report: &CheckReport, options: &DataCheckOptions, classes: Option<&ClassList>) -> String {
    let mut text = match &report.root {
        Some(root) => format!("{}\n", root.display()),
        None => "built-in scenes (seed 0)\n".to_owned(),
    };
    let list = if classes.is_some() { "" } else { ", no class list" };
    let reduce = if report.reduce_zero_label { "on" } else { "off" };
    let classes = counted(report.num_classes, "class", "classes");
    text += &format!("{classes}{list}, reduce_zero_label {reduce}\n\n");
    if !report.splits.is_empty() {
        text += &format!("{}\n{}", split_table(report), class_text(report, options.all_classes));
    }
    text.extend(report.findings.iter().map(finding_text));
    text + &verdict(report.passes(options.strict), [Severity::Error, Severity::Warning].map(|s| report.count(s)))
}

fn split_table(report: &CheckReport) -> Table {
    let mut table = Table::new(["split", "images", "label maps", "usable", "width", "height", "ignored %", "label values"]);
    let range = |[low, high]: [u32; 2]| if low == high { low.to_string() } else { format!("{low}-{high}") };
    for split in &report.splits {
        let ignored = split.ignored_pixels as f64 / split.pixels as f64;
        table.push([
            split.name.as_str().into(),
            split.images.into(),
            split.labels.into(),
            split.usable.into(),
            range(split.width).into(),
            range(split.height).into(),
            Cell::percent(ignored),
            value_ranges(&split.raw_values).into(),
        ]);
    }
    table
}

/// The label values as ranges: `0-11, 255`.
fn value_ranges(values: &[(u8, u64)]) -> String {
    const MOST: usize = 6;
    let mut ranges: Vec<[u8; 2]> = Vec::new();
    for &(value, _) in values {
        match ranges.last_mut() {
            Some([_, high]) if u16::from(*high) + 1 == u16::from(value) => *high = value,
            _ => ranges.push([value, value]),
        }
    }
    let show = |[low, high]: &[u8; 2]| if low == high { low.to_string() } else { format!("{low}-{high}") };
    if ranges.len() <= MOST {
        return ranges.iter().map(show).collect::<Vec<_>>().join(", ");
    }
    let (low, high) = (ranges[0][0], ranges[ranges.len() - 1][1]);
    format!("{} values from {low} to {high}", values.len())
}

fn class_text(report: &CheckReport, all: bool) -> String {
    let mut columns = vec!["class".to_owned(), "name".to_owned()];
    for split in &report.splits {
        columns.extend([format!("{} %", split.name), "images".to_owned()]);
    }
    let totals: Vec<u64> = report.splits.iter().map(|s| s.classes.iter().map(|c| c.pixels).sum()).collect();
    let mut order: Vec<usize> = (0..report.num_classes).collect();
    let cut = order.len() > MOST_CLASSES && !all;
    if cut {
        order.sort_by_key(|&c| std::cmp::Reverse(report.splits.iter().map(|s| s.classes[c].pixels).sum::<u64>()));
        order.truncate(MOST_CLASSES);
    }
    let mut table = Table::new(columns);
    for class in order {
        let name = report.splits.first().map_or("", |s| s.classes[class].name.as_str());
        let mut row: Vec<Cell> = vec![class.into(), name.into()];
        for (split, &total) in report.splits.iter().zip(&totals) {
            let count = &split.classes[class];
            row.push(Cell::Number(100.0 * count.pixels as f64 / total as f64, 3));
            row.push(count.images.into());
        }
        table.push(row);
    }
    let note = format!("the {MOST_CLASSES} most frequent of {} classes; --all-classes shows all of them\n\n", report.num_classes);
    format!("{table}\n{}", if cut { &note } else { "" })
}
