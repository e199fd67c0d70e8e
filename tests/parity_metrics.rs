//! Segmentation metrics against mmsegmentation's `IoUMetric`, and against the definition evaluated pixel by pixel.

use proptest::prelude::*;
use tests::{Fixture, shared_root};
use vision_datasets::ade20k::{FolderDataset, FolderOptions, IouMetric, IouReport};
use vision_datasets::class_list::read_class_list;
use vision_datasets::sample::SegmentationDataset;
use vmamba_types::{IGNORE_LABEL, LabelMap};

/// Counts are whole numbers and the ratios are taken in float64 on our side.
const METRIC_TOLERANCE: f64 = 1e-9;

/// The fixture stores float32; its ratios carry that rounding.
const FLOAT32_ROUNDING: f64 = 1.2e-7;

/// The reference publishes the means in percent with two decimals.
const SUMMARY_ROUNDING: f64 = 0.005 + 1e-9;

/// The fixture writes -1 where the reference has no value.
fn value(stored: f64) -> f64 {
    if stored == -1.0 { f64::NAN } else { stored }
}

fn same(name: &str, actual: f64, expected: f64, tolerance: f64) {
    let equal = (actual.is_nan() && expected.is_nan()) || (actual - expected).abs() <= tolerance;
    assert!(equal, "{name}: {actual}, reference {expected}");
}

fn metric_of(case: &Fixture) -> IouMetric {
    let classes = case.manifest["num_classes"].as_u64().expect("num_classes") as usize;
    let mut metric = IouMetric::new(classes);
    for index in 0.. {
        let (Some(labels), Some(predictions)) = (case.get(&format!("label{index}")), case.get(&format!("pred{index}"))) else { break };
        metric.add(&labels.to_u8(), &predictions.to_u8());
    }
    metric
}

#[test]
fn figures_are_those_of_mmsegmentation() {
    let case = Fixture::read("iou_metric", "data");
    let metric = metric_of(&case);
    let report = metric.report();
    let classes = report.iou.len();

    // The areas are whole numbers: equal, not nearly equal; from them the reference's ratios follow in float64.
    let count = |label: usize, prediction: usize| metric.confusion()[label * classes + prediction];
    let intersect: Vec<f64> = (0..classes).map(|c| count(c, c) as f64).collect();
    let labelled: Vec<f64> = (0..classes).map(|c| (0..classes).map(|p| count(c, p)).sum::<u64>() as f64).collect();
    let predicted: Vec<f64> = (0..classes).map(|c| (0..classes).map(|l| count(l, c)).sum::<u64>() as f64).collect();
    let area = |name: &str| case.tensor(&format!("area_{name}")).values.clone();
    assert_eq!((intersect, labelled, predicted), (area("intersect"), area("label"), area("pred")));
    let (right, union, label, pred) = (area("intersect"), area("union"), area("label"), area("pred"));
    for class in 0..classes {
        let (i, u, l, p) = (right[class], union[class], label[class], pred[class]);
        for (name, actual, exact) in [
            ("IoU", report.iou[class], i / u),
            ("Acc", report.accuracy[class], i / l),
            ("Dice", report.dice[class], 2.0 * i / (p + l)),
            ("Precision", report.precision[class], i / p),
            ("Recall", report.recall[class], i / l),
            ("Fscore", report.fscore[class], 2.0 * (i / p) * (i / l) / (i / p + i / l)),
        ] {
            same(&format!("{name} of class {class}"), actual, exact, METRIC_TOLERANCE);
            let stored = value(case.tensor(&format!("raw_{name}")).values[class]);
            same(&format!("stored {name} of class {class}"), actual, stored, FLOAT32_ROUNDING);
        }
    }
    same("stored aAcc", report.all_accuracy, value(case.tensor("raw_aAcc").values[0]), FLOAT32_ROUNDING);

    let summary = serde_json::to_value(&report).expect("a report is JSON");
    let expected = case.manifest["summary_percent_rounded"].as_object().expect("a summary");
    for (name, percent) in expected {
        let actual = summary[name].as_f64().unwrap_or_else(|| panic!("the report has no {name}"));
        same(name, actual * 100.0, percent.as_f64().expect("a number"), SUMMARY_ROUNDING);
    }
    println!("iou_metric/data: {classes} classes, {} means, all equal", expected.len());
}

