//! Looks at COCO annotations before training does: every annotation leniently, so that all problems are told at once, and every image file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use serde_json::Value;
use vmamba_types::{Rle, Segmentation};

use super::scan::fingerprint;
use super::{CheckError, Finding, FindingKind, Severity};
use crate::image_io;

/// How many examples a finding names.
const EXAMPLES: usize = 5;
/// Images below this on a side are left out of training.
const TINY: usize = 32;
/// COCO's bounds between small, medium and large objects, in pixels of area.
const AREAS: [f64; 2] = [32.0 * 32.0, 96.0 * 96.0];
/// A box and the extent of its mask that overlap less than this do not belong together.
const SAME_BOX: f64 = 0.8;

/// What the annotations are meant for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectCheckOptions {
    /// Number of classes of the model, where it is known.
    pub num_classes: Option<usize>,
}

/// How often a category occurs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CategoryCount {
    /// Its number in the file.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Annotations, crowds included.
    pub annotations: usize,
    /// Images with at least one.
    pub images: usize,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObjectReport {
    /// The annotation file.
    pub annotations_file: PathBuf,
    /// Images, and those without annotation.
    pub images: usize,
    /// Images without annotation.
    pub empty_images: usize,
    /// Annotations, crowds included.
    pub annotations: usize,
    /// Crowds.
    pub crowds: usize,
    /// Annotations without mask.
    pub without_mask: usize,
    /// Small, medium and large objects by COCO's bounds, crowds left out.
    pub sizes: [usize; 3],
    /// Fewest, median and most objects of an image.
    pub per_image: [usize; 3],
    /// In the order of the file.
    pub categories: Vec<CategoryCount>,
    /// Boxes `[x0, y0, x1, y1]` of the objects with the `[height, width]` of their image, for further checks.
    #[serde(skip)]
    pub boxes: Vec<([f64; 4], [usize; 2])>,
    /// The worst first.
    pub findings: Vec<Finding>,
}

impl ObjectReport {
    /// Number of findings of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|f| f.severity == severity).count()
    }

    /// Whether training may start: no error, and under `strict` no warning either.
    pub fn passes(&self, strict: bool) -> bool {
        let limit = if strict { Severity::Warning } else { Severity::Error };
        self.findings.iter().all(|f| f.severity < limit)
    }

    /// Adds a finding in its place.
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
        self.findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    }
}

/// Problems by kind, collected one by one.
#[derive(Default)]
struct Problems(BTreeMap<usize, (Rule, Vec<String>)>);

/// A kind of problem and what to say about it.
#[derive(Clone, Copy)]
struct Rule {
    order: usize,
    severity: Severity,
    kind: FindingKind,
    message: &'static str,
    remedy: &'static str,
}

macro_rules! rules {
    ($($name:ident = $order:literal $severity:ident $kind:ident $message:literal $remedy:literal;)+) => {
        $(const $name: Rule = Rule { order: $order, severity: Severity::$severity, kind: FindingKind::$kind, message: $message, remedy: $remedy };)+
    };
}

rules! {
    MISSING_FIELD = 0 Error MissingField "entries lack a field or have one of the wrong type" "add it; training refuses the file";
    DUPLICATE_ID = 1 Error DuplicateId "ids occur more than once" "number images, categories and annotations anew";
    UNKNOWN_IMAGE = 2 Error UnknownImage "annotations belong to an image that is not in the list" "remove them, or add the images";
    UNKNOWN_CATEGORY = 3 Error UnknownCategory "annotations have a category that is not in the list" "add the categories";
    BAD_BOX = 4 Error BadBox "boxes are not four finite numbers" "write x, y, width, height in pixels";
    CORNERS = 5 Error CornerBoxes "boxes look like corners (x0, y0, x1, y1), not like x, y, width, height"
        "subtract the first corner from the second";
    BAD_POLYGON = 6 Error BadPolygon "polygons have an odd number of coordinates, fewer than three points, or coordinates that are no numbers"
        "mend or remove them; training refuses the file";
    BAD_RLE = 7 Error BadRle "run-length encoded masks do not cover their image" "encode them for the size of the image, [height, width]";
    OUTSIDE_POLYGON = 8 Error PolygonOutside "masks lie outside their image altogether" "check whether image and annotation belong together";
    MISSING_FILE = 9 Error MissingImageFile "image files are missing" "check the folder and `file_name`";
    UNREADABLE = 10 Error UnreadableImage "image files cannot be read" "replace them";
    FILE_SIZE = 11 Error SizeMismatch "image files have another size than the annotations say"
        "annotate the files as they are; beware of rotated photos (EXIF) and of resized copies";
    DEGENERATE = 12 Warning DegenerateBox "boxes are narrower than a pixel or have no area" "training leaves them out; evaluation counts them as missed";
    OUTSIDE_BOX = 13 Warning BoxOutsideImage "boxes reach more than a pixel beyond their image" "training clips them";
    OUTSIDE_WHOLLY = 14 Error BoxOutsideImage "boxes lie outside their image altogether" "check whether image and annotation belong together";
    MASK_DIFFERS = 15 Warning BoxMaskMismatch "boxes are not those around their masks" "recompute the boxes from the masks";
    NO_MASK = 16 Warning NoMask "annotations have no mask" "the mask head learns nothing from them";
    SIZE_ZERO = 17 Error SizeMismatch "images have no size" "write their height and width";
    TINY_IMAGE = 18 Warning TinyImage "images are smaller than 32 pixels on a side" "training leaves them out";
    SAME_CONTENT = 19 Warning DuplicateInSplit "image files have the same content as another" "keep one of each";
    UNUSED = 20 Warning ClassNeverPresent "categories have no annotation" "the model cannot learn them; AP leaves them out";
    SAME_NAME = 21 Warning DuplicateClassName "category names occur more than once" "rename or join them";
}

