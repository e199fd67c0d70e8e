//! COCO annotation files, read leniently so that every problem is found at once, and their image files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;
use serde_json::Value;
use vmamba_types::{Rle, Segmentation};

use super::super::scan::fingerprint;
use super::super::{CheckError, TINY};
use super::rules::{
    BAD_BOX, BAD_POLYGON, BAD_RLE, DUPLICATE_ID, FILE_SIZE, MISSING_FIELD, MISSING_FILE, OUTSIDE_POLYGON, Problems, SAME_CONTENT,
    SAME_NAME, SIZE_ZERO, TINY_IMAGE, UNKNOWN_CATEGORY, UNKNOWN_IMAGE, UNREADABLE,
};
use super::scan::{Extent, Object, Scan};
use super::{CategoryCount, ObjectCheckOptions, ObjectReport, report};
use crate::image_io;

/// Checks an annotation file and its images in `folder`.
///
/// # Errors
/// When the file cannot be read, is not valid JSON, or lacks one of COCO's lists. Every other problem is a finding.
pub fn check_coco(file: &Path, folder: &Path, options: &ObjectCheckOptions) -> Result<ObjectReport, CheckError> {
    let text = std::fs::read(file).map_err(|reason| CheckError::Io { path: file.to_owned(), reason })?;
    let document: Value = serde_json::from_slice(&text)
        .map_err(|error| CheckError::NotCoco { path: file.to_owned(), message: format!("the file is not valid JSON: {error}") })?;
    let list = |name: &str| {
        let message = || format!("the list `{name}` is missing; COCO annotations have the lists `images`, `annotations` and `categories`");
        document[name].as_array().ok_or_else(|| CheckError::NotCoco { path: file.to_owned(), message: message() })
    };
    let mut scan = Scan::default();
    let mut categories = read_categories(list("categories")?, &mut scan.problems);
    let mut images = read_images(list("images")?, &mut scan.problems);
    let annotations = list("annotations")?;
    let mut seen: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for (index, annotation) in annotations.iter().enumerate() {
        let id = annotation["id"].as_i64();
        let place = id.map_or_else(|| format!("annotations[{index}]"), |id| format!("annotation {id}"));
        match id {
            Some(id) if !ids.insert(id) => scan.problems.add(DUPLICATE_ID, place.clone()),
            None => scan.problems.add(MISSING_FIELD, format!("{place}: id")),
            Some(_) => (),
        }
        let category = annotation["category_id"].as_i64();
        match category {
            None => scan.problems.add(MISSING_FIELD, format!("{place}: category_id")),
            Some(id) => match categories.get_mut(&id) {
                None => scan.problems.add(UNKNOWN_CATEGORY, format!("{place}: category {id}")),
                Some(count) => count.annotations += 1,
            },
        }
        let Some(image_id) = annotation["image_id"].as_i64() else {
            scan.problems.add(MISSING_FIELD, format!("{place}: image_id"));
            continue;
        };
        let Some(image) = images.get_mut(&image_id) else {
            scan.problems.add(UNKNOWN_IMAGE, format!("{place}: image {image_id}"));
            continue;
        };
        if let Some(id) = category {
            seen.entry(id).or_default().insert(image_id);
        }
        read_object(annotation, &place, image, &mut scan);
    }
    for (id, count) in &mut categories {
        count.images = seen.get(id).map_or(0, BTreeSet::len);
    }
    check_files(folder, &images, &mut scan.problems);
    let categories = list("categories")?.iter().filter_map(|c| categories.get(&c["id"].as_i64()?).cloned()).collect();
    let objects = images.values().map(|image| image.objects).collect();
    Ok(report(Some(file), scan, categories, objects, annotations.len(), options))
}

