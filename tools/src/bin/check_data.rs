//! Looks at a data set before training: `check_data --data DIR --classes FILE` for label maps, `check_data --coco FILE --images DIR` for
//! objects.
//!
//! Exit code 0: nothing in the way of training; 1: errors were found (with `--strict` also warnings), or the check itself failed;
//! 2: wrong usage.

use anstream::eprintln;
use anyhow::{Context, Result};
use clap::Parser;
use image::{Rgb, RgbImage};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vision_datasets::check::{
    CheckOptions, CheckReport, Finding, FindingKind, ObjectCheckOptions, ObjectReport, Severity, check_coco, check_datasets, check_folder,
};
use vision_datasets::class_list::read_class_list;
use vision_datasets::coco::{CocoDataset, CocoOptions};
use vision_datasets::sample::{DetectionDataset, SegmentationDataset};
use vision_datasets::scenes::{SceneConfig, SceneDataset, scene_classes};
use vision_datasets::transforms::fit_size;
use vision_datasets::{ade20k, image_io};
use vmamba_cli::process;
use vmamba_detection::AnchorConfig;
use vmamba_report::files::write_whole;
use vmamba_report::objects;
use vmamba_report::pictures::{self, Classes};
use vmamba_report::tables::{Cell, Table};
use vmamba_types::ClassList;

/// Explain a data set before training on it.
///
/// For segmentation, reads DIR/images/SPLIT/* and DIR/annotations/SPLIT/*.png, counts classes, holds label values against the class list
/// and looks for the mistakes that make training fail silently. For detection, reads COCO annotations (--coco) and their images. Without
/// either the built-in scenes are checked.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Folder with images/SPLIT and annotations/SPLIT.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Class list: a CSV or text file with one class a line (objectInfo format of ADE20K works), or `ade20k` for its 150 classes.
    /// Without it, DIR/objectInfo* is taken where there is exactly one.
    #[arg(long, value_name = "FILE", requires = "data")]
    classes: Option<PathBuf>,
    /// Only these splits (repeat or separate by commas).
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "data")]
    split: Vec<String>,
    /// COCO annotations to check instead.
    #[arg(long, value_name = "FILE", requires = "images", conflicts_with_all = ["data", "scenes"])]
    coco: Option<PathBuf>,
    /// Folder of the images of the annotations.
    #[arg(long, value_name = "DIR", requires = "coco")]
    images: Option<PathBuf>,
    /// Limits of the long and the short side that images are resized to, for the anchors.
    #[arg(long, value_name = "PIXELS", num_args = 2, default_values_t = [1333, 800], requires = "coco")]
    scale: Vec<usize>,
    /// Sizes of the anchors in strides of their level.
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_values_t = [8.0], requires = "coco")]
    anchor_scales: Vec<f32>,
    /// Number of classes of the model.
    #[arg(long, value_name = "N")]
    num_classes: Option<usize>,
    /// Treat label 0 as ignored and move all others down by one, as ADE20K training does.
    #[arg(long, requires = "data")]
    reduce_zero_label: bool,
    /// Write the whole report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a contact sheet: images with their labels laid over them.
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// Images a split on the contact sheet.
    #[arg(long, value_name = "N", default_value_t = 12, requires = "sheet")]
    sheet_images: usize,
    /// List all classes, however many there are.
    #[arg(long)]
    all_classes: bool,
    /// Let warnings fail as well.
    #[arg(long)]
    strict: bool,
    /// Number of built-in scenes to check.
    #[arg(long, value_name = "N", default_value_t = 400, conflicts_with = "data")]
    scenes: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    process::run_tool(|| run(&arguments))
}

/// Whether the data set passes.
fn run(arguments: &Arguments) -> Result<bool> {
    if let (Some(file), Some(images)) = (&arguments.coco, &arguments.images) {
        return check_objects(file, images, arguments);
    }
    let (report, classes, sheet) = match &arguments.data {
        Some(root) => check_files(root, arguments)?,
        None => check_scenes(arguments)?,
    };
    hand_out(&report_text(&report, arguments, classes.as_ref()), &report, sheet, arguments)?;
    Ok(report.passes(arguments.strict))
}

/// Prints the report and writes what was asked for.
fn hand_out(text: &str, report: &impl serde::Serialize, sheet: Option<RgbImage>, arguments: &Arguments) -> Result<()> {
    // A reader that has seen enough, such as `head`, is no reason to stop.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error).context("cannot print the report"),
        _ => (),
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(report)?;
        write_whole(path, (text + "\n").as_bytes())?;
    }
    if let Some(path) = &arguments.sheet {
        match sheet {
            Some(sheet) => pictures::save(path, &sheet)?,
            None => eprintln!("no contact sheet: there is no readable image"),
        }
    }
    Ok(())
}

