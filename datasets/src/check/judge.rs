//! Applies the rules to the facts. Each rule is a function that adds its findings.

mod files;
mod labels;

use std::path::Path;

use vmamba_types::IGNORE_LABEL;

use self::files::{duplicates, files, label_formats, sizes, structure};
use self::labels::{class_list, faults, ignored, occurrence, values};
use super::scan::{FolderScan, LabelFacts, LabelKind, PairScan, SplitScan};
use super::{CheckOptions, CheckReport, ClassCount, EXAMPLES, Finding, FindingKind, Severity, SplitReport};

/// The raw label that is always ignored.
const IGNORED: usize = IGNORE_LABEL as usize;

pub(super) fn judge(root: Option<&Path>, scan: FolderScan, options: &CheckOptions) -> CheckReport {
    let num_classes = number_of_classes(&scan, options);
    let labels = Labels { num_classes, reduce: options.reduce_zero_label };
    let mut findings = Findings::default();
    class_list(&mut findings, options, num_classes);
    structure(&mut findings, &scan);
    for split in &scan.splits {
        files(&mut findings, split);
        label_formats(&mut findings, split);
        sizes(&mut findings, split, options.exif);
        faults(&mut findings, split, labels);
        ignored(&mut findings, split, labels);
    }
    values(&mut findings, &scan.splits, labels);
    duplicates(&mut findings, &scan.splits);
    let splits: Vec<SplitReport> = scan.splits.iter().map(|split| split_report(split, labels, &options.class_names)).collect();
    occurrence(&mut findings, &splits);

    let mut findings = findings.0;
    for finding in &mut findings {
        // A split that neither trains nor validates stops no training, unless it was asked for.
        if finding.split.as_deref().is_some_and(|name| !is_used(name, options)) {
            finding.severity = finding.severity.min(Severity::Warning);
        }
    }
    // Stable, so that findings of one severity keep the order of the rules.
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    CheckReport { root: root.map(Path::to_owned), num_classes, reduce_zero_label: options.reduce_zero_label, splits, findings }
}

/// How the values of label files become classes.
#[derive(Clone, Copy)]
struct Labels {
    num_classes: usize,
    reduce: bool,
}

impl Labels {
    /// The value of a class in the files.
    fn raw(self, class: usize) -> usize {
        class + usize::from(self.reduce)
    }

    fn is_ignored(self, raw: usize) -> bool {
        raw == IGNORED || (self.reduce && raw == 0)
    }

    fn is_valid(self, raw: usize) -> bool {
        self.is_ignored(raw) || raw < self.raw(self.num_classes)
    }
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// Adds a finding about `examples`; nothing when there are none.
    fn add(
        &mut self,
        severity: Severity,
        kind: FindingKind,
        split: Option<&str>,
        examples: &[String],
        message: impl FnOnce(usize) -> String,
        remedy: &str,
    ) {
        if examples.is_empty() {
            return;
        }
        self.0.push(Finding {
            severity,
            kind,
            split: split.map(str::to_owned),
            count: examples.len(),
            message: message(examples.len()),
            remedy: remedy.to_owned(),
            examples: examples.iter().take(EXAMPLES).cloned().collect(),
        });
    }

    /// Adds a finding about the whole data set.
    fn add_whole(&mut self, severity: Severity, kind: FindingKind, message: String, remedy: String) {
        self.0.push(Finding { severity, kind, split: None, count: 1, message, remedy, examples: Vec::new() });
    }
}

/// The number of classes by the options, or else by the largest label.
fn number_of_classes(scan: &FolderScan, options: &CheckOptions) -> usize {
    options.num_classes.or((!options.class_names.is_empty()).then_some(options.class_names.len())).unwrap_or_else(|| {
        let largest = (0..IGNORED).rev().find(|&v| readable_labels(&scan.splits).any(|(_, l)| l.counts[v] > 0));
        largest.map_or(0, |v| v + 1 - usize::from(options.reduce_zero_label && v > 0))
    })
}

/// The label maps that hold class indices, with their pairs.
fn readable_labels(splits: &[SplitScan]) -> impl Iterator<Item = (&PairScan, &LabelFacts)> + Clone {
    splits.iter().flat_map(|s| &s.pairs).filter_map(|pair| Some((pair, pair.labels.as_ref().ok()?))).filter(|(_, l)| is_index_map(l))
}

fn is_index_map(labels: &LabelFacts) -> bool {
    matches!(labels.kind, LabelKind::Grey | LabelKind::Palette)
}

fn split_report(split: &SplitScan, labels: Labels, names: &[String]) -> SplitReport {
    let mut pixels = [0u64; 256];
    let mut images = [0usize; 256];
    for (_, facts) in readable_labels(std::slice::from_ref(split)) {
        for value in 0..256 {
            pixels[value] += facts.counts[value];
            images[value] += usize::from(facts.counts[value] > 0);
        }
    }
    let range = |side: &dyn Fn(&PairScan) -> Option<u32>| {
        let sides = split.pairs.iter().filter_map(side);
        [sides.clone().min().unwrap_or(0), sides.max().unwrap_or(0)]
    };
    let class = |index: usize| ClassCount {
        index,
        name: names.get(index).cloned().unwrap_or_else(|| format!("class {index}")),
        pixels: pixels[labels.raw(index)],
        images: images[labels.raw(index)],
    };
    SplitReport {
        name: split.name.clone(),
        images: split.files.images,
        labels: split.files.labels,
        usable: split.pairs.iter().filter(|p| p.image.is_ok() && p.labels.as_ref().is_ok_and(is_index_map)).count(),
        width: range(&|p| p.image.as_ref().ok().map(|i| i.width)),
        height: range(&|p| p.image.as_ref().ok().map(|i| i.height)),
        ignored_pixels: (0..256).filter(|&v| labels.is_ignored(v)).map(|v| pixels[v]).sum(),
        pixels: pixels.iter().sum(),
        raw_values: (0..=255u8).map(|v| (v, pixels[usize::from(v)])).filter(|(_, count)| *count > 0).collect(),
        classes: (0..labels.num_classes).map(class).collect(),
    }
}

fn is_training(name: &str) -> bool {
    name.to_lowercase().starts_with("train")
}

/// Whether a training reads a split: by its name, or because it was asked for.
fn is_used(name: &str, options: &CheckOptions) -> bool {
    is_training(name) || name.to_lowercase().starts_with("val") || options.splits.iter().any(|own| own == name)
}