impl Problems {
    fn add(&mut self, rule: Rule, example: impl Into<String>) {
        self.0.entry(rule.order).or_insert_with(|| (rule, Vec::new())).1.push(example.into());
    }

    fn into_findings(self) -> Vec<Finding> {
        let finding = |(rule, examples): (Rule, Vec<String>)| Finding {
            severity: rule.severity,
            kind: rule.kind,
            split: None,
            count: examples.len(),
            message: format!("{} {}", examples.len(), rule.message),
            remedy: rule.remedy.to_owned(),
            examples: examples.into_iter().take(EXAMPLES).collect(),
        };
        self.0.into_values().map(finding).collect()
    }
}

/// An image of the file.
struct Image {
    name: String,
    size: [usize; 2],
    objects: usize,
}

/// Checks an annotation file and the images in `folder` that belong to it.
///
/// # Errors
/// Only when the file cannot be read, is no JSON, or is no COCO annotations at all. Everything wrong inside is a finding.
pub fn check_coco(file: &Path, folder: &Path, options: &ObjectCheckOptions) -> Result<ObjectReport, CheckError> {
    let text = std::fs::read(file).map_err(|reason| CheckError::List { path: file.to_owned(), reason })?;
    let document: Value = serde_json::from_slice(&text)
        .map_err(|error| CheckError::NotCoco { path: file.to_owned(), message: format!("is no JSON: {error}") })?;
    let list = |name: &str| {
        let message = || format!("has no list `{name}`; COCO annotations have `images`, `annotations` and `categories`");
        document[name].as_array().ok_or_else(|| CheckError::NotCoco { path: file.to_owned(), message: message() })
    };
    let mut problems = Problems::default();
    let mut categories = read_categories(list("categories")?, &mut problems);
    let mut images = read_images(list("images")?, &mut problems);
    let annotations = list("annotations")?;

    let mut report = ObjectReport {
        annotations_file: file.to_owned(),
        images: images.len(),
        empty_images: 0,
        annotations: annotations.len(),
        crowds: 0,
        without_mask: 0,
        sizes: [0; 3],
        per_image: [0; 3],
        categories: Vec::new(),
        boxes: Vec::new(),
        findings: Vec::new(),
    };
    let mut seen: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    let mut corners = Corners::default();
    for (index, annotation) in annotations.iter().enumerate() {
        let place = annotation["id"].as_i64().map_or_else(|| format!("annotations[{index}]"), |id| format!("annotation {id}"));
        match annotation["id"].as_i64() {
            Some(id) if !ids.insert(id) => problems.add(DUPLICATE_ID, place.clone()),
            None => problems.add(MISSING_FIELD, format!("{place}: id")),
            Some(_) => (),
        }
        let category = annotation["category_id"].as_i64();
        match category {
            None => problems.add(MISSING_FIELD, format!("{place}: category_id")),
            Some(id) => match categories.get_mut(&id) {
                None => problems.add(UNKNOWN_CATEGORY, format!("{place}: category {id}")),
                Some(count) => count.annotations += 1,
            },
        }
        let Some(image_id) = annotation["image_id"].as_i64() else {
            problems.add(MISSING_FIELD, format!("{place}: image_id"));
            continue;
        };
        let Some(image) = images.get_mut(&image_id) else {
            problems.add(UNKNOWN_IMAGE, format!("{place}: image {image_id}"));
            continue;
        };
        if let Some(id) = category {
            seen.entry(id).or_default().insert(image_id);
        }
        let crowd = annotation["iscrowd"].as_bool().unwrap_or_else(|| annotation["iscrowd"].as_f64().unwrap_or(0.0) != 0.0);
        report.crowds += usize::from(crowd);
        image.objects += usize::from(!crowd);
        let extent = mask_extent(&annotation["segmentation"], image.size, &place, crowd, &mut problems);
        report.without_mask += usize::from(extent.is_none());
        let Some(bbox) = read_box(&annotation["bbox"]) else {
            problems.add(BAD_BOX, place);
            continue;
        };
        let [height, width] = image.size.map(|side| side as f64);
        let [x, y, w, h] = bbox;
        corners.count(bbox, extent.flatten(), [width, height], &place);
        if w < 1.0 || h < 1.0 {
            problems.add(DEGENERATE, format!("{place}: {w} x {h}"));
        } else if x >= width || y >= height || x + w <= 0.0 || y + h <= 0.0 {
            problems.add(OUTSIDE_WHOLLY, place.clone());
        } else if x < -1.0 || y < -1.0 || x + w > width + 1.0 || y + h > height + 1.0 {
            problems.add(OUTSIDE_BOX, place.clone());
        }
        if let Some(Some(extent)) = extent
            && !crowd
            && overlap([x, y, x + w, y + h], extent) < SAME_BOX
        {
            // A pixel more or less is much of a small object.
            let close = [x, y, x + w, y + h].iter().zip(extent).all(|(a, b)| (a - b).abs() <= 2.0);
            if !close {
                problems.add(MASK_DIFFERS, place.clone());
            }
        }
        if !crowd && w >= 1.0 && h >= 1.0 {
            let area = annotation["area"].as_f64().unwrap_or(w * h);
            report.sizes[AREAS.iter().filter(|limit| area >= **limit).count()] += 1;
            report.boxes.push(([x, y, x + w, y + h], image.size));
        }
    }
    if corners.is_convincing() {
        // The other complaints about boxes follow from this one.
        for rule in [DEGENERATE, OUTSIDE_BOX, OUTSIDE_WHOLLY, MASK_DIFFERS] {
            problems.0.remove(&rule.order);
        }
        corners.examples.into_iter().for_each(|example| problems.add(CORNERS, example));
    }
    if report.without_mask > 0 {
        problems.0.insert(NO_MASK.order, (NO_MASK, vec![String::new(); report.without_mask]));
    }

    report.empty_images = images.values().filter(|image| image.objects == 0).count();
    let mut counts: Vec<usize> = images.values().map(|image| image.objects).collect();
    counts.sort_unstable();
    if let (Some(first), Some(last)) = (counts.first(), counts.last()) {
        report.per_image = [*first, counts[counts.len() / 2], *last];
    }
    for (id, count) in &mut categories {
        count.images = seen.get(id).map_or(0, BTreeSet::len);
        if count.annotations == 0 {
            problems.add(UNUSED, count.name.clone());
        }
    }
    report.categories = list("categories")?.iter().filter_map(|c| categories.get(&c["id"].as_i64()?).cloned()).collect();
    check_files(folder, &images, &mut problems);

    let mut findings = problems.into_findings();
    findings.iter_mut().for_each(|finding| finding.examples.retain(|example| !example.is_empty()));
    whole(&report, options, &mut findings);
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    report.findings = findings;
    Ok(report)
}