/// Checks COCO annotations; returns whether they pass.
fn check_objects(file: &Path, images: &Path, arguments: &Arguments) -> Result<bool> {
    let mut report = check_coco(file, images, &ObjectCheckOptions { num_classes: arguments.num_classes })?;
    let coverage = anchor_coverage(&report, arguments);
    if let Some([matched, _]) = coverage.filter(|[matched, _]| *matched < ENOUGH_COVERED) {
        let missed = ((1.0 - matched) * report.boxes.len() as f64).round() as usize;
        report.add(Finding {
            severity: Severity::Warning,
            kind: FindingKind::AnchorsMissObjects,
            split: None,
            count: missed,
            message: format!("{missed} of {} objects overlap no anchor by half", report.boxes.len()),
            remedy: "train at a larger scale, or with other anchor scales (heads.anchors.scales)".to_owned(),
            examples: Vec::new(),
        });
    }
    let sheet = arguments.sheet.as_ref().and_then(|_| object_sheet(file, images, arguments.sheet_images));
    hand_out(&object_text(file, &report, coverage, arguments), &report, sheet, arguments)?;
    Ok(report.passes(arguments.strict))
}

/// Share of the objects with an anchor of half their area in common from which on nobody needs to worry.
const ENOUGH_COVERED: f64 = 0.95;

/// Shares of the objects that overlap an anchor by at least 0.5 and 0.7 after the resize of training.
fn anchor_coverage(report: &ObjectReport, arguments: &Arguments) -> Option<[f64; 2]> {
    let [long, short] = arguments.scale[..] else { return None };
    let anchors = AnchorConfig { scales: arguments.anchor_scales.clone(), ..AnchorConfig::default() }.init(&[4, 8, 16, 32, 64]);
    let best: Vec<f32> = report
        .boxes
        .iter()
        .map(|(bbox, size)| {
            let [height, width] = fit_size(*size, [long, short]);
            let (sx, sy) = (width as f64 / size[1].max(1) as f64, height as f64 / size[0].max(1) as f64);
            anchors.best_iou([bbox[0] * sx, bbox[1] * sy, bbox[2] * sx, bbox[3] * sy].map(|side| side as f32))
        })
        .collect();
    let share = |limit: f32| best.iter().filter(|iou| **iou >= limit).count() as f64 / best.len() as f64;
    (!best.is_empty()).then(|| [share(0.5), share(0.7)])
}

/// The report on objects for a person.
fn object_text(file: &Path, report: &ObjectReport, coverage: Option<[f64; 2]>, arguments: &Arguments) -> String {
    let mut text = format!(
        "{}\n{} images, {} annotations, {} categories\n\n",
        file.display(),
        report.images,
        report.annotations,
        report.categories.len()
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
            "anchors (scales {:?} at {:?} pixels): {:.1} % of the objects overlap one by 0.5, {:.1} % by 0.7\n",
            arguments.anchor_scales,
            arguments.scale,
            half * 100.0,
            most * 100.0
        );
    }
    text += "\n";
    const MOST: usize = 40;
    let mut table = Table::new(["id", "category", "annotations", "images"]);
    let mut categories: Vec<_> = report.categories.iter().collect();
    let cut = categories.len() > MOST && !arguments.all_classes;
    if cut {
        categories.sort_by_key(|category| std::cmp::Reverse(category.annotations));
        categories.truncate(MOST);
    }
    for category in categories {
        table.push([Cell::Integer(category.id), category.name.as_str().into(), category.annotations.into(), category.images.into()]);
    }
    text += &format!("{table}\n");
    if cut {
        text += &format!("the {MOST} most frequent of {} categories; --all-classes shows all of them\n\n", report.categories.len());
    }
    text.extend(report.findings.iter().map(finding_text));
    text + &verdict(report.passes(arguments.strict), [Severity::Error, Severity::Warning].map(|s| report.count(s)))
}

/// Images with their boxes and masks; none when the annotations cannot be opened as training does.
fn object_sheet(file: &Path, images: &Path, count: usize) -> Option<RgbImage> {
    const COLUMNS: usize = 3;
    const CELL: u32 = 420;
    let data = CocoDataset::open(file, images, &CocoOptions::default()).map_err(|error| eprintln!("no contact sheet: {error}")).ok()?;
    let cells: Vec<(String, RgbImage)> = spread(data.len(), count)
        .filter_map(|index| {
            let sample = data.get(index).ok()?;
            Some((sample.name, pictures::fit(&objects::overlay_truth(&sample.image, &sample.instances, data.classes()), CELL)))
        })
        .collect();
    (!cells.is_empty()).then(|| pictures::contact_sheet(&cells, COLUMNS, CELL))
}

