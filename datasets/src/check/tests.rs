//! Tests of the rules on constructed facts; `tests/cli_check_data.rs` checks real files through the program.

use super::judge::judge;
use super::scan::{FolderScan, ImageFacts, LabelFacts, LabelKind, PairScan, SplitScan};
use vmamba_types::ClassList;

use crate::ade20k::pairs::SplitFiles;

use super::{CheckOptions, CheckReport, FindingKind, Severity};

/// A split of one 64x64 image whose labels have these values in equal shares.
fn split(name: &str, content: u64, values: &[usize]) -> SplitScan {
    let mut counts = Box::new([0; 256]);
    values.iter().for_each(|&v| counts[v] = 64 * 64 / values.len() as u64);
    let image = Ok(ImageFacts { width: 64, height: 64, content, header: None });
    let labels = Ok(LabelFacts { width: 64, height: 64, kind: LabelKind::Grey, counts, content });
    SplitScan {
        name: name.to_owned(),
        files: SplitFiles { images: 1, labels: 1, ..SplitFiles::default() },
        pairs: vec![PairScan { name: "a.png".to_owned(), image, labels }],
    }
}

fn check(values: &[usize], num_classes: usize, reduce_zero_label: bool) -> CheckReport {
    let scan = FolderScan { splits: vec![split("training", 1, values)], missing: Vec::new(), stray_images: 0 };
    judge(None, scan, &CheckOptions { reduce_zero_label, ..options(num_classes) })
}

fn options(num_classes: usize) -> CheckOptions {
    CheckOptions { class_names: ClassList::numbered(num_classes).names, ..CheckOptions::default() }
}

fn found(report: &CheckReport, wanted: FindingKind) -> Option<Severity> {
    report.findings.iter().find(|f| f.kind == wanted).map(|f| f.severity)
}

#[test]
fn every_mistake_in_label_values_is_told_apart() {
    use FindingKind::{BinaryMask, LabelsStartAtOne, OneClass, ReduceZeroDropsClass, ValueOutOfRange, ZeroNeverUsed};
    let traps = [BinaryMask, OneClass, LabelsStartAtOne, ValueOutOfRange, ReduceZeroDropsClass, ZeroNeverUsed];
    let cases: [(&[usize], usize, bool, Option<FindingKind>); 17] = [
        (&[0, 1, 2], 3, false, None),
        (&[0, 1, 2, 255], 3, false, None),
        (&[0, 1, 2, 3], 3, true, None),
        (&[1, 2, 3], 3, true, None),
        (&[1, 2, 3, 255], 3, true, None),
        (&[0, 255], 2, false, Some(BinaryMask)),
        (&[0, 255], 2, true, Some(BinaryMask)),
        (&[0, 255], 1, false, Some(BinaryMask)),
        (&[0], 1, false, Some(OneClass)),
        (&[0, 2], 3, true, Some(OneClass)),
        (&[1, 2, 3], 3, false, Some(LabelsStartAtOne)),
        (&[0, 1, 2, 3], 3, false, Some(LabelsStartAtOne)),
        (&[0, 1, 2, 4], 3, false, Some(ValueOutOfRange)),
        (&[0, 1, 4], 3, true, Some(ValueOutOfRange)),
        (&[0, 1, 2], 3, true, Some(ReduceZeroDropsClass)),
        (&[1, 2], 3, false, Some(ZeroNeverUsed)),
        (&[255], 3, false, None),
    ];
    for (values, classes, reduce, expected) in cases {
        let report = check(values, classes, reduce);
        let seen: Vec<FindingKind> = traps.into_iter().filter(|&k| found(&report, k).is_some()).collect();
        assert_eq!(seen, expected.into_iter().collect::<Vec<_>>(), "{values:?} with {classes} classes, reduce_zero_label {reduce}");
    }
}

#[test]
fn classes_are_counted_after_reduce_zero_label() {
    let report = check(&[0, 1, 2, 3], 3, true);
    let split = &report.splits[0];
    assert_eq!(split.ignored_pixels, 1024);
    assert_eq!(split.classes.iter().map(|c| c.pixels).collect::<Vec<_>>(), [1024; 3]);
    assert_eq!(split.raw_values, [(0, 1024), (1, 1024), (2, 1024), (3, 1024)]);
}

#[test]
fn errors_come_first_and_strict_counts_warnings() {
    let report = check(&[0, 1, 2, 9], 4, false);
    assert!(report.findings.is_sorted_by(|a, b| a.severity >= b.severity));
    assert!(!report.passes(false));
    let report = check(&[0, 1, 2], 3, true);
    assert!(report.passes(false) && !report.passes(true));
}

#[test]
fn an_image_in_two_splits_is_one_finding() {
    let splits = vec![split("training", 7, &[0, 1]), split("validation", 7, &[0, 1])];
    let scan = FolderScan { splits, missing: Vec::new(), stray_images: 0 };
    let report = judge(None, scan, &options(2));
    assert_eq!(found(&report, FindingKind::DuplicateAcrossSplits), Some(Severity::Warning));
    assert_eq!(found(&report, FindingKind::DuplicateInSplit), None);
    assert_eq!(found(&report, FindingKind::ConflictingLabels), None);
}

#[test]
fn a_folder_without_a_class_list_is_refused_and_the_largest_label_gives_the_number_of_classes() {
    let scan = FolderScan { splits: vec![split("training", 1, &[0, 4, 255])], missing: Vec::new(), stray_images: 0 };
    let report = judge(None, scan, &CheckOptions::default());
    assert_eq!(report.num_classes, 5);
    assert_eq!(found(&report, FindingKind::NoClassList), Some(Severity::Error));
}