fn read_categories(list: &[Value], problems: &mut Problems) -> BTreeMap<i64, CategoryCount> {
    let mut categories = BTreeMap::new();
    let mut names = BTreeSet::new();
    for (index, category) in list.iter().enumerate() {
        let Some(id) = category["id"].as_i64() else {
            problems.add(MISSING_FIELD, format!("categories[{index}]: id"));
            continue;
        };
        let name = category["name"].as_str().map_or_else(
            || {
                problems.add(MISSING_FIELD, format!("category {id}: name"));
                format!("category {id}")
            },
            str::to_owned,
        );
        if !names.insert(name.clone()) {
            problems.add(SAME_NAME, name.clone());
        }
        if categories.insert(id, CategoryCount { id, name, annotations: 0, images: 0 }).is_some() {
            problems.add(DUPLICATE_ID, format!("category {id}"));
        }
    }
    categories
}

fn read_images(list: &[Value], problems: &mut Problems) -> BTreeMap<i64, Image> {
    let mut images = BTreeMap::new();
    for (index, image) in list.iter().enumerate() {
        let Some(id) = image["id"].as_i64() else {
            problems.add(MISSING_FIELD, format!("images[{index}]: id"));
            continue;
        };
        let mut side = |field: &str| {
            image[field].as_u64().map_or_else(
                || {
                    problems.add(MISSING_FIELD, format!("image {id}: {field}"));
                    0
                },
                |side| side as usize,
            )
        };
        let size = [side("height"), side("width")];
        let name = image["file_name"].as_str().map_or_else(String::new, str::to_owned);
        if name.is_empty() {
            problems.add(MISSING_FIELD, format!("image {id}: file_name"));
        }
        if size.contains(&0) {
            problems.add(SIZE_ZERO, format!("image {id}"));
        } else if size.iter().any(|side| *side < TINY) {
            problems.add(TINY_IMAGE, name.clone());
        }
        if images.insert(id, Image { name, size, objects: 0 }).is_some() {
            problems.add(DUPLICATE_ID, format!("image {id}"));
        }
    }
    images
}

