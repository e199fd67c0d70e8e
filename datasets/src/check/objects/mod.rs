//! Checks of detection data: COCO annotation files, or the samples of any data set.
//!
//! ```text
//! file.rs: annotations and image files ─┐                              ┌─ rules.rs: kinds of problems
//! samples.rs: samples of a data set ────┴─> scan.rs: boxes and masks ──┴─> report here, with the findings about the whole set
//! ```

mod file;
mod rules;
mod samples;
mod scan;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use file::check_coco;
pub use samples::check_objects;
use serde::Serialize;
use vmamba_types::words::{counted, sentence};

use self::rules::UNUSED;
use self::scan::Scan;
use super::{Finding, FindingKind, Severity, count, passes};
use crate::error::AnnotationProblem;
use crate::image_io::ExifOrientation;

/// What the annotations are checked against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectCheckOptions {
    /// Number of classes of the model, if it is known.
    pub num_classes: Option<usize>,
    /// Whether training leaves out Roboflow's root category, see [`CocoOptions`](crate::coco::CocoOptions).
    pub drop_root_category: bool,
    /// What training does with the EXIF orientation of photos.
    pub exif: ExifOrientation,
}

/// How often a category occurs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CategoryCount {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Annotations, crowd regions included.
    pub annotations: usize,
    /// Images with at least one annotation of it.
    pub images: usize,
}

/// The numbers and the findings of a detection data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObjectReport {
    /// The annotation file; `None` for samples of a data set.
    pub annotations_file: Option<PathBuf>,
    /// Images.
    pub images: usize,
    /// Images without objects.
    pub empty_images: usize,
    /// Annotations, crowd regions included.
    pub annotations: usize,
    /// Crowd regions.
    pub crowds: usize,
    /// Annotations without a mask.
    pub without_mask: usize,
    /// Small, medium and large objects by COCO's bounds, without crowd regions.
    pub sizes: [usize; 3],
    /// Fewest, median and most objects of an image.
    pub per_image: [usize; 3],
    /// The categories in the order of the file.
    pub categories: Vec<CategoryCount>,
    /// Boxes `[x0, y0, x1, y1]` of the objects with the `[height, width]` of their image, for further checks.
    #[serde(skip)]
    pub boxes: Vec<([f32; 4], [u32; 2])>,
    /// The findings, errors first.
    pub findings: Vec<Finding>,
}

impl ObjectReport {
    /// Number of findings of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        count(&self.findings, severity)
    }

    /// Whether training may start: there is no error, and under `strict` no warning either.
    pub fn passes(&self, strict: bool) -> bool {
        passes(&self.findings, strict)
    }

    /// Adds a finding; the findings stay sorted by severity.
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
        self.findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    }
}

/// The report on everything that was scanned; `objects` holds the number of objects of every image.
fn report(
    annotations_file: Option<&Path>,
    mut scan: Scan,
    categories: Vec<CategoryCount>,
    mut objects: Vec<usize>,
    annotations: usize,
    options: &ObjectCheckOptions,
) -> ObjectReport {
    categories.iter().filter(|category| category.annotations == 0).for_each(|category| scan.problems.add(UNUSED, category.name.clone()));
    scan.finish();
    objects.sort_unstable();
    let per_image = match objects[..] {
        [] => [0; 3],
        [first, ..] => [first, objects[objects.len() / 2], objects[objects.len() - 1]],
    };
    let mut report = ObjectReport {
        annotations_file: annotations_file.map(Path::to_owned),
        images: objects.len(),
        empty_images: objects.iter().filter(|count| **count == 0).count(),
        annotations,
        crowds: scan.crowds,
        without_mask: scan.without_mask,
        sizes: scan.sizes,
        per_image,
        categories,
        boxes: scan.boxes,
        findings: Vec::new(),
    };
    let nothing = scan.usage.problem();
    let mut findings = scan.problems.into_findings();
    findings.extend(whole(&report, nothing, options));
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    report.findings = findings;
    report
}

/// The findings about the whole set.
fn whole(report: &ObjectReport, nothing: Option<AnnotationProblem>, options: &ObjectCheckOptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |severity, kind, count, message: String, remedy: &str| {
        findings.push(Finding { severity, kind, split: None, count, message, remedy: remedy.to_owned(), examples: Vec::new() });
    };
    let classes = report.categories.len();
    if let Some(wanted) = options.num_classes.filter(|wanted| *wanted != classes) {
        add(
            Severity::Error,
            FindingKind::NumClassesMismatch,
            1,
            format!(
                "the model has {}, but the annotations have {}",
                counted(wanted, "class", "classes"),
                counted(classes, "category", "categories")
            ),
            "give the model as many classes as there are categories, without the background",
        );
    }
    if classes == 0 {
        add(Severity::Error, FindingKind::NoClassList, 1, "the list of categories is empty".to_owned(), "list the categories");
    }
    let ids: BTreeSet<i64> = report.categories.iter().map(|category| category.id).collect();
    if let (Some(first), Some(last)) = (ids.first(), ids.last()) {
        let missing = last.saturating_sub(*first).saturating_add(1) as usize - ids.len();
        if missing > 0 || *first != 1 {
            let gaps = if missing == 0 { String::new() } else { format!(" with {}", counted(missing, "gap", "gaps")) };
            let message =
                format!("category ids run from {first} to {last}{gaps}; class indices are the places in the list, 0 to {}", classes - 1);
            add(
                Severity::Info,
                FindingKind::CategoryIdGaps,
                missing,
                message,
                "nothing to do: results are written with the ids of the file",
            );
        }
    }
    if report.images == 0 {
        add(Severity::Error, FindingKind::NoObjects, 1, AnnotationProblem::NoImages.to_string(), "check that this is the right file");
    } else if let Some(nothing) = nothing {
        let remedy = "check that this is the right file; training refuses it";
        add(Severity::Error, FindingKind::NoObjects, 1, nothing.to_string(), remedy);
    } else if report.empty_images > 0 {
        let (empty, images) = (report.empty_images, report.images);
        add(
            Severity::Info,
            FindingKind::EmptyImages,
            empty,
            format!("{empty} of {} no object", counted(images, "image has", "images have")),
            "nothing to do: training leaves out images without annotations, evaluation keeps them",
        );
    }
    if report.crowds > 0 {
        add(
            Severity::Info,
            FindingKind::Crowds,
            report.crowds,
            sentence(report.crowds, "[annotation is a crowd region|annotations are crowd regions]"),
            "nothing to do: crowd regions are no training targets, and detections inside them are not false positives",
        );
    }
    findings
}
