//! Average precision, average recall and precision-recall curves, from the precision and recall arrays of an evaluation.

use hotcoco::AccumulatedEval;
use serde::Serialize;

use super::config::EvalConfig;

/// Names of the statistics, with pycocotools' limits of 1, 10 and 100 detections.
pub const STAT_NAMES: [&str; 12] = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"];

/// A precision-recall curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// Recall and precision of each point.
    pub points: Vec<(f64, f64)>,
}

/// The result of an evaluation. Values are in 0 to 1, and -1 where the ground truth has no object.
#[derive(Clone, Debug)]
pub struct EvalReport {
    /// The twelve statistics in the order of [`STAT_NAMES`].
    pub stats: [f64; 12],
    /// AP, AP50 and AP75 of pycocotools where the ground truth has an annotation of id 0: pycocotools takes a match with it as no match.
    pub with_id_0_unmatched: Option<[f64; 3]>,
    config: EvalConfig,
    arrays: AccumulatedEval,
    limits: Vec<usize>,
}

/// Index of the area range that holds all objects.
const ALL: usize = 0;

impl EvalReport {
    /// Summarises the arrays; `limits` are the limits of [`EvalConfig::max_dets`], sorted.
    pub(super) fn new(config: EvalConfig, arrays: AccumulatedEval, limits: Vec<usize>) -> Self {
        let mut report = Self { stats: [-1.0; 12], with_id_0_unmatched: None, config, arrays, limits };
        report.stats = report.summarize();
        report
    }

    /// Adds AP, AP50 and AP75 of pycocotools, from the arrays that it computes.
    pub(super) fn set_id_0_unmatched(&mut self, arrays: AccumulatedEval) {
        let own = std::mem::replace(&mut self.arrays, arrays);
        let [ap, ap50, ap75, ..] = self.summarize();
        self.arrays = own;
        self.with_id_0_unmatched = Some([ap, ap50, ap75]);
    }

    /// Precision, `[IoU threshold, recall, category, area, limit]`, flat; -1 where the ground truth has no object.
    pub fn precision(&self) -> &[f64] {
        &self.arrays.precision
    }

    /// The score at which each precision is reached, with the shape of [`EvalReport::precision`].
    pub fn scores(&self) -> &[f64] {
        &self.arrays.scores
    }

    /// Recall, `[IoU threshold, category, area, limit]`, flat; -1 where the ground truth has no object.
    pub fn recall(&self) -> &[f64] {
        &self.arrays.recall
    }

    /// Ids of the evaluated categories, in the order of the arrays; empty without [`EvalConfig::use_categories`].
    pub fn category_ids(&self) -> Vec<i64> {
        self.arrays.cat_ids.iter().map(|id| *id as i64).collect()
    }

    /// pycocotools' summary. The AP over all IoU thresholds counts 100 detections whatever the limits are; the three recalls use one
    /// limit each; everything else uses the largest limit.
    fn summarize(&self) -> [f64; 12] {
        let at =
            |limit: usize| -> Vec<usize> { self.limits.iter().enumerate().filter(|(_, own)| **own == limit).map(|(i, _)| i).collect() };
        let limit = |index: usize| at(self.limits.get(index).copied().unwrap_or_default());
        let all: Vec<usize> = (0..self.config.iou_thresholds.len()).collect();
        let most = limit(2);
        let iou = |threshold: f64| -> Vec<usize> { all.iter().copied().filter(|t| self.config.iou_thresholds[*t] == threshold).collect() };
        [
            self.mean_precision(&all, None, ALL, &at(100)),
            self.mean_precision(&iou(0.5), None, ALL, &most),
            self.mean_precision(&iou(0.75), None, ALL, &most),
            self.mean_precision(&all, None, 1, &most),
            self.mean_precision(&all, None, 2, &most),
            self.mean_precision(&all, None, 3, &most),
            self.mean_recall(ALL, &limit(0)),
            self.mean_recall(ALL, &limit(1)),
            self.mean_recall(ALL, &most),
            self.mean_recall(1, &most),
            self.mean_recall(2, &most),
            self.mean_recall(3, &most),
        ]
    }

    fn mean_precision(&self, ious: &[usize], category: Option<usize>, area: usize, limits: &[usize]) -> f64 {
        let shape = &self.arrays.shape;
        let categories = category.map_or(0..shape.k, |k| k..k + 1);
        let mut values = Vec::new();
        for &t in ious {
            for r in 0..shape.r {
                for k in categories.clone() {
                    values.extend(limits.iter().filter_map(|m| self.arrays.precision.get(shape.precision_idx(t, r, k, area, *m))));
                }
            }
        }
        mean(values)
    }

    fn mean_recall(&self, area: usize, limits: &[usize]) -> f64 {
        let shape = &self.arrays.shape;
        let mut values = Vec::new();
        for t in 0..shape.t {
            for k in 0..shape.k {
                values.extend(limits.iter().filter_map(|m| self.arrays.recall.get(shape.recall_idx(t, k, area, *m))));
            }
        }
        mean(values)
    }

    /// AP, AP50, AP75, APs, APm and APl of a category with the largest limit. `place` is its index in [`EvalReport::category_ids`].
    pub fn of_category(&self, place: usize) -> [f64; 6] {
        let most = [self.limits.len() - 1];
        let all: Vec<usize> = (0..self.config.iou_thresholds.len()).collect();
        let iou = |threshold: f64| -> Vec<usize> { all.iter().copied().filter(|t| self.config.iou_thresholds[*t] == threshold).collect() };
        let own = |ious: &[usize], area| self.mean_precision(ious, Some(place), area, &most);
        [own(&all, ALL), own(&iou(0.5), ALL), own(&iou(0.75), ALL), own(&all, 1), own(&all, 2), own(&all, 3)]
    }

    /// The evaluated IoU threshold nearest to each of `wanted`.
    pub fn thresholds_near(&self, wanted: &[f64]) -> Vec<f64> {
        let nearest = |wanted: &f64| {
            let distance = |threshold: &f64| (threshold - wanted).abs();
            self.config.iou_thresholds.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b)))
        };
        wanted.iter().filter_map(nearest).collect()
    }

    /// The precision-recall curve at an evaluated IoU threshold: of the category at index `category` of [`EvalReport::category_ids`], or
    /// the mean over the categories that have objects. Empty for a threshold that was not evaluated.
    pub fn curve(&self, iou_threshold: f64, category: Option<usize>) -> Curve {
        let shape = &self.arrays.shape;
        let Some(t) = self.config.iou_thresholds.iter().position(|t| *t == iou_threshold) else { return Curve { points: Vec::new() } };
        let most = self.limits.len() - 1;
        let categories = category.map_or(0..shape.k, |k| k..k + 1);
        let at = |(r, recall): (usize, &f64)| {
            let values = categories.clone().filter_map(|k| self.arrays.precision.get(shape.precision_idx(t, r, k, ALL, most)));
            (*recall, mean(values.collect()))
        };
        let points = self.config.recall_thresholds.iter().enumerate().map(at).filter(|(_, precision)| *precision >= 0.0);
        Curve { points: points.collect() }
    }
}

/// The mean of the values that are not -1; -1 when there are none.
fn mean(values: Vec<&f64>) -> f64 {
    let (sum, count) = values.into_iter().filter(|value| **value > -1.0).fold((0.0, 0_usize), |(sum, n), value| (sum + value, n + 1));
    if count == 0 { -1.0 } else { sum / count as f64 }
}
