//! Matching of results with the ground truth (pycocotools' `COCOeval`).

use std::collections::{BTreeMap, BTreeSet};

use hotcoco::params::AreaRange;
use hotcoco::types as coco;
use hotcoco::{COCO, COCOeval};
use vmamba_types::Rle;

use super::config::{EvalConfig, IouType};
use super::error::EvalError;
use super::report::EvalReport;
use super::results::ResultEntry;
use crate::ground_truth::GroundTruth;

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
    Ok(EvalReport::new(config.clone(), arrays, limits))
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
            // Sorted by id, like the categories of the result arrays.
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
            // Ids start at 1, because pycocotools treats a match with annotation 0 as no match.
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

    /// The results. For masks, box and area are computed from the mask.
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
            categories: vec![CategoryEntry::new(1, "cat")],
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
