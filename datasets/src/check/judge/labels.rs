//! Rules about label values: common mistakes in writing labels, and classes that hardly occur.

use std::collections::{BTreeMap, BTreeSet};

use vmamba_types::words::counted;

use super::super::label_fault::{LabelFault, Purpose};
use super::super::scan::SplitScan;
use super::super::{CheckOptions, ClassCount, FindingKind, Severity, SplitReport};
use super::{Findings, IGNORED, Labels, is_training, readable_labels};
use crate::class_list::{NAME_CLASS_LIST, NO_CLASS_LIST};

/// A class with a smaller share of the labelled pixels is rare.
const RARE: f64 = 0.001;
/// A class with a larger share of the labelled pixels dominates.
const DOMINANT: f64 = 0.9;

pub(super) fn class_list(findings: &mut Findings, options: &CheckOptions, num_classes: usize) {
    let names = &options.class_names;
    if names.is_empty() {
        findings.add_whole(
            Severity::Error,
            FindingKind::NoClassList,
            format!("{NO_CLASS_LIST}; the largest label gives {num_classes} classes"),
            NAME_CLASS_LIST.to_owned(),
        );
    }
    if let Some(wanted) = options.num_classes.filter(|&n| !names.is_empty() && n != names.len()) {
        findings.add_whole(
            Severity::Error,
            FindingKind::NumClassesMismatch,
            format!("the class list has {} names, but the model has {wanted} classes", names.len()),
            "make both agree; with reduce_zero_label, the list does not contain the class of label 0".to_owned(),
        );
    }
    let mut seen = BTreeSet::new();
    let twice: Vec<String> = names.iter().filter(|name| !seen.insert(name.as_str())).cloned().collect();
    findings.add(
        Severity::Warning,
        FindingKind::DuplicateClassName,
        None,
        &twice,
        |n| format!("{} more than once in the class list", counted(n, "name occurs", "names occur")),
        "rename one of them: tables cannot tell them apart",
    );
}

/// Labels of a split that training refuses to start on.
pub(super) fn faults(findings: &mut Findings, split: &SplitScan, labels: Labels) {
    let mut present = [false; 256];
    let mut files = Vec::new();
    for (pair, facts) in readable_labels(std::slice::from_ref(split)) {
        present.iter_mut().zip(facts.counts.iter()).for_each(|(present, count)| *present |= *count > 0);
        files.push(pair.name.clone());
    }
    if let Some(fault) = LabelFault::of(&present, labels.reduce) {
        let kind = match fault {
            LabelFault::OnlyIgnored => FindingKind::OnlyIgnoredPixels,
            LabelFault::BinaryMask => FindingKind::BinaryMask,
            LabelFault::OneClass(_) => FindingKind::OneClass,
        };
        let purpose = if is_training(&split.name) { Purpose::Training } else { Purpose::Validation };
        let severity = if fault.spoils(purpose) { Severity::Error } else { Severity::Warning };
        findings.add(severity, kind, Some(&split.name), &files, |_| fault.to_string(), fault.remedy());
    }
}

pub(super) fn ignored(findings: &mut Findings, split: &SplitScan, labels: Labels) {
    let mut empty = Vec::new();
    let (mut lost, mut all) = (0u64, 0u64);
    for (pair, facts) in readable_labels(std::slice::from_ref(split)) {
        let total: u64 = facts.counts.iter().sum();
        let ignored: u64 = (0..256).filter(|&v| labels.is_ignored(v)).map(|v| facts.counts[v]).sum();
        if total > 0 && ignored == total {
            empty.push(pair.name.clone());
        }
        lost += ignored;
        all += total;
    }
    if all > 0 && lost == all {
        // A fault of the whole split, see `faults`.
        return;
    }
    let name = Some(split.name.as_str());
    findings.add(
        Severity::Warning,
        FindingKind::OnlyIgnoredPixels,
        name,
        &empty,
        |n| format!("{} nothing but ignored pixels", counted(n, "label map has", "label maps have")),
        "remove the images, or check whether 255 is meant as a class: nothing can be learned from them",
    );
    if all > 0 && empty.len() < split.pairs.len() && lost * 2 > all {
        let share = 100.0 * lost as f64 / all as f64;
        findings.add(
            Severity::Warning,
            FindingKind::MostlyIgnored,
            name,
            &[format!("{share:.1}%")],
            |_| format!("{share:.1}% of all labelled pixels are ignored"),
            if labels.reduce {
                "turn reduce_zero_label off if 0 is a class such as background"
            } else {
                "check whether 255 is meant as a class"
            },
        );
    }
}

/// Mistakes in writing labels. They concern all splits, because one program wrote the labels of all.
pub(super) fn values(findings: &mut Findings, splits: &[SplitScan], labels: Labels) {
    let mut files: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (pair, facts) in readable_labels(splits) {
        for value in (0..256).filter(|&v| facts.counts[v] > 0) {
            files.entry(value).or_default().push(pair.name.clone());
        }
    }
    let has = |value: usize| files.contains_key(&value);
    if files.is_empty() {
        return;
    }
    if has(0) && has(IGNORED) && files.len() == 2 {
        // Reported as a separate fault, see `faults`.
        return;
    }
    out_of_range(findings, &files, labels);
    zero_label(findings, &files, labels);
}

/// The label values that are no class, with their files.
fn outside(files: &BTreeMap<usize, Vec<String>>, labels: Labels) -> Vec<usize> {
    files.keys().copied().filter(|&v| !labels.is_valid(v)).collect()
}

