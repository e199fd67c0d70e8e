//! Average precision and recall (pycocotools' `COCOeval`).

use std::collections::{BTreeMap, BTreeSet};

use hotcoco::params::AreaRange;
use hotcoco::types as coco;
use hotcoco::{AccumulatedEval, COCO, COCOeval};
use serde::Serialize;
use vmamba_types::{MaskError, Rle};

use super::results::ResultEntry;
use crate::ground_truth::GroundTruth;

/// Why results cannot be evaluated. Results are counted from 0 in the order of the list.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// A result belongs to no image of the ground truth.
    #[error("result {result}: image_id {image_id} is not among the images of the ground truth")]
    UnknownImage {
        /// Index of the result.
        result: usize,
        /// Its image id.
        image_id: i64,
    },
    /// A result belongs to no category of the ground truth.
    #[error("result {result}: category_id {category_id} is not among the categories of the ground truth")]
    UnknownCategory {
        /// Index of the result.
        result: usize,
        /// Its category id.
        category_id: i64,
    },
    /// A detection has a class index beyond the categories of the ground truth.
    #[error("result {result}: class index {class} is outside the {classes} categories of the ground truth")]
    UnknownClass {
        /// Index of the result.
        result: usize,
        /// Its class index.
        class: usize,
        /// Number of categories.
        classes: usize,
    },
    /// A score is NaN or infinite.
    #[error("result {result}: the score is not a finite number")]
    Score {
        /// Index of the result.
        result: usize,
    },
    /// A result lacks the box or the mask that is compared.
    #[error("result {result}: `{field}` is missing")]
    Missing {
        /// Index of the result.
        result: usize,
        /// `bbox` or `segmentation`.
        field: &'static str,
    },
    /// An annotation of the ground truth belongs to no image.
    #[error("annotation {annotation} of the ground truth: image_id {image_id} is not among its images")]
    UnknownAnnotationImage {
        /// Id of the annotation.
        annotation: i64,
        /// Its image id.
        image_id: i64,
    },
    /// A mask of the ground truth is invalid.
    #[error("annotation {annotation} of the ground truth: `segmentation`: {problem}")]
    Mask {
        /// Id of the annotation.
        annotation: i64,
        /// What is wrong.
        problem: MaskError,
    },
    /// An id is below 0.
    #[error("id {0} is negative; the ids of images and categories must be at least 0")]
    NegativeId(i64),
    /// The evaluation itself failed.
    #[error("the evaluation failed: {0}")]
    Engine(String),
}

/// Which overlap decides whether a detection matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IouType {
    /// That of the boxes.
    Bbox,
    /// That of the masks.
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

/// The settings of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalConfig {
    /// Boxes or masks.
    pub iou_type: IouType,
    /// Three limits of the number of detections that count for an image and category, by falling score.
    pub max_dets: [usize; 3],
    /// IoU thresholds: a detection matches from here on.
    pub iou_thresholds: Vec<f64>,
    /// Recalls at which the precision is sampled.
    pub recall_thresholds: Vec<f64>,
    /// Lower and upper bounds of the areas of all, small, medium and large objects, in pixels.
    pub areas: [[f64; 2]; 4],
    /// Whether a match needs the right category.
    pub use_categories: bool,
    /// Images to evaluate; `None` for all.
    pub image_ids: Option<Vec<i64>>,
    /// Categories to evaluate; `None` for all.
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

    /// mmdetection's settings: AP counts 100 detections of an image, AP50, AP75 and AP by size count 1000, and the recalls are those for
    /// 100, 300 and 1000.
    pub fn mmdetection(iou_type: IouType) -> Self {
        Self { max_dets: [100, 300, 1000], ..Self::new(iou_type) }
    }
}

/// numpy's `linspace`.
fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let step = (stop - start) / (count - 1) as f64;
    (0..count).map(|i| if i + 1 == count { stop } else { i as f64 * step + start }).collect()
}

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
    config: EvalConfig,
    arrays: AccumulatedEval,
    limits: Vec<usize>,
}

