//! Average precision and recall (pycocotools' `COCOeval`).

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use hotcoco::params::AreaRange;
use hotcoco::types as coco;
use hotcoco::{AccumulatedEval, COCO, COCOeval};
use serde::Serialize;

use super::annotations::{GroundTruth, Problem};
use super::results::ResultEntry;
use crate::mask::Rle;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IouType {
    /// Boxes.
    Bbox,
    /// Masks.
    Segm,
}

impl IouType {
    /// `bbox` or `segm`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bbox => "bbox",
            Self::Segm => "segm",
        }
    }
}

/// How it is evaluated; the default is pycocotools'.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalConfig {
    /// What is compared.
    pub iou_type: IouType,
    /// Detections of an image and category that count, three limits.
    pub max_dets: [usize; 3],
    /// IoU from which on a detection matches.
    pub iou_thresholds: Vec<f64>,
    /// Recalls at which the precision is read.
    pub recall_thresholds: Vec<f64>,
    /// Areas of all, small, medium and large objects, lower and upper bound in pixels.
    pub areas: [[f64; 2]; 4],
    /// Whether the class must be right.
    pub use_categories: bool,
    /// Images to evaluate; none for all.
    pub image_ids: Option<Vec<i64>>,
    /// Categories to evaluate; none for all.
    pub category_ids: Option<Vec<i64>>,
}

impl EvalConfig {
    /// pycocotools' settings.
    pub fn new(iou_type: IouType) -> Self {
        let (small, large) = (32.0 * 32.0, 96.0 * 96.0);
        Self {
            iou_type,
            max_dets: [1, 10, 100],
            iou_thresholds: linspace(0.5, 0.95, 10),
            recall_thresholds: linspace(0.0, 1.0, 101),
            areas: [[0.0, 1e10], [0.0, small], [small, large], [large, 1e10]],
            use_categories: true,
            image_ids: None,
            category_ids: None,
        }
    }

    /// mmdetection's settings: AP counts 100 detections, but AP50, AP75 and AP by size count 1000, and the recalls are those of 100, 300
    /// and 1000.
    pub fn mmdetection(iou_type: IouType) -> Self {
        Self { max_dets: [100, 300, 1000], ..Self::new(iou_type) }
    }
}

/// numpy's `linspace`.
fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let step = (stop - start) / (count - 1) as f64;
    (0..count).map(|i| if i + 1 == count { stop } else { i as f64 * step + start }).collect()
}

/// Names of the statistics, by pycocotools' usual limits.
pub const STAT_NAMES: [&str; 12] = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"];

/// Precision over recall.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// Recall and precision.
    pub points: Vec<(f64, f64)>,
}

/// What an evaluation found. Shares of 1; -1 where there is nothing to find.
#[derive(Clone, Debug)]
pub struct EvalReport {
    /// The twelve statistics in the order of [`STAT_NAMES`].
    pub stats: [f64; 12],
    config: EvalConfig,
    arrays: AccumulatedEval,
    limits: Vec<usize>,
}

/// Evaluates results against the ground truth.
///
/// # Errors
/// When a result has not what is compared, or its image or category is not in the ground truth.
pub fn evaluate(truth: &GroundTruth, results: &[ResultEntry], config: &EvalConfig) -> Result<EvalReport, Problem> {
    let segm = config.iou_type == IouType::Segm;
    let images: BTreeMap<i64, [usize; 2]> = truth.images.iter().map(|image| (image.id, image.size)).collect();
    let categories: BTreeSet<i64> = truth.categories.iter().map(|category| category.id).collect();
    for entry in results {
        if !images.contains_key(&entry.image_id) {
            return Err(Problem::UnknownImage(entry.image_id));
        }
        if !categories.contains(&entry.category_id) {
            return Err(Problem::UnknownCategory(entry.category_id));
        }
        if !entry.score.is_finite() {
            return Err(Problem::NotFinite("score"));
        }
    }
    let unsigned = |id: i64| u64::try_from(id).map_err(|_| Problem::NegativeId(id));
    let base = coco::Dataset {
        images: truth
            .images
            .iter()
            .map(|image| {
                let [height, width] = image.size.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
                Ok(coco::Image { id: unsigned(image.id)?, height, width, ..coco::Image::default() })
            })
            .collect::<Result<_, Problem>>()?,
        // In the order of their numbers, which is that of the arrays.
        categories: categories
            .iter()
            .map(|id| Ok(coco::Category { id: unsigned(*id)?, name: id.to_string(), ..coco::Category::default() }))
            .collect::<Result<_, Problem>>()?,
        ..coco::Dataset::default()
    };
    let annotation = |index: usize, image_id: i64, category_id: i64| -> Result<coco::Annotation, Problem> {
        Ok(coco::Annotation {
            // From 1 on: pycocotools takes a match with annotation 0 for none.
            id: index as u64 + 1,
            image_id: unsigned(image_id)?,
            category_id: unsigned(category_id)?,
            ..coco::Annotation::default()
        })
    };
    let mut expected = base.clone();
    for (index, entry) in truth.annotations.iter().enumerate() {
        let segmentation = match entry.segmentation.as_ref().filter(|_| segm) {
            Some(segmentation) => {
                let size = *images.get(&entry.image_id).ok_or(Problem::UnknownImage(entry.image_id))?;
                Some(runs(&segmentation.to_rle(size)?))
            }
            None if segm => Some(runs(&Rle::from_box(entry.bbox, images.get(&entry.image_id).copied().unwrap_or_default())?)),
            None => None,
        };
        let own = annotation(index, entry.image_id, entry.category_id)?;
        expected.annotations.push(coco::Annotation {
            bbox: Some(entry.bbox),
            area: Some(entry.area),
            iscrowd: entry.crowd,
            segmentation,
            ..own
        });
    }
    let mut found = base;
    for (index, entry) in results.iter().enumerate() {
        let own = annotation(index, entry.image_id, entry.category_id)?;
        let (bbox, area, segmentation) = if segm {
            let mask = entry.mask.as_ref().ok_or(Problem::Missing("segmentation"))?;
            (mask.bbox(), mask.area() as f64, Some(runs(mask)))
        } else {
            let bbox = entry.bbox.ok_or(Problem::Missing("bbox"))?;
            (bbox, bbox[2] * bbox[3], None)
        };
        found.annotations.push(coco::Annotation { bbox: Some(bbox), area: Some(area), score: Some(entry.score), segmentation, ..own });
    }

    let kind = if segm { hotcoco::params::IouType::Segm } else { hotcoco::params::IouType::Bbox };
    let mut engine = COCOeval::new(COCO::from_dataset(expected), COCO::from_dataset(found), kind);
    let ids = |all: Vec<i64>, chosen: &Option<Vec<i64>>| -> Result<Vec<u64>, Problem> {
        let set: BTreeSet<i64> = chosen.as_ref().unwrap_or(&all).iter().copied().collect();
        set.into_iter().map(unsigned).collect()
    };
    let mut limits = config.max_dets.to_vec();
    limits.sort_unstable();
    let params = &mut engine.params;
    params.img_ids = ids(images.keys().copied().collect(), &config.image_ids)?;
    params.cat_ids = ids(categories.iter().copied().collect(), &config.category_ids)?;
    params.iou_thrs.clone_from(&config.iou_thresholds);
    params.rec_thrs.clone_from(&config.recall_thresholds);
    params.max_dets.clone_from(&limits);
    params.use_cats = config.use_categories;
    params.area_ranges = ["all", "small", "medium", "large"]
        .iter()
        .zip(config.areas)
        .map(|(label, range)| AreaRange { label: (*label).to_owned(), range })
        .collect();
    engine.evaluate().map_err(|error| Problem::Json(error.to_string()))?;
    engine.accumulate();
    let arrays = engine.accumulated().cloned().ok_or_else(|| Problem::Json("the evaluation has no result".to_owned()))?;
    let mut report = EvalReport { stats: [-1.0; 12], config: config.clone(), arrays, limits };
    report.stats = report.summarize();
    Ok(report)
}