/// The last line.
fn verdict(passes: bool, [errors, warnings]: [usize; 2]) -> String {
    let verdict = if passes { "ready for training" } else { "not ready for training" };
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    format!("{verdict}: {}, {}\n", plural(errors, "error"), plural(warnings, "warning"))
}

type Checked = (CheckReport, Option<ClassList>, Option<RgbImage>);

fn check_scenes(arguments: &Arguments) -> Result<Checked> {
    let world = SceneConfig { count: arguments.scenes, ..SceneConfig::default() };
    // A fifth of the scenes, behind the others, plays the part of the validation set.
    let held_out = arguments.scenes / 5;
    let training = SceneDataset::new(SceneConfig { count: arguments.scenes - held_out, ..world.clone() })?;
    let validation = SceneDataset::new(SceneConfig { count: held_out, first: (arguments.scenes - held_out) as u64, ..world })?;
    let splits: [(&str, &dyn SegmentationDataset); 2] = [("training", &training), ("validation", &validation)];
    let classes = scene_classes();
    let options = CheckOptions { class_names: classes.names.clone(), num_classes: arguments.num_classes, ..CheckOptions::default() };
    let report = check_datasets(&splits, &options)?;
    let sheet = arguments.sheet.is_some().then(|| {
        let load = |dataset: &dyn SegmentationDataset, index: usize| {
            let sample = dataset.get(index).ok()?;
            Some((sample.name, sample.image, Some(sample.labels.as_slice().to_vec())))
        };
        let parts = splits.map(|(name, dataset)| {
            (name.to_owned(), spread(dataset.len(), arguments.sheet_images).filter_map(|i| load(dataset, i)).collect())
        });
        contact_sheet(&parts, &classes)
    });
    Ok((report, Some(classes), sheet))
}

fn check_files(root: &Path, arguments: &Arguments) -> Result<Checked> {
    let classes = class_list(root, arguments)?;
    let options = CheckOptions {
        class_names: classes.as_ref().map(|c| c.names.clone()).unwrap_or_default(),
        num_classes: arguments.num_classes,
        reduce_zero_label: arguments.reduce_zero_label,
        splits: arguments.split.clone(),
    };
    let report = check_folder(root, &options)?;
    let sheet = match &arguments.sheet {
        Some(_) => folder_sheet(root, &report, classes.as_ref(), arguments),
        None => None,
    };
    Ok((report, classes, sheet))
}

/// The list named on the command line, or the only objectInfo file of the folder.
fn class_list(root: &Path, arguments: &Arguments) -> Result<Option<ClassList>> {
    match &arguments.classes {
        Some(name) if name.as_os_str() == "ade20k" => Ok(Some(ade20k::classes())),
        Some(path) => Ok(Some(read_class_list(path).with_context(|| format!("class list {}", path.display()))?)),
        None => {
            let Ok(entries) = std::fs::read_dir(root) else { return Ok(None) };
            let is_list = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("objectInfo"));
            let found: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(is_list).collect();
            let [path] = &found[..] else { return Ok(None) };
            eprintln!("class list: {}", path.display());
            Ok(Some(read_class_list(path).with_context(|| format!("class list {}", path.display()))?))
        }
    }
}

