//! Detections as COCO results, the form that pycocotools' `loadRes` reads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use vmamba_types::{Detection, Rle, Segmentation};

use super::annotations::{RawSegmentation, read_json, to_box};
use super::config::IouType;
use super::error::EvalError;
use crate::error::{AnnotationProblem, DataError};
use crate::files::write_whole;
use crate::ground_truth::GroundTruth;

/// A detection in COCO's terms.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultEntry {
    /// Id of the image.
    pub image_id: i64,
    /// Id of the category.
    pub category_id: i64,
    /// `[x, y, width, height]` in pixels of the image.
    pub bbox: Option<[f64; 4]>,
    /// Probability, 0 to 1.
    pub score: f64,
    /// The mask.
    pub mask: Option<Rle>,
}

/// Converts detections, which come with the id of their image, to results: class index `k` becomes the id of the `k`-th category of the
/// ground truth.
///
/// # Errors
/// When an image id or a class index is not in the ground truth, or a score is not finite.
pub fn to_results(truth: &GroundTruth, detections: &[(i64, Vec<Detection>)]) -> Result<Vec<ResultEntry>, EvalError> {
    let known: BTreeSet<i64> = truth.images.iter().map(|image| image.id).collect();
    let mut results = Vec::new();
    for (image_id, found) in detections {
        for detection in found {
            let result = results.len();
            if !known.contains(image_id) {
                return Err(EvalError::UnknownImage { result, image_id: *image_id });
            }
            let classes = truth.categories.len();
            let category = truth.categories.get(detection.category);
            let category = category.ok_or(EvalError::UnknownClass { result, class: detection.category, classes })?;
            if !detection.score.is_finite() {
                return Err(EvalError::Score { result });
            }
            let [x0, y0, x1, y1] = detection.bbox.map(f64::from);
            results.push(ResultEntry {
                image_id: *image_id,
                category_id: category.id,
                bbox: Some([x0, y0, x1 - x0, y1 - y0]),
                score: f64::from(detection.score),
                mask: detection.mask.clone(),
            });
        }
    }
    Ok(results)
}

#[derive(Serialize)]
struct WrittenMask<'a> {
    size: [usize; 2],
    counts: &'a str,
}

#[derive(Serialize)]
struct Written<'a> {
    image_id: i64,
    category_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bbox: Option<[f64; 4]>,
    score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    segmentation: Option<WrittenMask<'a>>,
}

/// Writes the results for one kind of evaluation atomically. As in mmdetection, results for masks carry no box, so that pycocotools takes
/// the areas from the masks.
///
/// # Errors
/// When the file cannot be written.
pub fn write_results(path: &Path, results: &[ResultEntry], kind: IouType) -> Result<(), DataError> {
    write_whole(path, |file| {
        file.write_all(b"[")?;
        for (index, entry) in results.iter().enumerate() {
            let counts = entry.mask.as_ref().map(Rle::to_compressed);
            let mask = entry.mask.as_ref().zip(counts.as_deref()).map(|(mask, counts)| WrittenMask { size: mask.size, counts });
            let (bbox, segmentation) = if kind == IouType::Segm { (None, mask) } else { (entry.bbox, None) };
            let line = Written { image_id: entry.image_id, category_id: entry.category_id, bbox, score: entry.score, segmentation };
            file.write_all(if index == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut *file, &line)?;
        }
        file.write_all(b"\n]\n")
    })
}

#[derive(Deserialize)]
struct RawResult {
    image_id: Option<i64>,
    category_id: Option<i64>,
    bbox: Option<Vec<f64>>,
    score: Option<f64>,
    segmentation: Option<RawSegmentation>,
}

/// Reads a result file and checks it against the ground truth.
///
/// # Errors
/// When the file is not a list of results, a result lacks a field, or its image or category is not in the ground truth.
pub fn read_results(path: &Path, truth: &GroundTruth) -> Result<Vec<ResultEntry>, DataError> {
    let raw: Vec<RawResult> = read_json(path)?;
    let images: BTreeMap<i64, [usize; 2]> = truth.images.iter().map(|image| (image.id, image.size)).collect();
    let categories: BTreeSet<i64> = truth.categories.iter().map(|category| category.id).collect();
    let check = |(index, raw): (usize, RawResult)| {
        raw.check(&images, &categories).map_err(|problem| DataError::annotation(path, format!("result {index}"), problem))
    };
    raw.into_iter().enumerate().map(check).collect()
}

impl RawResult {
    fn check(self, images: &BTreeMap<i64, [usize; 2]>, categories: &BTreeSet<i64>) -> Result<ResultEntry, AnnotationProblem> {
        let image_id = self.image_id.ok_or(AnnotationProblem::Missing("image_id"))?;
        let size = *images.get(&image_id).ok_or(AnnotationProblem::UnknownImage(image_id))?;
        let category_id = self.category_id.ok_or(AnnotationProblem::Missing("category_id"))?;
        if !categories.contains(&category_id) {
            return Err(AnnotationProblem::UnknownCategory(category_id));
        }
        let score = self.score.ok_or(AnnotationProblem::Missing("score"))?;
        if !score.is_finite() {
            return Err(AnnotationProblem::NotFinite("score"));
        }
        let bbox = self.bbox.as_deref().map(to_box).transpose()?;
        let mask = match self.segmentation.map(RawSegmentation::into_segmentation).transpose()? {
            Some(Segmentation::Polygons(polygons)) if polygons.is_empty() => None,
            Some(segmentation) => Some(segmentation.to_rle(size)?),
            None => None,
        };
        if bbox.is_none() && mask.is_none() {
            return Err(AnnotationProblem::NoGeometry);
        }
        Ok(ResultEntry { image_id, category_id, bbox, score, mask })
    }
}
