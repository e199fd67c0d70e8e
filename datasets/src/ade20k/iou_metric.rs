//! Intersection over union, accuracy, Dice, precision and recall by the conventions of mmsegmentation's `IoUMetric`.
//!
//! Pixels are counted over the whole data set before any division. Ignored pixels do not count. A class that occurs neither in the labels
//! nor in the predictions has the value NaN and is left out of the means; a class that is only predicted has IoU 0 and accuracy NaN.

use serde::Serialize;
use vmamba_types::IGNORE_LABEL;

/// A confusion matrix that grows image by image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IouMetric {
    classes: usize,
    /// Pixels, `[label, prediction]`, row-major.
    confusion: Vec<u64>,
}

/// The metrics of a data set. Values are in 0 to 1, or NaN where the denominator is 0.
#[derive(Clone, Debug, Serialize)]
pub struct IouReport {
    /// Share of all labelled pixels that are predicted correctly.
    #[serde(rename = "aAcc")]
    pub all_accuracy: f64,
    /// Mean IoU.
    #[serde(rename = "mIoU")]
    pub mean_iou: f64,
    /// Mean class accuracy.
    #[serde(rename = "mAcc")]
    pub mean_accuracy: f64,
    /// Mean Dice coefficient.
    #[serde(rename = "mDice")]
    pub mean_dice: f64,
    /// Mean F-score (beta 1).
    #[serde(rename = "mFscore")]
    pub mean_fscore: f64,
    /// Mean precision.
    #[serde(rename = "mPrecision")]
    pub mean_precision: f64,
    /// Mean recall.
    #[serde(rename = "mRecall")]
    pub mean_recall: f64,
    /// IoU of every class.
    pub iou: Vec<f64>,
    /// Share of the labelled pixels of every class that are predicted correctly.
    pub accuracy: Vec<f64>,
    /// Dice coefficient of every class.
    pub dice: Vec<f64>,
    /// F-score of every class.
    pub fscore: Vec<f64>,
    /// Precision of every class.
    pub precision: Vec<f64>,
    /// Recall of every class.
    pub recall: Vec<f64>,
    /// Labelled pixels of every class.
    pub labelled: Vec<u64>,
}

impl IouMetric {
    /// An empty confusion matrix of `classes` classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, confusion: vec![0; classes * classes] }
    }

    /// Counts an image: a label (class index or [`IGNORE_LABEL`]) and a prediction (class index) for each pixel. Labels and predictions
    /// outside the classes count for no class, as in mmsegmentation's histogram.
    ///
    /// # Panics
    /// When labels and predictions differ in length.
    pub fn add(&mut self, labels: &[u8], predictions: &[u8]) {
        assert_eq!(labels.len(), predictions.len(), "IouMetric::add: labels and predictions differ in length");
        for (label, prediction) in labels.iter().zip(predictions) {
            let (label_class, prediction) = (usize::from(*label), usize::from(*prediction));
            if *label != IGNORE_LABEL && label_class < self.classes && prediction < self.classes {
                self.confusion[label_class * self.classes + prediction] += 1;
            }
        }
    }

    /// Adds the counts of another part of the data set.
    ///
    /// # Panics
    /// When the numbers of classes differ.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.classes, other.classes, "IouMetric::merge: the numbers of classes differ");
        self.confusion.iter_mut().zip(&other.confusion).for_each(|(sum, part)| *sum += part);
    }

    /// The confusion matrix in pixels, `[label, prediction]`, row-major.
    pub fn confusion(&self) -> &[u64] {
        &self.confusion
    }

    /// The metrics of all images so far.
    pub fn report(&self) -> IouReport {
        let n = self.classes;
        let count = |label: usize, prediction: usize| self.confusion[label * n + prediction];
        let correct: Vec<u64> = (0..n).map(|c| count(c, c)).collect();
        let labelled: Vec<u64> = (0..n).map(|c| (0..n).map(|p| count(c, p)).sum()).collect();
        let predicted: Vec<u64> = (0..n).map(|c| (0..n).map(|l| count(l, c)).sum()).collect();
        let each = |f: &dyn Fn(usize) -> f64| (0..n).map(f).collect::<Vec<f64>>();
        let ratio = |a: u64, b: u64| a as f64 / b as f64;

        let iou = each(&|c| ratio(correct[c], labelled[c] + predicted[c] - correct[c]));
        let accuracy = each(&|c| ratio(correct[c], labelled[c]));
        let dice = each(&|c| ratio(2 * correct[c], labelled[c] + predicted[c]));
        let precision = each(&|c| ratio(correct[c], predicted[c]));
        let recall = accuracy.clone();
        let fscore = each(&|c| 2.0 * precision[c] * recall[c] / (precision[c] + recall[c]));
        IouReport {
            all_accuracy: ratio(correct.iter().sum(), labelled.iter().sum()),
            mean_iou: mean(&iou),
            mean_accuracy: mean(&accuracy),
            mean_dice: mean(&dice),
            mean_fscore: mean(&fscore),
            mean_precision: mean(&precision),
            mean_recall: mean(&recall),
            iou,
            accuracy,
            dice,
            fscore,
            precision,
            recall,
            labelled,
        }
    }
}

/// The mean of the values that are not NaN; NaN when all are.
fn mean(values: &[f64]) -> f64 {
    let (sum, count) = values.iter().filter(|v| !v.is_nan()).fold((0.0, 0), |(sum, count), v| (sum + v, count + 1));
    if count == 0 { f64::NAN } else { sum / f64::from(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_classes_are_nan_and_classes_that_are_only_predicted_have_iou_0() {
        let mut metric = IouMetric::new(4);
        metric.add(&[0, 0, 1, 1, 255], &[0, 2, 1, 1, 3]);
        let report = metric.report();
        assert_eq!(report.iou[..3], [0.5, 1.0, 0.0]);
        assert!(report.iou[3].is_nan(), "predicted only where ignored");
        assert!(report.accuracy[2].is_nan());
        assert_eq!((report.mean_iou, report.all_accuracy, report.mean_accuracy), (0.5, 0.75, 0.75));
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let (labels, predictions) = ([0, 1, 1, 2, 255, 0], [0, 1, 2, 2, 1, 1]);
        let mut whole = IouMetric::new(3);
        whole.add(&labels, &predictions);
        let mut parts = IouMetric::new(3);
        parts.add(&labels[..2], &predictions[..2]);
        let mut rest = IouMetric::new(3);
        rest.add(&labels[2..], &predictions[2..]);
        parts.merge(&rest);
        assert_eq!(parts, whole);
    }
}