/// The report for a person.
fn report_text(report: &CheckReport, arguments: &Arguments, classes: Option<&ClassList>) -> String {
    let mut text = match &report.root {
        Some(root) => format!("{}\n", root.display()),
        None => "built-in scenes (seed 0)\n".to_owned(),
    };
    let list = if classes.is_some() { "" } else { ", no class list" };
    let reduce = if report.reduce_zero_label { "on" } else { "off" };
    text += &format!("{} classes{list}, reduce_zero_label {reduce}\n\n", report.num_classes);
    if !report.splits.is_empty() {
        text += &format!("{}\n{}", split_table(report), class_text(report, arguments.all_classes));
    }
    text.extend(report.findings.iter().map(finding_text));
    text + &verdict(report.passes(arguments.strict), [Severity::Error, Severity::Warning].map(|s| report.count(s)))
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

/// `0-11, 255`: the values that occur, neighbours joined.
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
    /// Longer lists are cut unless asked for.
    const MOST: usize = 40;
    let mut columns = vec!["class".to_owned(), "name".to_owned()];
    for split in &report.splits {
        columns.extend([format!("{} %", split.name), "images".to_owned()]);
    }
    let totals: Vec<u64> = report.splits.iter().map(|s| s.classes.iter().map(|c| c.pixels).sum()).collect();
    let mut order: Vec<usize> = (0..report.num_classes).collect();
    let cut = order.len() > MOST && !all;
    if cut {
        order.sort_by_key(|&c| std::cmp::Reverse(report.splits.iter().map(|s| s.classes[c].pixels).sum::<u64>()));
        order.truncate(MOST);
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
    let note = format!("the {MOST} most frequent of {} classes; --all-classes shows all of them\n\n", report.num_classes);
    format!("{table}\n{}", if cut { &note } else { "" })
}

fn finding_text(finding: &Finding) -> String {
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

/// Up to `count` indices spread evenly over `0..len`.
fn spread(len: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(len);
    (0..count).map(move |i| i * len / count)
}

/// A picture with its labels as training sees them; no labels where they cannot be shown.
type Shown = (String, RgbImage, Option<Vec<u8>>);

fn folder_sheet(root: &Path, report: &CheckReport, classes: Option<&ClassList>, arguments: &Arguments) -> Option<RgbImage> {
    let generated;
    let classes = match classes {
        Some(classes) => classes,
        None => {
            generated = ClassList::numbered(report.num_classes);
            &generated
        }
    };
    let mut parts: Vec<(String, Vec<Shown>)> = Vec::new();
    for split in &report.splits {
        let folder = root.join("images").join(&split.name);
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(&folder).ok()?.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file()).collect();
        files.sort();
        let load = |index: usize| -> Option<Shown> {
            let path = &files[index];
            let image = image_io::read_rgb(path).ok()?;
            let name = path.file_name()?.to_string_lossy().into_owned();
            let labels = root.join("annotations").join(&split.name).join(path.with_extension("png").file_name()?);
            let labels = image_io::read_labels(&labels).ok().filter(|l| l.size() == [image.height() as usize, image.width() as usize]);
            let labels = labels.map(|l| if arguments.reduce_zero_label { l.reduce_zero_label() } else { l });
            Some((name, image, labels.map(|l| l.as_slice().to_vec())))
        };
        parts.push((split.name.clone(), spread(files.len(), arguments.sheet_images).filter_map(load).collect()));
    }
    parts.retain(|(_, shown)| !shown.is_empty());
    (!parts.is_empty()).then(|| contact_sheet(&parts, classes))
}

/// For every split a heading and a grid of overlays; below, the legend of everything shown.
fn contact_sheet(parts: &[(String, Vec<Shown>)], classes: &ClassList) -> RgbImage {
    const COLUMNS: usize = 4;
    const CELL: u32 = 300;
    let mut rows = Vec::new();
    let mut all_labels = Vec::new();
    for (name, shown) in parts {
        let cells: Vec<(String, RgbImage)> = shown
            .iter()
            .map(|(title, image, labels)| {
                let large = pictures::fit(image, CELL);
                let overlay = labels.as_ref().and_then(|labels| {
                    all_labels.extend_from_slice(labels);
                    let labels = resize_labels(labels, image.dimensions(), large.dimensions());
                    pictures::overlay(&large, &labels, &classes.palette, 0.5).ok()
                });
                match overlay {
                    Some(overlay) => (title.clone(), overlay),
                    None => (format!("no labels: {title}"), crossed_out(large)),
                }
            })
            .collect();
        let grid = pictures::contact_sheet(&cells, COLUMNS, CELL);
        rows.push(pictures::heading(name, grid.width()));
        rows.push(grid);
    }
    let width = rows.iter().map(RgbImage::width).max().unwrap_or(CELL);
    rows.push(pictures::legend(&all_labels, Classes { names: &classes.names, palette: &classes.palette }, width));
    pictures::stack(&rows.iter().collect::<Vec<_>>())
}

/// Nearest neighbour at pixel centres.
fn resize_labels(labels: &[u8], (width, height): (u32, u32), (new_width, new_height): (u32, u32)) -> Vec<u8> {
    let source = |i: u32, new: u32, old: u32| ((u64::from(i) * 2 + 1) * u64::from(old) / (2 * u64::from(new))) as usize;
    (0..new_height)
        .flat_map(|y| (0..new_width).map(move |x| source(y, new_height, height) * width as usize + source(x, new_width, width)))
        .map(|at| labels[at])
        .collect()
}

/// Marks a picture whose labels could not be shown.
fn crossed_out(mut image: RgbImage) -> RgbImage {
    let (w, h) = (image.width() as f32 - 1.0, image.height() as f32 - 1.0);
    for offset in [-1.0, 0.0, 1.0] {
        imageproc::drawing::draw_line_segment_mut(&mut image, (offset, 0.0), (w + offset, h), Rgb([220, 0, 0]));
        imageproc::drawing::draw_line_segment_mut(&mut image, (offset, h), (w + offset, 0.0), Rgb([220, 0, 0]));
    }
    image
}
