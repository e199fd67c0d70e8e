//! Detections as COCO results: what pycocotools' `loadRes` accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::annotations::{CocoError, GroundTruth, Problem, RawSegmentation, read_json, to_box};
use super::evaluator::IouType;
use crate::mask::{Rle, Segmentation};
use crate::sample::{DataError, Detection};

/// A detection in COCO's terms.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultEntry {
    /// The image it is on.
    pub image_id: i64,
    /// Its category.
    pub category_id: i64,
    /// `[x, y, width, height]` in pixels of the image.
    pub bbox: Option<[f64; 4]>,
    /// Probability.
    pub score: f64,
    /// Its pixels.
    pub mask: Option<Rle>,
}

/// Detections of images, by the number of the image, with the categories of the ground truth.
///
/// # Errors
/// When an image or class is not in the ground truth, or a score is no number.
pub fn to_results(truth: &GroundTruth, detections: &[(i64, Vec<Detection>)]) -> Result<Vec<ResultEntry>, Problem> {
    let known: BTreeSet<i64> = truth.images.iter().map(|image| image.id).collect();
    let mut results = Vec::new();
    for (image_id, own) in detections {
        if !known.contains(image_id) {
            return Err(Problem::UnknownImage(*image_id));
        }
        for found in own {
            let category = truth.categories.get(found.category).ok_or(Problem::UnknownCategory(found.category as i64))?;
            if !found.score.is_finite() {
                return Err(Problem::NotFinite("score"));
            }
            let [x0, y0, x1, y1] = found.bbox.map(f64::from);
            results.push(ResultEntry {
                image_id: *image_id,
                category_id: category.id,
                bbox: Some([x0, y0, x1 - x0, y1 - y0]),
                score: f64::from(found.score),
                mask: found.mask.clone(),
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

/// Writes results for one kind of evaluation. Those for masks carry no box, so that areas come from the masks, as mmdetection does it.
///
/// # Errors
/// When the file cannot be written.
pub fn write_results(path: &Path, results: &[ResultEntry], kind: IouType) -> Result<(), DataError> {
    let io = |error: std::io::Error| DataError::io(path, error);
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(io)?);
    file.write_all(b"[").map_err(io)?;
    for (index, entry) in results.iter().enumerate() {
        let counts = entry.mask.as_ref().map(Rle::to_compressed);
        let mask = entry.mask.as_ref().zip(counts.as_deref()).map(|(mask, counts)| WrittenMask { size: mask.size, counts });
        let (bbox, segmentation) = if kind == IouType::Segm { (None, mask) } else { (entry.bbox, None) };
        let line = Written { image_id: entry.image_id, category_id: entry.category_id, bbox, score: entry.score, segmentation };
        file.write_all(if index == 0 { b"\n" } else { b",\n" }).map_err(io)?;
        serde_json::to_writer(&mut file, &line).map_err(|error| io(error.into()))?;
    }
    file.write_all(b"\n]\n").and_then(|()| file.flush()).map_err(io)
}

#[derive(Deserialize)]
struct RawResult {
    image_id: Option<i64>,
    category_id: Option<i64>,
    bbox: Option<Vec<f64>>,
    score: Option<f64>,
    segmentation: Option<RawSegmentation>,
}

/// Reads results and checks them against the ground truth.
///
/// # Errors
/// When the file is no list of results, one lacks a field, or its image or category is not in the ground truth.
pub fn read_results(path: &Path, truth: &GroundTruth) -> Result<Vec<ResultEntry>, CocoError> {
    let raw: Vec<RawResult> = read_json(path)?;
    let images: BTreeMap<i64, [usize; 2]> = truth.images.iter().map(|image| (image.id, image.size)).collect();
    let categories: BTreeSet<i64> = truth.categories.iter().map(|category| category.id).collect();
    let check = |raw: RawResult| -> Result<ResultEntry, Problem> {
        let image_id = raw.image_id.ok_or(Problem::Missing("image_id"))?;
        let size = *images.get(&image_id).ok_or(Problem::UnknownImage(image_id))?;
        let category_id = raw.category_id.ok_or(Problem::Missing("category_id"))?;
        if !categories.contains(&category_id) {
            return Err(Problem::UnknownCategory(category_id));
        }
        let score = raw.score.ok_or(Problem::Missing("score"))?;
        if !score.is_finite() {
            return Err(Problem::NotFinite("score"));
        }
        let bbox = raw.bbox.as_deref().map(to_box).transpose()?;
        let mask = match raw.segmentation.map(RawSegmentation::into_segmentation).transpose()? {
            Some(Segmentation::Polygons(polygons)) if polygons.is_empty() => None,
            Some(segmentation) => {
                segmentation.validate(size)?;
                Some(segmentation.to_rle(size)?)
            }
            None => None,
        };
        if bbox.is_none() && mask.is_none() {
            return Err(Problem::NoGeometry);
        }
        Ok(ResultEntry { image_id, category_id, bbox, score, mask })
    };
    let located =
        |(index, raw)| check(raw).map_err(|problem| CocoError { path: path.to_owned(), place: format!("result {index}: "), problem });
    raw.into_iter().enumerate().map(located).collect()
}