/// An image of the file.
struct Image {
    name: String,
    size: [usize; 2],
    objects: usize,
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

/// Reads the box and the mask of an annotation.
fn read_object(annotation: &Value, place: &str, image: &mut Image, scan: &mut Scan) {
    let crowd = annotation["iscrowd"].as_bool().unwrap_or_else(|| annotation["iscrowd"].as_f64().unwrap_or(0.0) != 0.0);
    scan.crowds += usize::from(crowd);
    image.objects += usize::from(!crowd);
    let extent = mask_extent(&annotation["segmentation"], image.size, place, crowd, &mut scan.problems);
    scan.without_mask += usize::from(extent == Extent::NoMask);
    let Some(bbox) = read_box(&annotation["bbox"]) else {
        scan.problems.add(BAD_BOX, place);
        return;
    };
    let area = annotation["area"].as_f64().unwrap_or(bbox[2] * bbox[3]);
    scan.add(&Object { place, bbox, extent, crowd, area, size: image.size });
}

fn read_box(value: &Value) -> Option<[f64; 4]> {
    let numbers: Vec<f64> = value.as_array()?.iter().map(Value::as_f64).collect::<Option<_>>()?;
    <[f64; 4]>::try_from(numbers).ok().filter(|bbox| bbox.iter().all(|side| side.is_finite()))
}

/// The extent of `segmentation` on an image of `size` = `[height, width]`.
fn mask_extent(value: &Value, size: [usize; 2], place: &str, crowd: bool, problems: &mut Problems) -> Extent {
    match value {
        Value::Null => Extent::NoMask,
        Value::Array(polygons) if polygons.is_empty() => Extent::NoMask,
        Value::Array(polygons) => polygon_extent(polygons, size, place, crowd, problems),
        runs => match read_rle(runs).filter(|rle| rle.size == size && rle.validate().is_ok()) {
            Some(rle) => {
                let [x, y, w, h] = rle.bbox();
                if w > 0.0 { Extent::Box([x, y, x + w, y + h]) } else { Extent::Unknown }
            }
            None => {
                problems.add(BAD_RLE, place);
                Extent::Unknown
            }
        },
    }
}

fn polygon_extent(polygons: &[Value], size: [usize; 2], place: &str, crowd: bool, problems: &mut Problems) -> Extent {
    let read = |polygon: &Value| polygon.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
    let Some(polygons) = polygons.iter().map(read).collect::<Option<Vec<_>>>() else {
        problems.add(BAD_POLYGON, place);
        return Extent::Unknown;
    };
    let segmentation = Segmentation::Polygons(polygons);
    if let Err(error) = segmentation.validate(size) {
        problems.add(BAD_POLYGON, format!("{place}: {error}"));
        return Extent::Unknown;
    }
    let Segmentation::Polygons(polygons) = segmentation else { return Extent::Unknown };
    let points = polygons.iter().flat_map(|polygon| polygon.as_chunks::<2>().0);
    let extent = points.fold([f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY], |e, p| {
        [e[0].min(p[0]), e[1].min(p[1]), e[2].max(p[0]), e[3].max(p[1])]
    });
    let [height, width] = size.map(|side| side as f64);
    if (extent[0] > width || extent[1] > height || extent[2] < 0.0 || extent[3] < 0.0) && !crowd {
        problems.add(OUTSIDE_POLYGON, place);
    }
    Extent::Box(extent)
}

fn read_rle(value: &Value) -> Option<Rle> {
    let sides: Vec<usize> = value["size"].as_array()?.iter().map(|side| Some(side.as_u64()? as usize)).collect::<Option<_>>()?;
    let size = <[usize; 2]>::try_from(sides).ok()?;
    match &value["counts"] {
        Value::String(text) => Rle::from_compressed(text, size).ok(),
        Value::Array(counts) => {
            let counts = counts.iter().map(|count| u32::try_from(count.as_u64()?).ok()).collect::<Option<Vec<u32>>>()?;
            Some(Rle { size, counts })
        }
        _ => None,
    }
}

/// The outcome of reading an image file.
enum FileFacts {
    Missing,
    Unreadable(String),
    /// `[height, width]` and the fingerprint of the pixels.
    Read([usize; 2], u64),
}

/// Reads every image file once, in parallel.
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