#[test]
fn reduce_zero_label_is_mmsegmentations() {
    let case = Fixture::read("iou_metric", "data");
    let raw = case.tensor("rzl_raw");
    let map = LabelMap::new(raw.shape[0], raw.shape[1], raw.to_u8()).reduce_zero_label();
    assert_eq!(map.as_slice(), case.tensor("rzl_out").to_u8());
}

/// Reading a whole real set: every label map is inside its class list, and against itself it scores 1.
#[test]
fn a_real_validation_set_scores_1_against_itself() {
    let Some(root) = shared_root() else {
        println!("skipped: the photos lie in $VMAMBA_SHARED/data, which is not set");
        return;
    };
    let folder = root.join("data/camvid");
    let classes = read_class_list(&folder.join("objectInfo11.csv")).expect("the class list is readable").classes;
    let data = FolderDataset::open(&folder, "validation", &FolderOptions { reduce_zero_label: true, ..FolderOptions::new(classes) })
        .expect("the data open");
    let mut metric = IouMetric::new(data.classes().len());
    for index in 0..data.len() {
        let sample = data.get(index).expect("every sample is readable");
        metric.add(sample.labels.as_slice(), sample.labels.as_slice());
    }
    let report = metric.report();
    println!("camvid: {} images, {} labelled pixels", data.len(), report.labelled.iter().sum::<u64>());
    assert!(report.iou.iter().all(|iou| *iou == 1.0), "every class of CamVid occurs: {:?}", report.iou);
    assert_eq!((report.mean_iou, report.all_accuracy), (1.0, 1.0));
}

/// The definition: for every class, walk over all pixels.
fn slow_report(labels: &[u8], predictions: &[u8], classes: u8) -> (Vec<f64>, Vec<f64>, f64) {
    let pixels: Vec<(u8, u8)> =
        labels.iter().copied().zip(predictions.iter().copied()).filter(|(label, _)| *label != IGNORE_LABEL).collect();
    let count = |test: &dyn Fn(&(u8, u8)) -> bool| pixels.iter().filter(|pixel| test(pixel)).count() as f64;
    let iou = (0..classes).map(|c| count(&|(l, p)| *l == c && *p == c) / count(&|(l, p)| *l == c || *p == c)).collect();
    let accuracy = (0..classes).map(|c| count(&|(l, p)| *l == c && *p == c) / count(&|(l, _)| *l == c)).collect();
    (iou, accuracy, count(&|(l, p)| l == p) / pixels.len() as f64)
}

fn assert_same(report: &IouReport, slow: &(Vec<f64>, Vec<f64>, f64)) {
    for class in 0..slow.0.len() {
        same("IoU", report.iou[class], slow.0[class], METRIC_TOLERANCE);
        same("Acc", report.accuracy[class], slow.1[class], METRIC_TOLERANCE);
    }
    same("aAcc", report.all_accuracy, slow.2, METRIC_TOLERANCE);
}

proptest! {
    // A failing case is printed whole; it is small.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_streamed_figures_are_the_definition(
        pixels in prop::collection::vec((prop_oneof![4 => 0_u8..6, 1 => Just(IGNORE_LABEL)], 0_u8..6), 1..400),
        cut in 0.0..1.0_f64,
    ) {
        let (labels, predictions): (Vec<u8>, Vec<u8>) = pixels.into_iter().unzip();
        let cut = (cut * labels.len() as f64) as usize;
        let mut metric = IouMetric::new(6);
        metric.add(&labels[..cut], &predictions[..cut]);
        metric.add(&labels[cut..], &predictions[cut..]);
        assert_same(&metric.report(), &slow_report(&labels, &predictions, 6));
    }
}
