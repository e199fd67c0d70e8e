//! The one judge of annotation files: training refuses a file for its first problem, the check of a data set lists them all.

use std::collections::{HashMap, HashSet};

use vmamba_types::Segmentation;

use super::entry::{RawBox, RawEntry, Scalar};
use crate::error::AnnotationProblem;
use crate::ground_truth::{AnnotationEntry, CategoryEntry, ImageEntry};

/// The judge, with what it has seen of the file. Images and categories come before annotations, wherever they stand in the file.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    /// `[height, width]` by id.
    sizes: HashMap<i64, [usize; 2]>,
    categories: HashSet<i64>,
    annotations: HashSet<i64>,
}

/// An annotation with all that is readable of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Judged {
    pub(crate) id: Option<i64>,
    /// An id of the list `images`.
    pub(crate) image_id: Option<i64>,
    /// An id of the list `categories`.
    pub(crate) category_id: Option<i64>,
    pub(crate) bbox: Option<[f64; 4]>,
    pub(crate) area: Option<f64>,
    pub(crate) crowd: bool,
    pub(crate) segmentation: Option<Segmentation>,
    /// Whether there is a mask, valid or not.
    pub(crate) has_mask: bool,
}

impl Judged {
    /// The annotation; `None` when something is missing.
    pub(crate) fn entry(self) -> Option<AnnotationEntry> {
        Some(AnnotationEntry {
            id: self.id?,
            image_id: self.image_id?,
            category_id: self.category_id?,
            bbox: self.bbox?,
            area: self.area?,
            crowd: self.crowd,
            segmentation: self.segmentation,
        })
    }
}

type Problems = Vec<AnnotationProblem>;

impl Judge {
    /// `[height, width]` of an image.
    pub(crate) fn size(&self, image_id: i64) -> Option<[usize; 2]> {
        self.sizes.get(&image_id).copied()
    }

    /// Judges an image. The entry is there whenever its id is readable and new; missing texts are empty and missing sizes 0.
    pub(super) fn image(&mut self, entry: RawEntry, problems: &mut Problems) -> Option<ImageEntry> {
        if !is_object(&entry, problems) {
            return None;
        }
        let id = id(&entry.id, problems);
        let mut side = |value: &Scalar, field| {
            let side = whole(value, field, problems).unwrap_or_default();
            usize::try_from(side).unwrap_or_default()
        };
        let size = [side(&entry.height, "height"), side(&entry.width, "width")];
        if size.contains(&0)
            && !entry.height.is_missing()
            && !entry.width.is_missing()
            && entry.height.whole().zip(entry.width.whole()).is_some()
        {
            problems.push(AnnotationProblem::Size(size));
        }
        let file_name = text(entry.file_name, "file_name", problems);
        let id = id?;
        if self.sizes.contains_key(&id) {
            problems.push(AnnotationProblem::DuplicateId(id));
            return None;
        }
        self.sizes.insert(id, size);
        Some(ImageEntry { id, file_name, size })
    }

    /// Judges a category. The entry is there whenever its id is readable and new.
    pub(super) fn category(&mut self, entry: RawEntry, problems: &mut Problems) -> Option<CategoryEntry> {
        if !is_object(&entry, problems) {
            return None;
        }
        let id = id(&entry.id, problems);
        let name = text(entry.name, "name", problems);
        let id = id?;
        if !self.categories.insert(id) {
            problems.push(AnnotationProblem::DuplicateId(id));
            return None;
        }
        let supercategory = match entry.supercategory {
            Scalar::Text(text) => Some(text),
            _ => None,
        };
        Some(CategoryEntry { id, name, supercategory })
    }

    /// Judges an annotation; all images and categories have been judged.
    pub(super) fn annotation(&mut self, entry: RawEntry, problems: &mut Problems) -> Judged {
        if !is_object(&entry, problems) {
            return Judged::default();
        }
        let id = id(&entry.id, problems);
        if let Some(id) = id.filter(|id| !self.annotations.insert(*id)) {
            problems.push(AnnotationProblem::DuplicateId(id));
        }
        let known = |id: Option<i64>, known: bool, problem: fn(i64) -> AnnotationProblem, problems: &mut Problems| {
            problems.extend(id.filter(|_| !known).map(problem));
            id.filter(|_| known)
        };
        let image_id = required(&entry.image_id, "image_id", problems);
        let image_id = known(image_id, image_id.is_some_and(|id| self.sizes.contains_key(&id)), AnnotationProblem::UnknownImage, problems);
        let category_id = required(&entry.category_id, "category_id", problems);
        let is_known = category_id.is_some_and(|id| self.categories.contains(&id));
        let category_id = known(category_id, is_known, AnnotationProblem::UnknownCategory, problems);
        let bbox = bounding_box(&entry.bbox, problems);
        if entry.bbox == RawBox::Missing {
            problems.push(AnnotationProblem::Missing("bbox"));
        }
        let crowd = flag(&entry.iscrowd, problems);
        let size = image_id.and_then(|id| self.size(id)).filter(|size| !size.contains(&0));
        let before = problems.len();
        let segmentation = entry.segmentation.read().unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        if let Some((segmentation, size)) = segmentation.as_ref().zip(size) {
            problems.extend(mask_problem(segmentation, size, crowd));
        }
        let broken = problems.len() > before;
        let area = area(&entry.area, segmentation.as_ref().filter(|_| !broken).zip(size), bbox, problems);
        let has_mask = broken || segmentation.is_some();
        Judged { id, image_id, category_id, bbox, area, crowd, segmentation: segmentation.filter(|_| !broken), has_mask }
    }
}