/// Evaluates results against the ground truth.
///
/// # Errors
/// When a result lacks the box or mask that is compared, its image or category is not in the ground truth, or its score is not finite.
pub fn evaluate(truth: &GroundTruth, results: &[ResultEntry], config: &EvalConfig) -> Result<EvalReport, EvalError> {
    let input = Input::new(truth, config.iou_type)?;
    input.check(results)?;
    let kind = match config.iou_type {
        IouType::Bbox => hotcoco::params::IouType::Bbox,
        IouType::Segm => hotcoco::params::IouType::Segm,
    };
    let (expected, found) = (input.expected(truth)?, input.found(results)?);
    let mut engine = COCOeval::new(COCO::from_dataset(expected), COCO::from_dataset(found), kind);
    let ids = |all: Vec<i64>, chosen: &Option<Vec<i64>>| -> Result<Vec<u64>, EvalError> {
        let set: BTreeSet<i64> = chosen.as_ref().unwrap_or(&all).iter().copied().collect();
        set.into_iter().map(unsigned).collect()
    };
    let mut limits = config.max_dets.to_vec();
    limits.sort_unstable();
    let params = &mut engine.params;
    params.img_ids = ids(input.images.keys().copied().collect(), &config.image_ids)?;
    params.cat_ids = ids(input.categories.iter().copied().collect(), &config.category_ids)?;
    params.iou_thrs.clone_from(&config.iou_thresholds);
    params.rec_thrs.clone_from(&config.recall_thresholds);
    params.max_dets.clone_from(&limits);
    params.use_cats = config.use_categories;
    params.area_ranges = ["all", "small", "medium", "large"]
        .iter()
        .zip(config.areas)
        .map(|(label, range)| AreaRange { label: (*label).to_owned(), range })
        .collect();
    engine.evaluate().map_err(|error| EvalError::Engine(error.to_string()))?;
    engine.accumulate();
    let arrays = engine.accumulated().cloned().ok_or_else(|| EvalError::Engine("it accumulated no result".to_owned()))?;
    let mut report = EvalReport { stats: [-1.0; 12], config: config.clone(), arrays, limits };
    report.stats = report.summarize();
    Ok(report)
}

/// hotcoco's ids are unsigned.
fn unsigned(id: i64) -> Result<u64, EvalError> {
    u64::try_from(id).map_err(|_| EvalError::NegativeId(id))
}

/// Conversion of ground truth and results to hotcoco's types.
struct Input {
    /// `[height, width]` of every image, by id.
    images: BTreeMap<i64, [usize; 2]>,
    categories: BTreeSet<i64>,
    kind: IouType,
    /// Images and categories without annotations.
    base: coco::Dataset,
}

impl Input {
    fn new(truth: &GroundTruth, kind: IouType) -> Result<Self, EvalError> {
        let images: BTreeMap<i64, [usize; 2]> = truth.images.iter().map(|image| (image.id, image.size)).collect();
        let categories: BTreeSet<i64> = truth.categories.iter().map(|category| category.id).collect();
        let image = |image: &crate::ground_truth::ImageEntry| {
            let [height, width] = image.size.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
            Ok(coco::Image { id: unsigned(image.id)?, height, width, ..coco::Image::default() })
        };
        let category = |id: &i64| Ok(coco::Category { id: unsigned(*id)?, name: id.to_string(), ..coco::Category::default() });
        let base = coco::Dataset {
            images: truth.images.iter().map(image).collect::<Result<_, EvalError>>()?,
            // In the order of their ids, which is that of the arrays.
            categories: categories.iter().map(category).collect::<Result<_, EvalError>>()?,
            ..coco::Dataset::default()
        };
        Ok(Self { images, categories, kind, base })
    }

    fn check(&self, results: &[ResultEntry]) -> Result<(), EvalError> {
        for (result, entry) in results.iter().enumerate() {
            if !self.images.contains_key(&entry.image_id) {
                return Err(EvalError::UnknownImage { result, image_id: entry.image_id });
            }
            if !self.categories.contains(&entry.category_id) {
                return Err(EvalError::UnknownCategory { result, category_id: entry.category_id });
            }
            if !entry.score.is_finite() {
                return Err(EvalError::Score { result });
            }
        }
        Ok(())
    }

    fn annotation(index: usize, image_id: i64, category_id: i64) -> Result<coco::Annotation, EvalError> {
        Ok(coco::Annotation {
            // From 1 on: pycocotools takes a match with annotation 0 for no match.
            id: index as u64 + 1,
            image_id: unsigned(image_id)?,
            category_id: unsigned(category_id)?,
            ..coco::Annotation::default()
        })
    }

    /// The ground truth. For masks, an annotation without one gets its filled box.
    fn expected(&self, truth: &GroundTruth) -> Result<coco::Dataset, EvalError> {
        let mut expected = self.base.clone();
        for (index, entry) in truth.annotations.iter().enumerate() {
            let (annotation, image_id) = (entry.id, entry.image_id);
            let segmentation = if self.kind == IouType::Segm {
                let size = *self.images.get(&image_id).ok_or(EvalError::UnknownAnnotationImage { annotation, image_id })?;
                let rle = match &entry.segmentation {
                    Some(segmentation) => segmentation.to_rle(size),
                    None => Rle::from_box(entry.bbox, size),
                };
                Some(runs(&rle.map_err(|problem| EvalError::Mask { annotation, problem })?))
            } else {
                None
            };
            expected.annotations.push(coco::Annotation {
                bbox: Some(entry.bbox),
                area: Some(entry.area),
                iscrowd: entry.crowd,
                segmentation,
                ..Self::annotation(index, image_id, entry.category_id)?
            });
        }
        Ok(expected)
    }