fn read_box(value: &Value) -> Option<[f64; 4]> {
    let numbers: Vec<f64> = value.as_array()?.iter().map(Value::as_f64).collect::<Option<_>>()?;
    <[f64; 4]>::try_from(numbers).ok().filter(|bbox| bbox.iter().all(|side| side.is_finite()))
}

/// The box `[x0, y0, x1, y1]` around a mask; none without a mask, nothing inside for one that is broken.
#[expect(clippy::option_option, reason = "no mask and a broken mask are two things")]
fn mask_extent(value: &Value, size: [usize; 2], place: &str, crowd: bool, problems: &mut Problems) -> Option<Option<[f64; 4]>> {
    match value {
        Value::Null => None,
        Value::Array(polygons) if polygons.is_empty() => None,
        Value::Array(polygons) => {
            let read = |polygon: &Value| polygon.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
            let Some(polygons) = polygons.iter().map(read).collect::<Option<Vec<_>>>() else {
                problems.add(BAD_POLYGON, place);
                return Some(None);
            };
            if let Err(error) = Segmentation::Polygons(polygons.clone()).validate(size) {
                problems.add(BAD_POLYGON, format!("{place}: {error}"));
                return Some(None);
            }
            let points = || polygons.iter().flat_map(|polygon| polygon.as_chunks::<2>().0);
            let extent = points().fold([f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY], |e, p| {
                [e[0].min(p[0]), e[1].min(p[1]), e[2].max(p[0]), e[3].max(p[1])]
            });
            let [height, width] = size.map(|side| side as f64);
            if (extent[0] > width || extent[1] > height || extent[2] < 0.0 || extent[3] < 0.0) && !crowd {
                problems.add(OUTSIDE_POLYGON, place);
            }
            Some(Some(extent))
        }
        other => {
            let sides: Option<Vec<usize>> = other["size"].as_array().and_then(|s| s.iter().map(|v| Some(v.as_u64()? as usize)).collect());
            let own = sides.and_then(|sides| <[usize; 2]>::try_from(sides).ok());
            let rle = own.and_then(|own| match &other["counts"] {
                Value::String(text) => Rle::from_compressed(text, own).ok(),
                Value::Array(counts) => {
                    let counts = counts.iter().map(|count| u32::try_from(count.as_u64()?).ok()).collect::<Option<Vec<u32>>>()?;
                    Some(Rle { size: own, counts })
                }
                _ => None,
            });
            match rle.filter(|rle| rle.size == size && rle.validate().is_ok()) {
                Some(rle) => {
                    let [x, y, w, h] = rle.bbox();
                    Some((w > 0.0).then_some([x, y, x + w, y + h]))
                }
                None => {
                    problems.add(BAD_RLE, place);
                    Some(None)
                }
            }
        }
    }
}

