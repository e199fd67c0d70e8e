//! Matching of results with the ground truth (pycocotools' `COCOeval`).

use std::collections::{BTreeMap, BTreeSet};

use hotcoco::params::AreaRange;
use hotcoco::types as coco;
use hotcoco::{COCO, COCOeval};
use vmamba_types::Rle;

use super::annotation_zero;
use super::config::{EvalConfig, IouType};
use super::error::EvalError;
use super::report::EvalReport;
use super::results::ResultEntry;
use crate::ground_truth::GroundTruth;

/// Evaluates results against the ground truth.
///
/// # Errors
/// When a result lacks the box or mask that is compared, its image or category is not in the ground truth, or its score is not finite; for
/// masks, when an annotation has none. pycocotools stops there too, with `KeyError: 'segmentation'`, or with an `IndexError` for an empty list.
pub fn evaluate(truth: &GroundTruth, results: &[ResultEntry], config: &EvalConfig) -> Result<EvalReport, EvalError> {
    let input = Input::new(truth, config.iou_type)?;
    input.check(results)?;
    if config.iou_type == IouType::Segm
        && let Some(without) = truth.without_masks()
    {
        return Err(EvalError::NoMasks(without));
    }
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
    let zero = truth.annotations.iter().position(|annotation| annotation.id == 0).filter(|_| config.use_categories);
    let unmatched = zero.map(|index| -> Result<_, EvalError> {
        let mut arrays = arrays.clone();
        let zero = (Input::id(index), unsigned(truth.annotations[index].category_id)?);
        annotation_zero::count_as_unmatched(&engine, &mut arrays, zero, config, &limits);
        Ok(arrays)
    });
    let mut report = EvalReport::new(config.clone(), arrays, limits);
    if let Some(arrays) = unmatched.transpose()? {
        report.set_id_0_unmatched(arrays);
    }
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

    /// Ids start at 1, because pycocotools treats a match with annotation 0 as no match.
    fn id(index: usize) -> u64 {
        index as u64 + 1
    }

    fn annotation(index: usize, image_id: i64, category_id: i64) -> Result<coco::Annotation, EvalError> {
        Ok(coco::Annotation {
            id: Self::id(index),
            image_id: unsigned(image_id)?,
            category_id: unsigned(category_id)?,
            ..coco::Annotation::default()
        })
    }

    /// The ground truth.
    fn expected(&self, truth: &GroundTruth) -> Result<coco::Dataset, EvalError> {
        let mut expected = self.base.clone();
        for (index, entry) in truth.annotations.iter().enumerate() {
            let (annotation, image_id) = (entry.id, entry.image_id);
            let segmentation = if self.kind == IouType::Segm {
                let size = *self.images.get(&image_id).ok_or(EvalError::UnknownAnnotationImage { annotation, image_id })?;
                // An annotation of a category that is not evaluated may lack its mask.
                let rle = entry.segmentation.as_ref().map(|segmentation| segmentation.to_rle(size)).transpose();
                rle.map_err(|problem| EvalError::Mask { annotation, problem })?.as_ref().map(runs)
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
            let (mut truth, mut second) = (truth(), result());
            change(&mut second);
            let mask = vmamba_types::Segmentation::Polygons(vec![vec![1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]);
            truth.annotations[0].segmentation = Some(mask);
            evaluate(&truth, &[result(), second], &EvalConfig::new(kind)).unwrap_err().to_string()
        };
        let boxes = IouType::Bbox;
        assert_eq!(refused(|r| r.image_id = 7, boxes), "result 1: image_id 7 is not among the images of the ground truth");
        assert_eq!(refused(|r| r.category_id = 7, boxes), "result 1: category_id 7 is not among the categories of the ground truth");
        assert_eq!(refused(|r| r.score = f64::NAN, boxes), "result 1: the score is not a finite number");
        assert_eq!(refused(|r| r.bbox = None, boxes), "result 1: `bbox` is missing");
        assert_eq!(refused(|_| (), IouType::Segm), "result 0: `segmentation` is missing");
    }

    #[test]
    fn masks_are_not_compared_where_an_annotation_has_none() {
        let error = evaluate(&truth(), &[], &EvalConfig::new(IouType::Segm)).unwrap_err().to_string();
        assert_eq!(error, "1 of 1 annotations have no mask, first annotation 4, so that masks cannot be compared");
    }

    #[test]
    fn a_match_with_annotation_0_counts_and_the_figure_of_pycocotools_is_given() {
        let object = |id, index: i64| AnnotationEntry {
            id,
            image_id: 1 + index / 2,
            category_id: 1,
            bbox: [10.0 + 30.0 * (index % 2) as f64, 10.0, 20.0, 20.0],
            area: 400.0,
            crowd: false,
            segmentation: None,
        };
        let image = |id| ImageEntry { id, file_name: format!("{id}.png"), size: [64, 96] };
        let results: Vec<ResultEntry> = [(1, [10.0, 10.0], 0.9), (1, [41.0, 10.0], 0.8), (2, [10.0, 12.0], 0.7), (2, [40.0, 10.0], 0.6)]
            .map(|(image_id, [x, y], score)| ResultEntry { image_id, category_id: 1, bbox: Some([x, y, 20.0, 20.0]), score, mask: None })
            .to_vec();
        // pycocotools 2.0.10 gives the figures of the last column, and of the first row's without an annotation 0.
        for (ids, expected) in [
            ([1, 2, 3, 4], None),
            ([0, 1, 2, 3], Some([0.451_980_198_019_802, 0.564_356_435_643_564_4, 0.564_356_435_643_564_4])),
            ([1, 0, 2, 3], Some([0.554_455_445_544_554_5, 0.628_712_871_287_128_7, 0.628_712_871_287_128_7])),
            ([1, 2, 0, 3], Some([0.659_653_465_346_534_7, 0.690_594_059_405_940_6, 0.690_594_059_405_940_6])),
            ([1, 2, 3, 0], Some([0.653_465_346_534_653_5, 0.752_475_247_524_752_5, 0.752_475_247_524_752_5])),
        ] {
            let truth = GroundTruth {
                images: vec![image(1), image(2)],
                categories: vec![CategoryEntry::new(1, "a")],
                annotations: ids.iter().zip(0..).map(|(id, index)| object(*id, index)).collect(),
            };
            let report = evaluate(&truth, &results, &EvalConfig::new(IouType::Bbox)).unwrap();
            assert!((report.stats[0] - 0.876_237_623_762_376_2).abs() < 1e-12, "{ids:?}: {:?}", report.stats);
            let close = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
            match (report.with_id_0_unmatched, expected) {
                (Some(own), Some(expected)) => assert!(close(own, expected), "{ids:?}: {own:?}"),
                (own, expected) => assert_eq!(own, expected),
            }
        }
    }

    #[test]
    fn an_invalid_ground_truth_names_the_annotation() {
        let refused = |change: fn(&mut GroundTruth)| {
            let mut truth = truth();
            change(&mut truth);
            evaluate(&truth, &[], &EvalConfig::new(IouType::Bbox)).unwrap_err().to_string()
        };
        let polygon = vmamba_types::Segmentation::Polygons(vec![vec![1.0; 5]]);
        let mask = vmamba_types::Segmentation::Polygons(vec![vec![1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]);
        let masked = |mut truth: GroundTruth, image_id| {
            (truth.annotations[0].segmentation, truth.annotations[0].image_id) = (Some(mask.clone()), image_id);
            evaluate(&truth, &[], &EvalConfig::new(IouType::Segm)).unwrap_err().to_string()
        };
        assert!(masked(truth(), 3).contains("annotation 4 of the ground truth: image_id 3"));
        assert!(refused(|t| t.images[0].id = -2).contains("id -2 is negative"));
        let mut truth = truth();
        truth.annotations[0].segmentation = Some(polygon);
        let error = evaluate(&truth, &[], &EvalConfig::new(IouType::Segm)).unwrap_err().to_string();
        assert!(error.contains("annotation 4 of the ground truth: `segmentation`: polygon 0 has 5 numbers"), "{error}");
    }
}
