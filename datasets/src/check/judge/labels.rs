//! Rules about label values: the traps of how labels were made, and classes that hardly occur.

use std::collections::{BTreeMap, BTreeSet};

use super::super::scan::SplitScan;
use super::super::{CheckOptions, ClassCount, FindingKind, Severity, SplitReport};
use super::{Findings, IGNORED, Labels, is_training, plural, readable_labels};

/// A class with less than this share of the labelled pixels is called rare.
const RARE: f64 = 0.001;
/// A class with more than this share leaves little to learn from the others.
const DOMINANT: f64 = 0.9;

pub(super) fn class_list(findings: &mut Findings, options: &CheckOptions, num_classes: usize) {
    let names = &options.class_names;
    if names.is_empty() && options.num_classes.is_none() {
        findings.add_whole(
            Severity::Info,
            FindingKind::NoClassList,
            format!("no class list was given; {num_classes} classes were assumed from the largest label"),
            "give the list of classes, so that label values can be held against it".to_owned(),
        );
    }
    if let Some(wanted) = options.num_classes.filter(|&n| !names.is_empty() && n != names.len()) {
        findings.add_whole(
            Severity::Error,
            FindingKind::NumClassesMismatch,
            format!("the class list has {} names, but the model is to have {wanted} classes", names.len()),
            "make both agree; with reduce_zero_label the list does not contain the class that label 0 stands for".to_owned(),
        );
    }
    let mut seen = BTreeSet::new();
    let twice: Vec<String> = names.iter().filter(|name| !seen.insert(name.as_str())).cloned().collect();
    findings.add(
        Severity::Warning,
        FindingKind::DuplicateClassName,
        None,
        &twice,
        |n| format!("{} more than once in the class list", plural(n, "name occurs", "names occur")),
        "tables cannot tell such classes apart; rename one of them",
    );
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
    let name = Some(split.name.as_str());
    findings.add(
        Severity::Warning,
        FindingKind::OnlyIgnoredPixels,
        name,
        &empty,
        |n| format!("{} nothing but ignored pixels", plural(n, "label map has", "label maps have")),
        "such images teach nothing; remove them, or look whether 255 was meant as a class",
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
                "label 0 is ignored because reduce_zero_label is on; turn it off if 0 is a class such as background"
            } else {
                "look whether 255 was meant as a class"
            },
        );
    }
}

/// The traps of label values, over all splits together: they come from how the labels were made.
pub(super) fn values(findings: &mut Findings, splits: &[SplitScan], labels: Labels) {
    let n = labels.num_classes;
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
        let severity = if n >= 2 || labels.reduce { Severity::Error } else { Severity::Warning };
        findings.add(
            severity,
            FindingKind::BinaryMask,
            None,
            &files[&IGNORED],
            |_| "all labels are 0 or 255; 255 means \"ignored\", so nothing but class 0 would be learned".to_owned(),
            "write the foreground as 1 instead of 255 (background 0) and train two classes with reduce_zero_label off",
        );
        return;
    }
    let bad: Vec<usize> = files.keys().copied().filter(|&v| !labels.is_valid(v)).collect();
    if !labels.reduce && bad == [n] && n > 0 {
        let (what, remedy) = if has(0) {
            (
                format!("labels go from 0 to {n}, one more than the {n} classes"),
                "if 0 means \"unlabelled\", turn reduce_zero_label on; if 0 is a class, the class list lacks it",
            )
        } else {
            (
                format!("labels go from 1 to {n} instead of from 0 to {}", n - 1),
                "turn reduce_zero_label on: it makes 0 ignored and moves every label down by one",
            )
        };
        findings.add(Severity::Error, FindingKind::LabelsStartAtOne, None, &files[&n], |_| what, remedy);
    } else if !bad.is_empty() {
        let shown: Vec<String> =
            bad.iter().map(|v| format!("value {v} in {} ({})", plural(files[v].len(), "file", "files"), files[v][0])).collect();
        let (low, high) = (labels.raw(0), labels.raw(n).saturating_sub(1));
        findings.add(
            Severity::Error,
            FindingKind::ValueOutOfRange,
            None,
            &shown,
            |count| {
                format!(
                    "{} outside the classes: with {n} classes labels are {low} to {high}{}, or 255",
                    plural(count, "label value is", "label values are"),
                    if labels.reduce { " or 0 (ignored)" } else { "" }
                )
            },
            "add the missing classes to the list, or map these values to a class or to 255",
        );
    }
    if labels.reduce && n >= 2 && !has(n) && (0..n).all(has) {
        findings.add(
            Severity::Warning,
            FindingKind::ReduceZeroDropsClass,
            None,
            &files[&0],
            |_| format!("reduce_zero_label is on, but labels are exactly 0 to {}: class 0 would be ignored and every other class get the name before it", n - 1),
            "turn reduce_zero_label off, unless 0 really means \"unlabelled\" and the last class never occurs",
        );
    }
    if !labels.reduce && n >= 2 && !has(0) && !has(n) && bad.is_empty() && files.keys().any(|&v| v != IGNORED) {
        findings.add(
            Severity::Warning,
            FindingKind::ZeroNeverUsed,
            None,
            &["0".to_owned()],
            |_| "no label is 0, which is the first class while reduce_zero_label is off".to_owned(),
            "if the labels count from 1, turn reduce_zero_label on",
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
            |n| format!("{n} of {} classes never occur", split.classes.len()),
            if is_training(&split.name) {
                "the model cannot learn such classes; add images, or drop them from the list"
            } else {
                "they have no IoU here and do not count in the mean"
            },
        );
        findings.add(
            Severity::Info,
            FindingKind::RareClass,
            name,
            &shown(&|share| share < RARE),
            |n| format!("{} less than {}% of the labelled pixels", plural(n, "class has", "classes have"), 100.0 * RARE),
            "expect a low IoU there; crops that prefer rare classes and longer training help",
        );
        findings.add(
            Severity::Warning,
            FindingKind::Imbalance,
            name,
            &shown(&|share| share > DOMINANT),
            |_| format!("one class has more than {}% of the labelled pixels", 100.0 * DOMINANT),
            "pixel accuracy will look good whatever the model learns; judge by mIoU and consider class weights",
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
            |n| format!("{} here but never in training, so the IoU there will be 0", plural(n, "class occurs", "classes occur")),
            "move images between the splits so that every class can be learned",
        );
    }
}