/// Intersection over union.
fn overlap(a: [f64; 4], b: [f64; 4]) -> f64 {
    let area = |r: [f64; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let inner = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    inner / (area(a) + area(b) - inner).max(1e-9)
}

/// Whether boxes are corners rather than corner and size.
#[derive(Default)]
struct Corners {
    judged: usize,
    examples: Vec<String>,
}

impl Corners {
    fn count(&mut self, bbox: [f64; 4], extent: Option<[f64; 4]>, [width, height]: [f64; 2], place: &str) {
        let [a, b, c, d] = bbox;
        self.judged += 1;
        let as_corners = c > a && d > b && c <= width + 1.0 && d <= height + 1.0;
        let better = match extent {
            Some(extent) => overlap([a, b, c, d], extent) > overlap([a, b, a + c, b + d], extent) + 0.2,
            None => a + c > width + 1.0 || b + d > height + 1.0,
        };
        if as_corners && better {
            self.examples.push(place.to_owned());
        }
    }

    /// A few odd boxes are a few odd boxes; a quarter of them is a misunderstanding.
    fn is_convincing(&self) -> bool {
        !self.examples.is_empty() && self.examples.len() * 4 >= self.judged
    }
}

/// What reading an image file told.
enum FileFacts {
    Missing,
    Unreadable(String),
    /// `[height, width]` and a fingerprint of the pixels.
    Read([usize; 2], u64),
}

/// Reads every image file once.
fn check_files(folder: &Path, images: &BTreeMap<i64, Image>, problems: &mut Problems) {
    let named: Vec<&Image> = images.values().filter(|image| !image.name.is_empty()).collect();
    let read: Vec<FileFacts> = named
        .par_iter()
        .map(|image| {
            let path = folder.join(&image.name);
            if !path.is_file() {
                return FileFacts::Missing;
            }
            match image_io::read_rgb(&path) {
                Err(error) => FileFacts::Unreadable(error.to_string()),
                Ok(picture) => {
                    let (width, height) = picture.dimensions();
                    FileFacts::Read([height as usize, width as usize], fingerprint(width, height, picture.as_raw()))
                }
            }
        })
        .collect();
    let mut contents: BTreeMap<u64, &str> = BTreeMap::new();
    for (image, read) in named.into_iter().zip(read) {
        match read {
            FileFacts::Missing => problems.add(MISSING_FILE, image.name.clone()),
            FileFacts::Unreadable(error) => problems.add(UNREADABLE, error),
            FileFacts::Read(size, content) => {
                if size != image.size && !image.size.contains(&0) {
                    let ([h, w], [height, width]) = (size, image.size);
                    problems.add(FILE_SIZE, format!("{}: {w}x{h}, annotated as {width}x{height}", image.name));
                }
                if let Some(first) = contents.get(&content) {
                    problems.add(SAME_CONTENT, format!("{} and {first}", image.name));
                } else {
                    contents.insert(content, &image.name);
                }
            }
        }
    }
}

/// What concerns the file as a whole.
fn whole(report: &ObjectReport, options: &ObjectCheckOptions, findings: &mut Vec<Finding>) {
    let mut add = |severity, kind, count, message: String, remedy: &str| {
        findings.push(Finding { severity, kind, split: None, count, message, remedy: remedy.to_owned(), examples: Vec::new() });
    };
    let classes = report.categories.len();
    match options.num_classes {
        Some(wanted) if wanted != classes => add(
            Severity::Error,
            FindingKind::NumClassesMismatch,
            1,
            format!("the model has {wanted} classes, the annotations have {classes} categories"),
            "the head must have as many classes as there are categories, the background not counted",
        ),
        _ => (),
    }
    if classes == 0 {
        add(Severity::Error, FindingKind::NoClassList, 1, "there is no category".to_owned(), "list the categories");
    }
    let ids: BTreeSet<i64> = report.categories.iter().map(|category| category.id).collect();
    if let (Some(first), Some(last)) = (ids.first(), ids.last()) {
        let gaps = (last - first + 1) as usize - ids.len();
        if gaps > 0 || *first != 1 {
            add(
                Severity::Info,
                FindingKind::CategoryIdGaps,
                gaps,
                format!(
                    "category ids run from {first} to {last} with {gaps} gaps; class indices are their places in the list, 0 to {}",
                    classes - 1
                ),
                "nothing: results are written with the ids of the file",
            );
        }
    }
    if report.annotations == 0 || report.empty_images == report.images {
        add(Severity::Error, FindingKind::NoObjects, 1, "no image has an object".to_owned(), "check which file this is");
    } else if report.empty_images > 0 {
        let (empty, images) = (report.empty_images, report.images);
        add(
            Severity::Info,
            FindingKind::EmptyImages,
            empty,
            format!("{empty} of {images} images have no object"),
            "training leaves out those without any annotation; evaluation keeps them",
        );
    }
    if report.crowds > 0 {
        add(
            Severity::Info,
            FindingKind::Crowds,
            report.crowds,
            format!("{} annotations are crowds", report.crowds),
            "they are no objects to learn; detections inside them are no mistakes",
        );
    }
}