/// Labels beyond the classes; one more than the classes means that labels count from 1.
fn out_of_range(findings: &mut Findings, files: &BTreeMap<usize, Vec<String>>, labels: Labels) {
    let n = labels.num_classes;
    let bad = outside(files, labels);
    if !labels.reduce && bad == [n] && n > 0 {
        let (what, remedy) = if files.contains_key(&0) {
            (
                format!("labels run from 0 to {n}, which is one more than the {n} classes"),
                "if 0 means \"unlabelled\", turn reduce_zero_label on; if 0 is a class, add it to the class list",
            )
        } else {
            (
                format!("labels run from 1 to {n} instead of from 0 to {}", n - 1),
                "turn reduce_zero_label on: it ignores 0 and lowers every other label by one",
            )
        };
        findings.add(Severity::Error, FindingKind::LabelsStartAtOne, None, &files[&n], |_| what, remedy);
    } else if !bad.is_empty() {
        let shown: Vec<String> =
            bad.iter().map(|v| format!("value {v} in {} ({})", counted(files[v].len(), "file", "files"), files[v][0])).collect();
        let (low, high) = (labels.raw(0), labels.raw(n).saturating_sub(1));
        findings.add(
            Severity::Error,
            FindingKind::ValueOutOfRange,
            None,
            &shown,
            |count| {
                format!(
                    "{} outside the {n} classes: labels are {low} to {high}{}, or 255",
                    counted(count, "label value is", "label values are"),
                    if labels.reduce { " or 0 (ignored)" } else { "" }
                )
            },
            "add the missing classes to the list, or map these values to a class or to 255",
        );
    }
}

/// Labels that contradict `reduce_zero_label`.
fn zero_label(findings: &mut Findings, files: &BTreeMap<usize, Vec<String>>, labels: Labels) {
    let n = labels.num_classes;
    let has = |value: usize| files.contains_key(&value);
    if labels.reduce && n >= 2 && !has(n) && (0..n).all(has) {
        findings.add(
            Severity::Warning,
            FindingKind::ReduceZeroDropsClass,
            None,
            &files[&0],
            |_| format!("reduce_zero_label is on, but labels are exactly 0 to {}: class 0 would be ignored and every other class would get the name before it", n - 1),
            "turn reduce_zero_label off, unless 0 really means \"unlabelled\" and the last class never occurs",
        );
    }
    if !labels.reduce && n >= 2 && !has(0) && !has(n) && outside(files, labels).is_empty() && files.keys().any(|&v| v != IGNORED) {
        findings.add(
            Severity::Warning,
            FindingKind::ZeroNeverUsed,
            None,
            &["0".to_owned()],
            |_| "no label is 0, which is the first class with reduce_zero_label off".to_owned(),
            "turn reduce_zero_label on if the labels count from 1",
        );
    }
}

/// Classes that never or hardly occur.
pub(super) fn occurrence(findings: &mut Findings, splits: &[SplitReport]) {
    let training: Vec<&SplitReport> = splits.iter().filter(|s| is_training(&s.name)).collect();
    for split in splits.iter().filter(|s| s.usable > 0) {
        let labelled: u64 = split.classes.iter().map(|c| c.pixels).sum();
        if labelled == 0 {
            continue;
        }
        let name = Some(split.name.as_str());
        let shown = |wanted: &dyn Fn(f64) -> bool| -> Vec<String> {
            let share = |c: &ClassCount| c.pixels as f64 / labelled as f64;
            split
                .classes
                .iter()
                .filter(|c| c.pixels > 0 && wanted(share(c)))
                .map(|c| format!("{} ({:.3}%)", c.name, 100.0 * share(c)))
                .collect()
        };
        let never: Vec<String> = split.classes.iter().filter(|c| c.pixels == 0).map(|c| c.name.clone()).collect();
        findings.add(
            if is_training(&split.name) { Severity::Warning } else { Severity::Info },
            FindingKind::ClassNeverPresent,
            name,
            &never,
            |n| format!("{n} of {} never {}", counted(split.classes.len(), "class", "classes"), if n == 1 { "occurs" } else { "occur" }),
            if is_training(&split.name) {
                "add images of these classes, or remove them from the list: the model cannot learn them"
            } else {
                "nothing to do: they have no IoU here, and the mean leaves them out"
            },
        );
        findings.add(
            Severity::Info,
            FindingKind::RareClass,
            name,
            &shown(&|share| share < RARE),
            |n| format!("{} less than {}% of the labelled pixels", counted(n, "class has", "classes have"), 100.0 * RARE),
            "expect a low IoU; longer training and crops that prefer rare classes help",
        );
        findings.add(
            Severity::Warning,
            FindingKind::Imbalance,
            name,
            &shown(&|share| share > DOMINANT),
            |_| format!("one class has more than {}% of the labelled pixels", 100.0 * DOMINANT),
            "judge by mIoU, because pixel accuracy is high whatever the model learns; consider class weights",
        );
    }
    if training.is_empty() {
        return;
    }
    let seen = |index: usize| training.iter().any(|s| s.classes.get(index).is_some_and(|c| c.pixels > 0));
    for split in splits.iter().filter(|s| !is_training(&s.name)) {
        let only: Vec<String> = split.classes.iter().filter(|c| c.pixels > 0 && !seen(c.index)).map(|c| c.name.clone()).collect();
        findings.add(
            Severity::Warning,
            FindingKind::ClassMissingInTraining,
            Some(&split.name),
            &only,
            |n| format!("{} here but never in training, so the IoU will be 0", counted(n, "class occurs", "classes occur")),
            "move images between the splits so that every class can be learned",
        );
    }
}