    /// The results. For masks, box and area are those of the mask.
    fn found(&self, results: &[ResultEntry]) -> Result<coco::Dataset, EvalError> {
        let mut found = self.base.clone();
        for (result, entry) in results.iter().enumerate() {
            let (bbox, area, segmentation) = if self.kind == IouType::Segm {
                let mask = entry.mask.as_ref().ok_or(EvalError::Missing { result, field: "segmentation" })?;
                (mask.bbox(), mask.area() as f64, Some(runs(mask)))
            } else {
                let bbox = entry.bbox.ok_or(EvalError::Missing { result, field: "bbox" })?;
                (bbox, bbox[2] * bbox[3], None)
            };
            let own = Self::annotation(result, entry.image_id, entry.category_id)?;
            found.annotations.push(coco::Annotation { bbox: Some(bbox), area: Some(area), score: Some(entry.score), segmentation, ..own });
        }
        Ok(found)
    }
}

fn runs(rle: &Rle) -> coco::Segmentation {
    let size = rle.size.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
    coco::Segmentation::UncompressedRle { size, counts: rle.counts.clone() }
}

/// Index of the area range that holds all objects.
const ALL: usize = 0;

impl EvalReport {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground_truth::{AnnotationEntry, CategoryEntry, ImageEntry};

    /// One image of 8x8 pixels with one object.
    fn truth() -> GroundTruth {
        let annotation = AnnotationEntry {
            id: 4,
            image_id: 2,
            category_id: 1,
            bbox: [1.0, 1.0, 4.0, 4.0],
            area: 16.0,
            crowd: false,
            segmentation: None,
        };
        GroundTruth {
            images: vec![ImageEntry { id: 2, file_name: "a.png".to_owned(), size: [8, 8] }],
            categories: vec![CategoryEntry { id: 1, name: "cat".to_owned() }],
            annotations: vec![annotation],
        }
    }

    fn result() -> ResultEntry {
        ResultEntry { image_id: 2, category_id: 1, bbox: Some([1.0, 1.0, 4.0, 4.0]), score: 0.9, mask: None }
    }

    #[test]
    fn a_perfect_detection_has_an_average_precision_of_1() {
        let report = evaluate(&truth(), &[result()], &EvalConfig::new(IouType::Bbox)).unwrap();
        // pycocotools adds an epsilon to the denominators of precision.
        assert!(report.stats[..2].iter().all(|ap| (ap - 1.0).abs() < 1e-12), "{:?}", report.stats);
    }

    #[test]
    fn a_result_that_cannot_be_evaluated_is_named_with_its_field() {
        let refused = |change: fn(&mut ResultEntry), kind| {
            let mut second = result();
            change(&mut second);
            evaluate(&truth(), &[result(), second], &EvalConfig::new(kind)).unwrap_err().to_string()
        };
        let boxes = IouType::Bbox;
        assert_eq!(refused(|r| r.image_id = 7, boxes), "result 1: image_id 7 is not among the images of the ground truth");
        assert_eq!(refused(|r| r.category_id = 7, boxes), "result 1: category_id 7 is not among the categories of the ground truth");
        assert_eq!(refused(|r| r.score = f64::NAN, boxes), "result 1: the score is not a finite number");
        assert_eq!(refused(|r| r.bbox = None, boxes), "result 1: `bbox` is missing");
        assert_eq!(refused(|_| (), IouType::Segm), "result 0: `segmentation` is missing");
    }

    #[test]
    fn an_invalid_ground_truth_names_the_annotation() {
        let refused = |change: fn(&mut GroundTruth)| {
            let mut truth = truth();
            change(&mut truth);
            evaluate(&truth, &[], &EvalConfig::new(IouType::Segm)).unwrap_err().to_string()
        };
        let polygon = vmamba_types::Segmentation::Polygons(vec![vec![1.0; 5]]);
        assert!(refused(|t| t.annotations[0].image_id = 3).contains("annotation 4 of the ground truth: image_id 3"));
        assert!(refused(|t| t.images[0].id = -2).contains("id -2 is negative"));
        let mut truth = truth();
        truth.annotations[0].segmentation = Some(polygon);
        let error = evaluate(&truth, &[], &EvalConfig::new(IouType::Segm)).unwrap_err().to_string();
        assert!(error.contains("annotation 4 of the ground truth: `segmentation`: polygon 0 has 5 numbers"), "{error}");
    }
}
