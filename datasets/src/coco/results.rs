//! Detections as COCO results, the form that pycocotools' `loadRes` reads.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;
use vmamba_types::{Detection, Rle};

use super::config::IouType;
use super::entry::RawEntry;
use super::error::EvalError;
use super::judge::{bounding_box, is_object, required};
use super::scan::Place;
use super::stream::stream_results;
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

/// Reads a result file and checks it against the ground truth.
///
/// # Errors
/// When the file is not a list of results, a result lacks a field, or its image or category is not in the ground truth.
pub fn read_results(path: &Path, truth: &GroundTruth) -> Result<Vec<ResultEntry>, DataError> {
    let images: HashMap<i64, [usize; 2]> = truth.images.iter().map(|image| (image.id, image.size)).collect();
    let categories: BTreeSet<i64> = truth.categories.iter().map(|category| category.id).collect();
    let mut results = Vec::new();
    stream_results(path, |list, index, entry| {
        let place = Place::of(list, index, &entry);
        match check(entry, &images, &categories) {
            Ok(result) => results.push(result),
            Err(problem) => return ControlFlow::Break(DataError::annotation(path, place.to_string(), problem)),
        }
        ControlFlow::Continue(())
    })?;
    Ok(results)
}

fn check(entry: RawEntry, images: &HashMap<i64, [usize; 2]>, categories: &BTreeSet<i64>) -> Result<ResultEntry, AnnotationProblem> {
    let mut problems = Vec::new();
    is_object(&entry, &mut problems);
    let image_id = required(&entry.image_id, "image_id", &mut problems);
    let category_id = required(&entry.category_id, "category_id", &mut problems);
    let bbox = bounding_box(&entry.bbox, &mut problems);
    let first = problems.into_iter().next();
    let (Some(image_id), Some(category_id), None) = (image_id, category_id, &first) else {
        return Err(first.unwrap_or(AnnotationProblem::NoGeometry));
    };
    let size = *images.get(&image_id).ok_or(AnnotationProblem::UnknownImage(image_id))?;
    if !categories.contains(&category_id) {
        return Err(AnnotationProblem::UnknownCategory(category_id));
    }
    if entry.score.is_missing() {
        return Err(AnnotationProblem::Missing("score"));
    }
    let wrong = || AnnotationProblem::Type { field: "score", found: entry.score.describe(), expected: "a number" };
    let score = entry.score.number().ok_or_else(wrong)?;
    if !score.is_finite() {
        return Err(AnnotationProblem::NotFinite("score"));
    }
    let mask = entry.segmentation.read()?.map(|segmentation| segmentation.to_rle(size)).transpose()?;
    if bbox.is_none() && mask.is_none() {
        return Err(AnnotationProblem::NoGeometry);
    }
    Ok(ResultEntry { image_id, category_id, bbox, score, mask })
}