/// Whether the entry is an object without doubled keys.
pub(super) fn is_object(entry: &RawEntry, problems: &mut Problems) -> bool {
    if let Some(found) = &entry.not_an_object {
        problems.push(AnnotationProblem::Entry(found.clone()));
    }
    problems.extend(entry.doubled.map(AnnotationProblem::DoubledKey));
    entry.not_an_object.is_none()
}

/// A whole number; a missing one is a problem.
pub(super) fn required(value: &Scalar, field: &'static str, problems: &mut Problems) -> Option<i64> {
    if value.is_missing() {
        problems.push(AnnotationProblem::Missing(field));
        return None;
    }
    let number = value.whole();
    if number.is_none() {
        problems.push(AnnotationProblem::Type { field, found: value.describe(), expected: "a whole number" });
    }
    number
}

/// The id of an entry, at least 0.
fn id(value: &Scalar, problems: &mut Problems) -> Option<i64> {
    let id = required(value, "id", problems);
    problems.extend(id.filter(|id| *id < 0).map(AnnotationProblem::NegativeId));
    id
}

/// A whole number of at least 0.
fn whole(value: &Scalar, field: &'static str, problems: &mut Problems) -> Option<i64> {
    let number = required(value, field, problems)?;
    if number < 0 {
        problems.push(AnnotationProblem::Type { field, found: value.describe(), expected: "at least 1" });
    }
    Some(number)
}

/// A text that is not empty.
fn text(value: Scalar, field: &'static str, problems: &mut Problems) -> String {
    match value {
        Scalar::Text(text) if text.trim().is_empty() => problems.push(AnnotationProblem::Empty(field)),
        Scalar::Text(text) => return text,
        value if value.is_missing() => problems.push(AnnotationProblem::Missing(field)),
        value => problems.push(AnnotationProblem::Type { field, found: value.describe(), expected: "text" }),
    }
    String::new()
}

/// Four finite numbers; `None` with a problem, or because there is no box.
pub(super) fn bounding_box(value: &RawBox, problems: &mut Problems) -> Option<[f64; 4]> {
    match value {
        RawBox::Missing => None,
        RawBox::Numbers(bbox, 4) if bbox.iter().all(|side| side.is_finite()) => Some(*bbox),
        RawBox::Numbers(_, 4) => {
            problems.push(AnnotationProblem::NotFinite("bbox"));
            None
        }
        RawBox::Numbers(_, count) => {
            problems.push(AnnotationProblem::Box(*count));
            None
        }
        RawBox::Other(found) => {
            let expected = "four numbers: x, y, width, height";
            problems.push(AnnotationProblem::Type { field: "bbox", found: found.clone(), expected });
            None
        }
    }
}

/// `iscrowd`: 0 or 1, false or true. pycocotools and mmdetection ask Python whether the value is true, so null is no crowd there, and neither
/// here; but a text, even "0", is true in Python, and therefore refused.
fn flag(value: &Scalar, problems: &mut Problems) -> bool {
    match value {
        Scalar::Bool(flag) => *flag,
        value if value.is_missing() => false,
        value => match value.number() {
            Some(0.0) => false,
            Some(1.0) => true,
            _ => {
                problems.push(AnnotationProblem::Type { field: "iscrowd", found: value.describe(), expected: "0 or 1" });
                false
            }
        },
    }
}

/// What is wrong with a readable mask of an image.
fn mask_problem(segmentation: &Segmentation, size: [usize; 2], crowd: bool) -> Option<AnnotationProblem> {
    if let Err(error) = segmentation.validate(size) {
        return Some(error.into());
    }
    let Segmentation::Polygons(polygons) = segmentation else { return None };
    // Polygons around or across the image are clipped to it when they become pixels; beside it, there is nothing to clip.
    let [x0, y0, x1, y1] = extent(polygons);
    let beside = x0 > size[1] as f64 || y0 > size[0] as f64 || x1 < 0.0 || y1 < 0.0;
    (beside && !crowd).then_some(AnnotationProblem::Outside(size))
}

/// The tight box `[x0, y0, x1, y1]` around the points of polygons.
pub(crate) fn extent(polygons: &[Vec<f64>]) -> [f64; 4] {
    let points = polygons.iter().flat_map(|polygon| polygon.as_chunks::<2>().0);
    let empty = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
    points.fold(empty, |e, [x, y]| [e[0].min(*x), e[1].min(*y), e[2].max(*x), e[3].max(*y)])
}

/// The annotated area; where there is none, pycocotools' area of the mask, or else the area of the box.
fn area(value: &Scalar, mask: Option<(&Segmentation, [usize; 2])>, bbox: Option<[f64; 4]>, problems: &mut Problems) -> Option<f64> {
    if value.is_missing() {
        return match mask {
            Some((mask, size)) => mask.to_rle(size).map_err(|error| problems.push(error.into())).ok().map(|rle| rle.area() as f64),
            None => bbox.map(|bbox| bbox[2] * bbox[3]),
        };
    }
    let area = value.number();
    match area {
        Some(area) if !area.is_finite() => problems.push(AnnotationProblem::NotFinite("area")),
        Some(_) => (),
        None => problems.push(AnnotationProblem::Type { field: "area", found: value.describe(), expected: "a number" }),
    }
    area.filter(|area| area.is_finite())
}