fn runs(rle: &Rle) -> coco::Segmentation {
    let size = rle.size.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
    coco::Segmentation::UncompressedRle { size, counts: rle.counts.clone() }
}

/// All areas.
const ALL: usize = 0;

impl EvalReport {
    /// Precision (at index 0 of the arrays' shape IoU x recall x category x area x limit), flat; -1 where there is nothing to find.
    pub fn precision(&self) -> &[f64] {
        &self.arrays.precision
    }

    /// The score at which each precision is reached, of the same shape.
    pub fn scores(&self) -> &[f64] {
        &self.arrays.scores
    }

    /// Recall, IoU x category x area x limit, flat.
    pub fn recall(&self) -> &[f64] {
        &self.arrays.recall
    }

    /// Numbers of the evaluated categories, in the order of the arrays; empty when classes did not matter.
    pub fn category_ids(&self) -> Vec<i64> {
        self.arrays.cat_ids.iter().map(|id| *id as i64).collect()
    }

    /// pycocotools' summary: the AP over all IoUs counts 100 detections whatever the limits are, everything else the largest limit but
    /// for the recalls of the three limits.
    fn summarize(&self) -> [f64; 12] {
        let at =
            |limit: usize| -> Vec<usize> { self.limits.iter().enumerate().filter(|(_, own)| **own == limit).map(|(i, _)| i).collect() };
        let limit = |index: usize| at(self.limits.get(index).copied().unwrap_or_default());
        let (all, most) = (0..self.config.iou_thresholds.len(), limit(2));
        let all: Vec<usize> = all.collect();
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

    /// AP, AP50, AP75, APs, APm and APl of a category, by its place in [`EvalReport::category_ids`], with the largest limit.
    pub fn of_category(&self, place: usize) -> [f64; 6] {
        let most = [self.limits.len() - 1];
        let all: Vec<usize> = (0..self.config.iou_thresholds.len()).collect();
        let iou = |threshold: f64| -> Vec<usize> { all.iter().copied().filter(|t| self.config.iou_thresholds[*t] == threshold).collect() };
        let own = |ious: &[usize], area| self.mean_precision(ious, Some(place), area, &most);
        [own(&all, ALL), own(&iou(0.5), ALL), own(&iou(0.75), ALL), own(&all, 1), own(&all, 2), own(&all, 3)]
    }

    /// The evaluated IoU thresholds nearest to those asked for.
    pub fn thresholds_near(&self, wanted: &[f64]) -> Vec<f64> {
        let nearest = |wanted: &f64| {
            let distance = |threshold: &f64| (threshold - wanted).abs();
            self.config.iou_thresholds.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b)))
        };
        wanted.iter().filter_map(nearest).collect()
    }

    /// Precision over recall at an IoU threshold, the mean over the categories that have objects, or one of them by its place.
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

/// The mean of what is not -1, or -1.
fn mean(values: Vec<&f64>) -> f64 {
    let (sum, count) = values.into_iter().filter(|value| **value > -1.0).fold((0.0, 0_usize), |(sum, n), value| (sum + value, n + 1));
    if count == 0 { -1.0 } else { sum / count as f64 }
}
